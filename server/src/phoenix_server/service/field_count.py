"""Count the fields of a serialized message before it is parsed.

A parsed message may take far more memory and time than its bytes: two bytes are enough for an empty
entry of a repeated field. Numbers are packed, so that a request within all limits has few fields:
most of them are the labels of filters.
"""

from typing import Any

from phoenix_retrieval.v1.corpus_service_pb2 import StreamUpsertPostsRequest, UpsertPostsRequest
from phoenix_retrieval.v1.retrieval_service_pb2 import Filter, RetrieveRequest
from phoenix_retrieval.v1.user_pb2 import User
from phoenix_server.config import Limits
from phoenix_server.errors import InvalidRequestError, Violation
from phoenix_server.search.eligibility import MAX_LABELS_PER_KIND

_OF_A_QUERY = (RetrieveRequest.DESCRIPTOR, Filter.DESCRIPTOR, User.DESCRIPTOR)
_OF_A_CHANGE = (StreamUpsertPostsRequest.DESCRIPTOR, UpsertPostsRequest.DESCRIPTOR)
_MIN_FIELDS = 1 << 15  # cheap enough whatever the limits are
_VARINT, _BYTES = 0, 2  # types on the wire
_SIZES = {1: 8, 5: 4}


def max_fields(limits: Limits, max_labels: int) -> int:
    """Return the fields of the largest requests that are within all limits.

    Args:
        limits: The largest requests that are accepted.
        max_labels: Maximum distinct labels in the corpus.
    """
    # Each field of a type once, and further entries of lists of labels.
    query = sum(len(kind.fields) for kind in _OF_A_QUERY) + 3 * (MAX_LABELS_PER_KIND - 1)
    change = sum(len(kind.fields) for kind in _OF_A_CHANGE) + max_labels - 1
    return max(limits.max_batch_users * (1 + query), change, _MIN_FIELDS)


def check_field_count(content: bytes, kind: Any, most: int) -> None:
    """Check that a message, and those in it, have at most `most` fields together.

    What is not a message passes: its parser says so.

    Args:
        content: The serialized message.
        kind: Its type.
        most: Maximum number of fields; each entry of a repeated field that is not packed is one.

    Raises:
        InvalidRequestError: There are more.
    """
    left = most
    ranges = [(0, len(content), kind)]
    while ranges:
        at, end, kind = ranges.pop()
        messages = {field.number: field.message_type for field in kind.fields}
        while at < end:
            left -= 1
            if left < 0:
                what = f"has more than {most} fields, the maximum; packed numbers are one field"
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
