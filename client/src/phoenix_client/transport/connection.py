"""The base of the sync client: opening and closing, unary and stream calls, health checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from threading import Semaphore
from typing import Any, Self, TypeVar

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest

from phoenix_client.transport import health
from phoenix_client.transport.base_connection import BaseConnection
from phoenix_client.wire.call import Call
from phoenix_client.wire.statuses import client_errors

_MAX_QUEUED = 2  # requests of a stream that are built before gRPC takes them

_Request = TypeVar("_Request")
_Result = TypeVar("_Result")


class Connection(BaseConnection[grpc.Channel]):
    """A sync channel and its calls. `PhoenixClient` adds a method for each RPC."""

    _grpc = grpc

    def close(self) -> None:
        """Close the connection and cancel its calls. A channel that was given stays open."""
        if self._owns_channel:
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def is_serving(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """Ask the standard health check whether the server, or one service of it, is serving.

        Returns:
            Whether the status is SERVING; False too if the server cannot be reached in time.

        Raises:
            NotFoundError: The server has no such service.
            PhoenixClientError: The call failed in another way.
        """
        try:
            return self._call(health.health_check(service), timeout_s)
        except health.UNREACHABLE:
            return False

    def wait_until_ready(self, service: str = "", *, timeout_s: float | None = None) -> None:
        """Wait until the server can be reached and its health check reports SERVING.

        Raises:
            DeadlineExceededError: It did not report SERVING in time.
            PhoenixClientError: The call failed in another way.
        """
        watch, limit_s = self._rpcs["Watch"], self._limit_s(timeout_s)
        call = watch(HealthCheckRequest(service=service), timeout=limit_s, wait_for_ready=True)
        try:
            with client_errors():
                for reply in call:
                    if health.says_serving(reply):
                        return
        finally:
            call.cancel()
        raise health.never_served()

    def _call(self, call: Call[_Result], timeout_s: float | None) -> _Result:
        with client_errors():
            reply = self._rpcs[call.rpc](call.request, timeout=self._limit_s(timeout_s))
        return call.read(reply)

    def _send(self, rpc: str, requests: Iterable[_Request], timeout_s: float | None) -> Any:
        # gRPC iterates in its own thread. `requests` may only work in this one (rows
        # of a database, lines of standard input), so they are iterated here and handed over.
        queue: SimpleQueue[_Request | None] = SimpleQueue()
        room = Semaphore(_MAX_QUEUED)

        def queued() -> Iterator[_Request]:
            while (request := queue.get()) is not None:
                room.release()
                yield request

        call = self._rpcs[rpc].future(queued(), timeout=self._limit_s(timeout_s))
        call.add_done_callback(lambda _: room.release())
        try:
            for request in requests:
                room.acquire()
                if call.done():
                    break
                queue.put(request)
            queue.put(None)
            with client_errors():
                return call.result()
        finally:
            call.cancel()
            queue.put(None)
