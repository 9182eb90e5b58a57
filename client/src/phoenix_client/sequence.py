"""Reads a user's history from a file in the format of the published `example_sequence.json`.

    {"user_id": 1, "history": [{"post_id": 2, "author_id": 3, "actions": {"1": 1.0}}, ...]}

History runs oldest first. An entry may name a `product_surface`; 0 if it does not. Ids are numbers
or, for tools that hold no 64-bit integers, strings of their digits. An action counts if its value
is 1 and does not if it is 0; the contract carries no others. Keys unknown here are left alone.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import cast

from phoenix_client.errors import SequenceError
from phoenix_client.users import MAX_ACTION, Engagement, History, User

_DIGITS = re.compile(r"0|[1-9][0-9]{0,19}")
_LONGEST_SHOWN = 40  # characters of a value in an error


def load_sequence(path: str | Path) -> User:
    """Read a file.

    Raises:
        SequenceError: It cannot be read, or does not hold a user's history.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise SequenceError(str(path), "", error.strerror or str(error)) from error
    return parse_sequence(text, name=str(path))


def parse_sequence(text: str | bytes, *, name: str = "<string>") -> User:
    """Read the text of a file; errors call it `name`.

    Raises:
        SequenceError: The text does not hold a user's history.
    """
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SequenceError(name, "", f"is not JSON: {error}") from error
    return _Reader(name).user(document)


class _Reader:
    """Turns parsed JSON into a user. A location is the path of a value in the file."""

    def __init__(self, name: str) -> None:
        self._name = name

    def user(self, value: object) -> User:
        document = self._object(value, "")
        history = self._member(document, "history", "")
        if not isinstance(history, list):
            raise self._error("history", "must be an array", history)
        return User(
            user_id=self._uint(self._member(document, "user_id", ""), "user_id", 64),
            history=History.from_engagements(
                self._engagement(entry, f"history[{index}]")
                for index, entry in enumerate(cast("list[object]", history))
            ),
        )

    def _engagement(self, value: object, location: str) -> Engagement:
        entry = self._object(value, location)
        at = f"{location}."
        return Engagement(
            post_id=self._uint(self._member(entry, "post_id", at), f"{at}post_id", 64),
            author_id=self._uint(self._member(entry, "author_id", at), f"{at}author_id", 64),
            actions=self._actions(self._member(entry, "actions", at), f"{at}actions"),
            product_surface=self._uint(entry.get("product_surface", 0), f"{at}product_surface", 32),
        )

    def _actions(self, value: object, location: str) -> frozenset[int]:
        strengths: dict[int, object] = {}
        for key, strength in self._object(value, location).items():
            at = f"{location}[{json.dumps(key)}]"
            if not _DIGITS.fullmatch(key) or int(key) > MAX_ACTION:
                raise SequenceError(self._name, at, f"must be named by a number up to {MAX_ACTION}")
            if isinstance(strength, bool) or strength not in (0, 1):
                raise self._error(at, "must be 0 or 1", strength)
            strengths[int(key)] = strength
        return frozenset(action for action, strength in strengths.items() if strength)

    def _uint(self, value: object, location: str, bits: int) -> int:
        number = int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**bits:
            raise self._error(location, f"must be an integer from 0 to 2^{bits} - 1", value)
        return number

    def _object(self, value: object, location: str) -> dict[str, object]:
        if not isinstance(value, dict):
            raise self._error(location, "must be an object", value)
        return cast("dict[str, object]", value)

    def _member(self, value: dict[str, object], key: str, at: str) -> object:
        if key not in value:
            raise SequenceError(self._name, f"{at}{key}", "is missing")
        return value[key]

    def _error(self, location: str, rule: str, value: object) -> SequenceError:
        match value:
            case dict():
                shown = "an object"
            case list():
                shown = "an array"
            case _:
                shown = json.dumps(value)
        if len(shown) > _LONGEST_SHOWN:
            shown = f"{shown[:_LONGEST_SHOWN]}..."
        return SequenceError(self._name, location, f"{rule}, is {shown}")
