"""The calls in flight: how many there may be, how they receive requests, and their end."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, NoReturn

import grpc

from phoenix_server.config import CallLimits
from phoenix_server.errors import (
    DeadlineExceededError,
    NotReadyError,
    OverloadedError,
    PhoenixServerError,
)
from phoenix_server.service.request_bytes import Call, RequestBytes

_RETRY_S = 0.1


class CallsInFlight:
    """Counts calls and bytes, refuses more than the limits, and ends all of them at shutdown.

    For the event loop.
    """

    def __init__(self, limits: CallLimits, max_request_bytes: int) -> None:
        """Begin without calls.

        Args:
            limits: What may be in flight.
            max_request_bytes: Maximum size of a request in bytes.
        """
        self._limits = limits
        self._calls = _Counted("calls", limits.max_calls, limits.max_calls_per_connection)
        self._streams = _Counted("streams", limits.max_streams)
        # Each takes the bytes of the largest request, and all together half of those there may be.
        most = max(1, limits.max_bytes_in_flight // 2 // max_request_bytes)
        self._uploads = _Counted("streams of requests", min(most, limits.max_streams))
        self._bytes = RequestBytes(limits.max_bytes_in_flight, max_request_bytes)
        self._waiting: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False

    def __len__(self) -> int:
        return self._calls.total

    @contextmanager
    def begin(
        self, peer: str, *, streams: bool = False, uploads: bool = False
    ) -> Generator[Call, None, None]:
        """Count a call until the block ends.

        Args:
            peer: Address of its connection. Empty if it has none of its own: no limit by
                connection applies.
            streams: Whether it may have many requests or replies.
            uploads: Whether it may have many requests.

        Raises:
            NotReadyError: The server is shutting down.
            OverloadedError: Too many calls are in flight.
        """
        self.check_serving()
        counted = [self._calls]
        if streams:
            counted.append(self._streams)
        if uploads:
            counted.append(self._uploads)
        for counts in counted:
            counts.check(peer)
        call = Call(peer, uploads)
        for counts in counted:
            counts.add(peer, 1)
        self._idle.clear()
        try:
            yield call
        finally:
            self._bytes.release(call)
            for counts in counted:
                counts.add(peer, -1)
            if not len(self):
                self._idle.set()

    def check_serving(self) -> None:
        """Check that calls may begin.

        Raises:
            NotReadyError: The server is shutting down.
        """
        if self._stopping:
            raise NotReadyError("the server is shutting down")

    async def receive(
        self, call: Call, read: Callable[[], Awaitable[Any]], timeout_s: float | None
    ) -> bytes | None:
        """Return the next request of a call, as bytes. None: there is none.

        Args:
            call: The call.
            read: Waits for its next request, and returns it, or `grpc.aio.EOF` after the last.
            timeout_s: Seconds to wait for its turn, and then for the request. None: for ever.

        Raises:
            DeadlineExceededError: It does not arrive in time.
            NotReadyError: The server is shutting down.
            OverloadedError: Too many bytes are in flight, or have been arriving all the time.
        """
        if not call.reserved and not self._bytes.try_reserve(call):
            what = f"the requests in flight have left no room for {timeout_s} s"
            async with self.interruptible(timeout_s, OverloadedError(what, retry_after_s=_RETRY_S)):
                await self._bytes.reserve(call)
        self.check_serving()
        limit = asyncio.timeout(timeout_s)
        try:  # as `interruptible`, which takes longer
            async with limit:
                self._waiting.add(limit)
                request = await read()
        except TimeoutError:
            self._raise_late(timeout_s)
        finally:
            self._waiting.discard(limit)
        if request is grpc.aio.EOF:
            return None
        self._bytes.hold(call, len(request))
        return request

    @asynccontextmanager
    async def interruptible(
        self, timeout_s: float | None, late: PhoenixServerError | None = None
    ) -> AsyncGenerator[None, None]:
        """Let shutdown interrupt the block, in which a call waits for clients.

        Args:
            timeout_s: Seconds that the block may take. None: for ever.
            late: Raised if it takes longer. Default: DeadlineExceededError.

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
            self._raise_late(timeout_s, late)

    def _raise_late(
        self, timeout_s: float | None, late: PhoenixServerError | None = None
    ) -> NoReturn:
        """Raise an error after a timeout, which shutdown may have caused."""
        self.check_serving()
        what = f"the request has not arrived within {timeout_s:g} s"
        raise late or DeadlineExceededError(what) from None

    async def stop(self, grace_s: float) -> int:
        """Refuse new calls and requests, and wait up to `grace_s` seconds for those in flight.

        Returns:
            The number of calls that did not finish.
        """
        self._stopping = True
        now_s = asyncio.get_running_loop().time()
        for limit in self._waiting:
            if not limit.expired():  # then its block is about to end
                limit.reschedule(now_s)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace_s)
        return len(self)


class _Counted:
    """Calls of a kind, in all and by connection."""

    def __init__(self, what: str, most: int, most_of_one: int | None = None) -> None:
        """Begin without calls.

        Args:
            what: What they are, as a plural.
            most: Maximum of all.
            most_of_one: Maximum of one connection. Default: half of all, at least 1.
        """
        self.total = 0
        self._what = what
        self._most = most
        self._most_of_one = max(1, most // 2) if most_of_one is None else most_of_one
        self._by_peer = Counter[str]()

    def check(self, peer: str) -> None:
        """Check that one more may begin.

        Raises:
            OverloadedError: There are as many as there may be.
        """
        if self.total >= self._most:
            what = f"{self.total} {self._what} are in flight"
            raise OverloadedError(what, retry_after_s=_RETRY_S)
        if peer and self._by_peer[peer] >= self._most_of_one:
            what = f"{self._by_peer[peer]} {self._what} of this connection are in flight"
            raise OverloadedError(what, retry_after_s=_RETRY_S)

    def add(self, peer: str, number: int) -> None:
        """Count more calls, or fewer if the number is negative."""
        self.total += number
        self._by_peer[peer] += number
        if not self._by_peer[peer]:
            del self._by_peer[peer]
