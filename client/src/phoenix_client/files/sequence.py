"""Reads a user's history from a file in the format of the published `example_sequence.json`.

    {"user_id": 1, "history": [{"post_id": 2, "author_id": 3, "actions": {"1": 1.0}}, ...]}

History runs oldest first. An entry may name a `product_surface`; 0 if it does not. Ids are numbers
or, for tools that hold no 64-bit integers, strings of their digits. An action counts if its value
is 1 and does not if it is 0; the contract carries no others. Keys unknown here are left alone.

A file of many users is an array of such objects.
"""

from __future__ import annotations

import json
from pathlib import Path

from phoenix_client.errors import SequenceError
from phoenix_client.files.json_reader import JsonReader, is_decimal
from phoenix_client.types.users import MAX_ACTION, Engagement, History, User


def load_sequence(path: str | Path) -> User:
    """Read a file.

    Raises:
        SequenceError: It cannot be read, or does not hold a user's history.
    """
    return parse_sequence(_read(path), name=str(path))


def parse_sequence(text: str | bytes, *, name: str = "<string>") -> User:
    """Read the text of a file; errors call it `name`.

    Raises:
        SequenceError: The text does not hold a user's history.
    """
    reader = _Reader(name)
    return reader.user(reader.parse(text, ""))


def load_sequences(path: str | Path) -> list[User]:
    """Read a file of many users: an array of what `load_sequence` reads.

    Raises:
        SequenceError: It cannot be read, holds no users, or one of them is at fault.
    """
    reader = _Reader(str(path))
    return reader.users(reader.parse(_read(path), ""))


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SequenceError(str(path), "", error.strerror or str(error)) from error


class _Reader(JsonReader):
    """Turns parsed JSON into a user. A location is the path of a value in the file."""

    error_class = SequenceError

    def users(self, value: object) -> list[User]:
        documents = self.array(value, "")
        if not documents:
            raise self.fault("", "holds no users")
        return [self.user(document, f"[{index}]") for index, document in enumerate(documents)]

    def user(self, value: object, location: str = "") -> User:
        document = self.object(value, location)
        at = f"{location}." if location else ""
        history = self.array(self.member(document, "history", at), f"{at}history")
        return User(
            user_id=self.uint(self.member(document, "user_id", at), f"{at}user_id", 64),
            history=History.from_engagements(
                self._engagement(entry, f"{at}history[{index}]")
                for index, entry in enumerate(history)
            ),
        )

    def _engagement(self, value: object, location: str) -> Engagement:
        entry = self.object(value, location)
        at = f"{location}."
        return Engagement(
            post_id=self.uint(self.member(entry, "post_id", at), f"{at}post_id", 64),
            author_id=self.uint(self.member(entry, "author_id", at), f"{at}author_id", 64),
            actions=self._actions(self.member(entry, "actions", at), f"{at}actions"),
            product_surface=self.uint(entry.get("product_surface", 0), f"{at}product_surface", 32),
        )

    def _actions(self, value: object, location: str) -> frozenset[int]:
        strengths: dict[int, object] = {}
        for key, strength in self.object(value, location).items():
            at = f"{location}[{json.dumps(key)}]"
            if not is_decimal(key) or int(key) > MAX_ACTION:
                raise self.fault(at, f"must be named by a number up to {MAX_ACTION}")
            if isinstance(strength, bool) or strength not in (0, 1):
                raise self.misfit(at, "must be 0 or 1", strength)
            strengths[int(key)] = strength
        return frozenset(action for action, strength in strengths.items() if strength)
