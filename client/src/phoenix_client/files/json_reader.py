"""Takes JSON from a file apart; what is wrong is named with its place.

Ids are numbers or, for tools that hold no 64-bit integers, strings of their digits.
"""

from __future__ import annotations

import json
import re
from typing import ClassVar, cast

from phoenix_client.errors import FileError

_DIGITS = re.compile(r"0|[1-9][0-9]{0,19}")
_LONGEST_SHOWN = 40  # characters of a value in an error


def is_decimal(text: str) -> bool:
    """Return whether `text` is a number of at most 20 digits, as JSON would write it."""
    return _DIGITS.fullmatch(text) is not None


class JsonReader:
    """Turns parsed JSON into values. A location is the place of one in the file."""

    error_class: ClassVar[type[FileError]] = FileError

    def __init__(self, name: str) -> None:
        self._name = name

    def parse(self, text: str | bytes, location: str) -> object:
        """Parse a document.

        Raises:
            FileError: It is not JSON.
        """
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.error_class(self._name, location, f"is not JSON: {error}") from error

    def uint(self, value: object, location: str, bits: int, *, least: int = 0) -> int:
        """Return an unsigned integer.

        Raises:
            FileError: It is none of so many bits, or is below `least`.
        """
        number = int(value) if isinstance(value, str) and is_decimal(value) else value
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number < 2**bits:
            rule = f"must be an integer from {least} to 2^{bits} - 1"
            raise self.misfit(location, rule, value)
        return number

    def object(self, value: object, location: str) -> dict[str, object]:
        """Return an object.

        Raises:
            FileError: It is something else.
        """
        if not isinstance(value, dict):
            raise self.misfit(location, "must be an object", value)
        return cast("dict[str, object]", value)

    def array(self, value: object, location: str) -> list[object]:
        """Return an array.

        Raises:
            FileError: It is something else.
        """
        if not isinstance(value, list):
            raise self.misfit(location, "must be an array", value)
        return cast("list[object]", value)

    def member(self, value: dict[str, object], key: str, at: str) -> object:
        """Return a member of an object whose members' locations begin with `at`.

        Raises:
            FileError: The object has no such member.
        """
        if key not in value:
            raise self.fault(f"{at}{key}", "is missing")
        return value[key]

    def fault(self, location: str, problem: str) -> FileError:
        """Return the exception for a problem."""
        return self.error_class(self._name, location, problem)

    def misfit(self, location: str, rule: str, value: object) -> FileError:
        """Return the exception for a value that breaks a rule."""
        match value:
            case dict():
                shown = "an object"
            case list():
                shown = "an array"
            case _:
                shown = json.dumps(value)
        if len(shown) > _LONGEST_SHOWN:
            shown = f"{shown[:_LONGEST_SHOWN]}..."
        return self.fault(location, f"{rule}, is {shown}")
