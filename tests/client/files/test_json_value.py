"""Values of a JSON file: what they return, and how errors name their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from phoenix_client.errors import FileError
from phoenix_client.files.json_value import JsonValue, is_decimal


def _parse(text: str, line: str = "") -> JsonValue:
    return JsonValue.parse(text, FileError, "posts.json", line)


def test_every_value_knows_its_place() -> None:
    document = _parse('{"history": [{"actions": {"a\\"b": true}}]}', "line 3")
    actions = document.member("history").elements()[0].member("actions")
    ((key, value),) = actions.items()
    assert (key, value.value) == ('a"b', True)
    assert value.path == 'history[0].actions["a\\"b"]'
    error = value.error("must be a number")
    assert str(error) == f"posts.json: line 3: {value.path}: must be a number"


def test_a_missing_member_has_its_default_or_is_an_error() -> None:
    document = _parse('{"labels": null}')
    assert document.member("labels").value is None
    assert document.member("author_id", 5).value == 5
    with pytest.raises(FileError, match=r"^posts\.json: post_id: is missing$"):
        document.member("post_id")


@pytest.mark.parametrize(
    ("text", "value"), [("7", 7), ('"7"', 7), ('"18446744073709551615"', 2**64 - 1), ("0", 0)]
)
def test_integers_are_numbers_or_their_digits(text: str, value: int) -> None:
    assert _parse(text).uint() == value


@pytest.mark.parametrize(
    "text",
    ["-1", "18446744073709551616", "1.0", "true", "null", '"07"', '"+7"', '" 7"', '"\u0667"'],
)
def test_what_is_not_an_unsigned_integer_is_refused(text: str) -> None:
    with pytest.raises(FileError, match=r"must be an integer from 0 to 2\^64 - 1, is "):
        _parse(text).uint()


def test_an_integer_may_have_a_smaller_range() -> None:
    assert _parse("1").uint(32, minimum=1) == 1
    for text in ("0", "4294967296"):
        with pytest.raises(FileError, match=r"must be an integer from 1 to 2\^32 - 1"):
            _parse(text).uint(32, minimum=1)


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (JsonValue.array, '{"a": 1}', "must be an array, is an object"),
        (JsonValue.elements, "5", "must be an array, is 5"),
        (JsonValue.text, "[1]", "must be a string, is an array"),
        (JsonValue.items, '"x"', 'must be an object, is "x"'),
        (JsonValue.items, f'"{"x" * 99}"', 'must be an object, is "' + "x" * 39 + "...$"),
    ],
)
def test_a_value_of_another_kind_is_shown(
    read: Callable[[JsonValue], Any], text: str, message: str
) -> None:
    with pytest.raises(FileError, match=message):
        read(_parse(text))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_what_is_not_json_is_an_error(text: str) -> None:
    with pytest.raises(FileError, match=r"posts\.json: line 1: is not JSON: "):
        _parse(text, "line 1")


def test_decimal_numbers_are_as_json_writes_them() -> None:
    assert all(map(is_decimal, ("0", "7", "18446744073709551615")))
    assert not any(map(is_decimal, ("", "00", "-1", "1e3", "\u0667", "1" * 21)))
