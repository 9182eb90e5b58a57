"""The bytes of requests in flight: how many there may be, and which calls may receive theirs.

gRPC collects a message until it is complete, and does not say how much of it is there. So a call
reserves the size of the largest request before it reads, and keeps what its request really has.
Until a call reads, gRPC accepts at most 64 KiB of its request (`listener.py`).
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from phoenix_server.errors import OverloadedError

_RETRY_S = 0.1


@dataclass
class Call:
    """A call that has begun.

    Attributes:
        peer: Address of its connection. Empty if it has none of its own.
        uploads: Whether it may have many requests. It keeps its reservation until it ends.
        reserved: Whether it has a reservation.
        size: Bytes of its request that has arrived.
    """

    peer: str
    uploads: bool = False
    reserved: bool = False
    size: int = 0


@dataclass
class _Usage:
    """What calls use.

    Attributes:
        held: Bytes of requests that have arrived.
        arriving: Number of calls with a reservation, without those that upload.
        uploads: Number of calls with a reservation that upload.
    """

    held: int = 0
    arriving: int = 0
    uploads: int = 0

    def add(self, held: int, arriving: int, uploads: int) -> None:
        """Count more of each, or fewer."""
        self.held += held
        self.arriving += arriving
        self.uploads += uploads


class RequestBytes:
    """Counts bytes and reservations. Calls that wait have their turn by connection.

    For the event loop.
    """

    def __init__(self, most: int, largest: int) -> None:
        """Begin without requests.

        Args:
            most: Maximum bytes of all requests, half of them from one connection.
            largest: Maximum bytes of a request.
        """
        self._most = most
        self._largest = largest
        self._all = _Usage()
        self._used: dict[str, _Usage] = {}  # by peer
        # By peer, that of the next turn first; its calls in the order in which they came.
        self._waiting: OrderedDict[str, dict[asyncio.Future[None], Call]] = OrderedDict()

    def try_reserve(self, call: Call) -> bool:
        """Make the reservation of a call, and return True, if there is room now.

        Raises:
            OverloadedError: The requests that have arrived leave no room.
        """
        if self._all.held + self._largest > self._most:
            what = f"the requests in flight have {self._all.held} bytes"
            raise OverloadedError(what, retry_after_s=_RETRY_S)
        if not self._has_room(call.peer):
            return False
        self._set(call, reserved=True)
        return True

    async def reserve(self, call: Call) -> None:
        """Make the reservation of a call, when it is its turn; after `try_reserve`."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(call.peer, {})[turn] = call
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():  # otherwise the call has had its turn just before
                self._forget(call.peer, turn)
            raise

    def hold(self, call: Call, size: int) -> None:
        """Count a request that has arrived, in place of its reservation.

        Args:
            call: The call, with a reservation.
            size: Bytes of the request.

        Raises:
            OverloadedError: They are too many with those of its connection.
        """
        if call.uploads:
            return
        if call.peer and (held := self._used[call.peer].held) + size > self._most // 2:
            what = f"the requests in flight of this connection have {held} bytes"
            raise OverloadedError(what, retry_after_s=_RETRY_S)
        self._set(call, reserved=False, size=size)
        self._give_turns()

    def release(self, call: Call) -> None:
        """Count nothing of a call any more."""
        self._set(call, reserved=False)
        self._give_turns()

    def _has_room(self, peer: str) -> bool:
        """Return whether a call of a connection may make a reservation.

        A connection may always receive one request, however many it has in flight.
        """
        if self._reservable(self._all) > self._most:
            return False
        used = self._used.get(peer)
        return not used or not used.arriving or self._reservable(used) <= self._most // 2

    def _reservable(self, used: _Usage) -> int:
        """Return the bytes of calls, with one more reservation."""
        return used.held + (used.arriving + used.uploads + 1) * self._largest

    def _set(self, call: Call, *, reserved: bool, size: int = 0) -> None:
        """Change what a call has, and the counts with it."""
        reservations = reserved - call.reserved
        arriving, uploads = (0, reservations) if call.uploads else (reservations, 0)
        held = size - call.size
        call.reserved, call.size = reserved, size
        self._all.add(held, arriving, uploads)
        if not call.peer:
            return
        used = self._used.setdefault(call.peer, _Usage())
        used.add(held, arriving, uploads)
        if not (used.held or used.arriving or used.uploads):
            del self._used[call.peer]

    def _give_turns(self) -> None:
        """Make the reservations of calls that wait, as far as there is room."""
        while self._waiting and self._reservable(self._all) <= self._most:
            peer = next((peer for peer in self._waiting if self._has_room(peer)), None)
            if peer is None:
                return
            turn, call = next(iter(self._waiting[peer].items()))
            self._waiting.move_to_end(peer)
            self._forget(peer, turn)
            if not turn.cancelled():
                self._set(call, reserved=True)
                turn.set_result(None)

    def _forget(self, peer: str, turn: asyncio.Future[None]) -> None:
        """Take a turn out of those that wait, if it is among them."""
        if peer in self._waiting:
            self._waiting[peer].pop(turn, None)
            if not self._waiting[peer]:
                del self._waiting[peer]
