"""Read users' histories from files in the format of the published `example_sequence.json`.

    {"user_id": 1, "history": [{"post_id": 2, "author_id": 3, "actions": {"1": 1.0}}, ...]}

The history is ordered oldest first. An entry may have a `product_surface`; the default is 0. Ids
are numbers or, for tools without 64-bit integers, strings of their digits. The value of an action
is 1 if the user did it and 0 if not; the contract has no others. Unknown keys are ignored.

A file of many users is an array of such objects.
"""

from __future__ import annotations

from pathlib import Path

from phoenix_client.errors import SequenceError
from phoenix_client.files.json_value import JsonValue, is_decimal
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
    return _user(JsonValue.parse(text, SequenceError, name))


def load_sequences(path: str | Path) -> list[User]:
    """Read a file of many users: an array of what `load_sequence` reads.

    Raises:
        SequenceError: It cannot be read, holds no users, or one of them has a mistake.
    """
    document = JsonValue.parse(_read(path), SequenceError, str(path))
    users = [_user(each) for each in document.elements()]
    if not users:
        raise document.error("holds no users")
    return users


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SequenceError(str(path), "", error.strerror or str(error)) from error


def _user(document: JsonValue) -> User:
    history = document.member("history").elements()
    return User(
        user_id=document.member("user_id").uint(),
        history=History.from_engagements(map(_engagement, history)),
    )


def _engagement(entry: JsonValue) -> Engagement:
    return Engagement(
        post_id=entry.member("post_id").uint(),
        author_id=entry.member("author_id").uint(),
        actions=_actions(entry.member("actions")),
        product_surface=entry.member("product_surface", 0).uint(32),
    )


def _actions(strengths: JsonValue) -> frozenset[int]:
    actions: set[int] = set()
    for key, strength in strengths.items():
        if not is_decimal(key) or int(key) > MAX_ACTION:
            raise strength.error(f"must be named by a number up to {MAX_ACTION}")
        if isinstance(strength.value, bool) or strength.value not in (0, 1):
            raise strength.misfit("must be 0 or 1")
        if strength.value:
            actions.add(int(key))
    return frozenset(actions)
