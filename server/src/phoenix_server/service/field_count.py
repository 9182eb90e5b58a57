"""Count the fields of a serialized message before it is parsed.

A parsed message may take far more memory and time than its bytes: two bytes are enough for an empty
entry of a repeated field. Numbers are packed, so that honest requests have few fields.
"""

from typing import Any

from phoenix_server.errors import InvalidRequestError, Violation

MAX_FIELDS = 1 << 15
"""Maximum fields of a request: one of 256 users, with filters, has a third of them."""
_VARINT, _BYTES = 0, 2  # types on the wire
_SIZES = {1: 8, 5: 4}


def check_field_count(content: bytes, kind: Any, most: int = MAX_FIELDS) -> None:
    """Check that a message, and those in it, have at most `most` fields together.

    What is not a message passes: its parser says so.

    Args:
        content: The serialized message.
        kind: Its type.
        most: Maximum number of fields; each entry of a repeated field that is not packed is one.

    Raises:
        InvalidRequestError: There are more.
    """
    ranges = [(0, len(content), kind)]
    while ranges:
        at, end, kind = ranges.pop()
        messages = {field.number: field.message_type for field in kind.fields}
        while at < end:
            most -= 1
            if most < 0:
                what = "has too many fields; numbers must be packed"
                raise InvalidRequestError([Violation("request", what)])
            try:
                number, start, at = _skip_field(content, at)
            except IndexError:  # it ends within a number
                return
            if start and (inner := messages.get(number)) is not None:
                ranges.append((start, min(at, end), inner))


def _skip_field(content: bytes, at: int) -> tuple[int, int, int]:
    """Return the number of the field at `at`, where its bytes begin (0: it has none), its end."""
    tag, at = _read_varint(content, at)
    number, wire_type = tag >> 3, tag & 7
    if wire_type == _BYTES:
        length, at = _read_varint(content, at)
        return number, at, at + length
    if wire_type == _VARINT:
        _, at = _read_varint(content, at)
    return number, 0, at + _SIZES.get(wire_type, 0)  # the fields of a group follow


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends."""
    number = shift = 0
    while (byte := content[at]) >= 128 and shift < 63:
        number |= (byte & 127) << shift
        shift += 7
        at += 1
    return number | (byte & 127) << shift, at + 1
