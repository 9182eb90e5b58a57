"""Parsed JSON whose values know where in a file they stand, so that every error names the place.

Ids are numbers or, for tools without 64-bit integers, strings of their digits.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from phoenix_client.errors import FileError

MISSING: Any = object()
_DIGITS = re.compile(r"0|[1-9][0-9]{0,19}")
_NAMES: dict[type, str] = {dict: "an object", list: "an array", str: "a string"}
_MAX_SHOWN = 40  # characters of a value in an error
_MAX_FLOAT32 = (2 - 2**-23) * 2.0**127

ErrorClass: TypeAlias = type[FileError]


def is_decimal(text: str) -> bool:
    """Return whether `text` is a number of at most 20 digits, as JSON would write it."""
    return _DIGITS.fullmatch(text) is not None


@dataclass(frozen=True)
class JsonValue:
    """A value in a JSON file. Its methods raise `error_class` if it is not what they return.

    Attributes:
        value: The value, as `json` parses it.
        error_class: The class of its errors.
        file: Name of the file.
        line: Its line, as in `line 3`; empty if the whole file is one document.
        path: Its path in the document, as in `history[3].post_id`.
    """

    value: Any
    error_class: ErrorClass
    file: str
    line: str = ""
    path: str = ""

    @classmethod
    def parse(
        cls, text: str | bytes, error_class: ErrorClass, file: str, line: str = ""
    ) -> JsonValue:
        """Parse a document."""
        try:
            return cls(json.loads(text), error_class, file, line)
        except (ValueError, RecursionError) as error:
            raise error_class(file, line, f"is not JSON: {error}") from error

    def member(self, key: str, default: object = MISSING) -> JsonValue:
        """Return the member `key` of an object, or `default` in its place if it has none."""
        members = self._typed(dict)
        found = self._at(f".{key}" if self.path else key, members.get(key, default))
        if found.value is MISSING:
            raise found.error("is missing")
        return found

    def items(self) -> list[tuple[str, JsonValue]]:
        """Return the keys and values of an object."""
        return [(k, self._at(f"[{json.dumps(k)}]", v)) for k, v in self._typed(dict).items()]

    def elements(self) -> list[JsonValue]:
        """Return the elements of an array."""
        return [self._at(f"[{index}]", element) for index, element in enumerate(self.array())]

    def array(self) -> list[Any]:
        """Return an array."""
        return self._typed(list)

    def text(self) -> str:
        """Return a string."""
        return self._typed(str)

    def uint(self, bits: int = 64, *, minimum: int = 0) -> int:
        """Return an unsigned integer of so many bits that is at least `minimum`."""
        value = self.value
        number = int(value) if isinstance(value, str) and is_decimal(value) else value
        if type(number) is not int or not minimum <= number < 2**bits:
            raise self.misfit(f"must be an integer from {minimum} to 2^{bits} - 1")
        return number

    def floats(self) -> tuple[float, ...]:
        """Return an array of numbers in float32 that is not empty."""
        values = self.array()
        if not values:
            raise self.error("is empty")
        if not all(map(_is_float32, values)):
            wrong = next(each for each in self.elements() if not _is_float32(each.value))
            raise wrong.misfit("must be a number in float32")
        return tuple(map(float, values))

    def error(self, problem: str) -> FileError:
        """Return the exception for a problem with this value."""
        location = ": ".join(part for part in (self.line, self.path) if part)
        return self.error_class(self.file, location, problem)

    def misfit(self, rule: str) -> FileError:
        """Return the exception for a value that breaks a rule."""
        nested = isinstance(self.value, dict | list)
        shown = _NAMES[type(self.value)] if nested else json.dumps(self.value)
        if len(shown) > _MAX_SHOWN:
            shown = f"{shown[:_MAX_SHOWN]}..."
        return self.error(f"{rule}, is {shown}")

    def _typed(self, kind: type) -> Any:
        if not isinstance(self.value, kind):
            raise self.misfit(f"must be {_NAMES[kind]}")
        return self.value

    def _at(self, step: str, value: object) -> JsonValue:
        return JsonValue(value, self.error_class, self.file, self.line, self.path + step)


def _is_float32(value: object) -> bool:
    return type(value) in (int, float) and abs(cast("float", value)) <= _MAX_FLOAT32
