"""What a client of gRPC sends, as bytes: for requests that no library would send."""

import asyncio
import struct
from collections import Counter
from collections.abc import Iterator, Sequence

_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
_MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE = 3, 4  # settings
_WINDOW = 65_535  # of the connection, and of a stream until the settings say otherwise
_FRAME = 16_384  # bytes
_SILENT_ROUNDS = 50
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
    begin = PREFACE + _headers(1, path, encoding, more)
    if request is None:
        return begin
    return begin + _frame(_DATA, 1, 1, struct.pack(">BI", 0, len(request)) + request)


class SlowSender:
    """Many calls on one connection, each of which sends all but the last byte of its request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sent = Counter[int]()
        """Bytes of each call that the server has let it send."""
        self._reader = reader
        self._writer = writer
        self._settings = _WINDOW
        self._windows = {0: _WINDOW}

    def begin(self, path: bytes, calls: int) -> None:
        """Begin calls, without their requests."""
        self._writer.write(PREFACE)
        for stream in range(1, 2 * calls, 2):
            self._windows[stream] = self._settings
            self._writer.write(_headers(stream, path))

    async def send(self, size: int) -> None:
        """Send requests of a size, until the server takes no more of them."""
        message = struct.pack(">BI", 0, size) + bytes(size)
        silent = 0
        while silent < _SILENT_ROUNDS:
            for stream in self._windows.keys() - {0}:
                at = self.sent[stream]
                room = min(self._windows[0], self._windows[stream], len(message) - 1 - at, _FRAME)
                if room > 0:
                    self._writer.write(_frame(_DATA, 0, stream, message[at : at + room]))
                    self.sent[stream] += room
                    self._windows[0] -= room
                    self._windows[stream] -= room
                    silent = -1
            self._writer.write(_frame(_SETTINGS, 0, 0, b""))
            await self._read_round()
            silent += 1

    async def _read_round(self) -> None:
        """Read until the server has seen the last settings, which it confirms."""
        while True:
            head = await self._reader.readexactly(9)
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
            content = await self._reader.readexactly(int.from_bytes(head[:3]))
            if kind == _WINDOW_UPDATE and stream in self._windows:
                self._windows[stream] += int.from_bytes(content)
            elif kind == _SETTINGS and not flags:
                self._use(dict(struct.iter_unpack(">HI", content)))
                self._writer.write(_frame(_SETTINGS, 1, 0, b""))
            elif kind == _PING and not flags:
                self._writer.write(_frame(_PING, 1, 0, content))
            elif kind == _SETTINGS:
                return

    def _use(self, settings: dict[int, int]) -> None:
        before, self._settings = self._settings, settings.get(_INITIAL_WINDOW_SIZE, self._settings)
        for stream in self._windows.keys() - {0}:
            self._windows[stream] += self._settings - before


def _headers(
    stream: int,
    path: bytes,
    encoding: bytes = b"identity",
    more: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """Return the frame that begins a call."""
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
    return _frame(_HEADERS, 4, stream, block)


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
