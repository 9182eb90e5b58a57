"""What a client of gRPC sends, as bytes: for requests that no library would send."""

import struct
from collections.abc import Iterator, Sequence

_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY = 0, 1, 4, 6, 7
_MAX_CONCURRENT_STREAMS = 3
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""Begins a connection, with empty settings."""


def exchange(
    path: bytes,
    request: bytes | None,
    encoding: bytes = b"identity",
    more: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """Return what a client sends for one call: preface, settings, headers and a message.

    Args:
        path: Name of the method, as /package.Service/Method.
        request: The message. None: the call has begun, and its message does not come.
        encoding: How messages are compressed.
        more: Further headers.
    """
    headers = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"fuzz"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"grpc-encoding", encoding),
        *more,
    ]
    block = b"".join(b"\x00" + _literal(name) + _literal(value) for name, value in headers)
    begin = PREFACE + _frame(_HEADERS, 4, 1, block)
    if request is None:
        return begin
    return begin + _frame(_DATA, 1, 1, struct.pack(">BI", 0, len(request)) + request)


def ping() -> bytes:
    """Return a request for a sign of life."""
    return _frame(_PING, 0, 0, bytes(8))


def pongs(received: bytes) -> int:
    """Return the number of signs of life in what a server has sent."""
    return sum(kind == _PING and flags == 1 for kind, flags, _ in _frames(received))


def is_closing(received: bytes) -> bool:
    """Return whether a server has said that the connection takes no more calls."""
    return any(kind == _GOAWAY for kind, _, _ in _frames(received))


def max_streams(received: bytes) -> int:
    """Return how many calls a connection may have in flight, as the server has said."""
    (content,) = (content for kind, flags, content in _frames(received) if (kind, flags) == (4, 0))
    return dict(struct.iter_unpack(">HI", content))[_MAX_CONCURRENT_STREAMS]


def _frames(received: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, flags and content of each frame."""
    while len(received) >= 9:
        length = int.from_bytes(received[:3])
        yield received[3], received[4], received[9 : 9 + length]
        received = received[9 + length :]


def _literal(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    return b"\x7f" + _varint(len(text) - 127) + text


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 128:
        out.append(number % 128 + 128)
        number //= 128
    out.append(number)
    return bytes(out)
