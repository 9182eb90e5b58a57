"""The calls in flight and the bytes of their requests: what they may be, and their end."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from phoenix_server.config import CallLimits
from phoenix_server.errors import DeadlineExceededError, NotReadyError, OverloadedError

_RETRY_S = 0.1


@dataclass
class Call:
    """A call that has begun.

    Attributes:
        peer: Address of its connection.
        size: Bytes of its last request.
    """

    peer: str
    size: int = 0


class CallsInFlight:
    """Counts calls and bytes, refuses more than the limits, and ends all of them at shutdown.

    For the event loop.
    """

    def __init__(self, limits: CallLimits) -> None:
        """Begin without calls.

        Args:
            limits: What may be in flight.
        """
        self._limits = limits
        self._calls = Counter[str]()  # by peer
        self._total = 0
        self._streams = 0
        self._bytes = Counter[str]()  # by peer
        self._total_bytes = 0
        self._waiting: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False

    def __len__(self) -> int:
        return self._total

    @contextmanager
    def begin(self, peer: str, *, streams: bool = False) -> Generator[Call, None, None]:
        """Count a call until the block ends.

        Args:
            peer: Address of its connection.
            streams: Whether it may have many requests.

        Raises:
            NotReadyError: The server is shutting down.
            OverloadedError: Too many calls are in flight.
        """
        self.check_serving()
        if self._total >= self._limits.max_calls:
            raise OverloadedError(f"{self._total} calls are in flight", retry_after_s=_RETRY_S)
        if self._calls[peer] >= self._limits.max_calls_per_connection:
            what = f"{self._calls[peer]} calls of this connection are in flight"
            raise OverloadedError(what, retry_after_s=_RETRY_S)
        if streams and self._streams >= self._limits.max_streams:
            what = f"{self._streams} streams are in flight"
            raise OverloadedError(what, retry_after_s=_RETRY_S)
        call = Call(peer)
        self._total += 1
        self._calls[peer] += 1
        self._streams += streams
        self._idle.clear()
        try:
            yield call
        finally:
            self._hold(call, 0)
            self._streams -= streams
            _subtract(self._calls, peer, 1)
            self._total -= 1
            if not self._total:
                self._idle.set()

    def check_serving(self) -> None:
        """Check that calls may begin.

        Raises:
            NotReadyError: The server is shutting down.
        """
        if self._stopping:
            raise NotReadyError("the server is shutting down")

    async def receive(
        self, call: Call, requests: AsyncIterator[bytes], timeout_s: float | None
    ) -> bytes | None:
        """Return the next request of a call, as bytes. None: there is none.

        The bytes of the one before count no longer.

        Args:
            call: The call.
            requests: Its requests.
            timeout_s: Seconds to wait for it. None: for ever.

        Raises:
            DeadlineExceededError: It does not arrive in time.
            NotReadyError: The server is shutting down.
            OverloadedError: Too many bytes are in flight.
        """
        self._hold(call, 0)
        async with self.interruptible(timeout_s):
            request = await anext(requests, None)
        if request is not None:
            self._hold(call, len(request))
        return request

    @asynccontextmanager
    async def interruptible(self, timeout_s: float | None) -> AsyncGenerator[None, None]:
        """Let shutdown interrupt the block, in which a call waits for its client.

        Args:
            timeout_s: Seconds that the block may take. None: for ever.

        Raises:
            DeadlineExceededError: It takes longer.
            NotReadyError: The server is shutting down.
        """
        self.check_serving()
        try:
            async with asyncio.timeout(timeout_s) as limit:
                self._waiting.add(limit)
                try:
                    yield
                finally:
                    self._waiting.discard(limit)
        except TimeoutError:
            self.check_serving()
            what = f"the request has not arrived within {timeout_s:g} s"
            raise DeadlineExceededError(what) from None

    async def stop(self, grace_s: float) -> int:
        """Refuse new calls and requests, and wait up to `grace_s` seconds for those in flight.

        Returns:
            The number of calls that did not finish.
        """
        self._stopping = True
        now_s = asyncio.get_running_loop().time()
        for limit in self._waiting:
            limit.reschedule(now_s)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace_s)
        return self._total

    def _hold(self, call: Call, size: int) -> None:
        """Count a call's bytes anew.

        Raises:
            OverloadedError: They are too many with those of other calls.
        """
        more, most = size - call.size, self._limits.max_bytes_in_flight
        if more > 0:
            if self._total_bytes + more > most:
                what = f"the requests in flight have {self._total_bytes} bytes"
                raise OverloadedError(what, retry_after_s=_RETRY_S)
            if self._bytes[call.peer] + more > most // 2:
                what = (
                    f"the requests in flight of this connection have {self._bytes[call.peer]} bytes"
                )
                raise OverloadedError(what, retry_after_s=_RETRY_S)
        self._total_bytes += more
        _subtract(self._bytes, call.peer, -more)
        call.size = size


def _subtract(counts: Counter[str], key: str, number: int) -> None:
    """Subtract from a count, and forget it when it is 0."""
    counts[key] -= number
    if not counts[key]:
        del counts[key]
