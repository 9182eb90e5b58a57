"""gRPC's server: its options, and a guard for the one loop that takes calls.

grpcio decodes the name of an unknown method on the loop that takes all calls, and a name that is
not UTF-8 ends that loop, and with it the server. Here unknown methods are taken on a loop of their
own, which reads no names. Known methods are registered with gRPC, which compares bytes.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
from grpc._cython import cygrpc as _cygrpc
from grpc.aio._server import Server as _AioServer

from phoenix_server.config import CallLimits

cygrpc: Any = _cygrpc  # it has no types
_MAX_PENDING = 1 << 20
_MAX_UNREQUESTED_S = 3600
_STREAMS_PER_CALL = 4
_MAX_IDLE_MS = 600_000
_MIN_PING_MS = 5_000
_UNREAD_BYTES = 65_535
_NO_COMPRESSION = 1  # a set of algorithms that has none


class _UnknownMethods:
    """Resolves no method."""

    def resolve_handler(self, details: object) -> None:
        """Return no handler: the call is UNIMPLEMENTED."""


class _GuardedServer(cygrpc.AioServer):
    """Takes calls of unknown methods apart from all others, and says when it fails."""

    on_failure: Callable[[Exception], None]

    def _serving_task_crash_handler(self, task: "asyncio.Task[None]") -> None:
        """Called when the loop that takes calls has ended.

        gRPC would now shut down, and free twice what the loop has cancelled.
        """
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self.on_failure(error)

    def _make_request_call_future(self, method: bytes | None) -> "asyncio.Future[Any]":
        """Return what ends with the next call of a known method, or never for unknown ones."""
        if method is not None:
            future: asyncio.Future[Any] = super()._make_request_call_future(method)
            return future
        return asyncio.get_running_loop().create_task(self._refuse_unknown_methods())

    async def _refuse_unknown_methods(self) -> None:
        loop = asyncio.get_running_loop()
        unknown = _UnknownMethods()
        refusals: set[asyncio.Task[None]] = set()
        while True:
            call = await self._request_call()
            refusal = cygrpc._handle_rpc("", unknown, (), call, loop, False)
            task = loop.create_task(cygrpc._schedule_rpc_coro(refusal, call, loop, ""))
            refusals.add(task)  # the loop refers to tasks weakly
            task.add_done_callback(refusals.discard)


class _Listener(_AioServer):
    def __init__(self, server: _GuardedServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop


def make_listener(
    interceptor: grpc.aio.ServerInterceptor,
    max_request_bytes: int,
    calls: CallLimits,
    on_failure: Callable[[Exception], None],
) -> grpc.aio.Server:
    """Return a server without services or addresses, which no request ends.

    Args:
        interceptor: Wraps all calls of known methods.
        max_request_bytes: Maximum size of a request in bytes.
        calls: How many calls may be in flight, which the interceptor counts.
        on_failure: Called if it takes no calls any more, though nobody has stopped it.
    """
    logging.getLogger(_cygrpc.__name__).addFilter(_is_no_header)
    loop = asyncio.get_running_loop()
    options = _options(max_request_bytes, calls.max_calls_per_connection)
    server = _GuardedServer(loop, None, (), (interceptor,), options, None)
    server.on_failure = on_failure
    listener: Any = _Listener(server, loop)
    return listener


def _is_no_header(record: logging.LogRecord) -> bool:
    """Return whether a record of grpcio is none of those that any peer can cause.

    grpcio writes an error with a traceback for each header that is not UTF-8, and then reads it.
    """
    return not str(record.msg).startswith("Invalid encoding")


def _options(max_request_bytes: int, max_calls: int) -> tuple[tuple[str, int], ...]:
    return (
        ("grpc.max_receive_message_length", max_request_bytes),
        # A message of a few kilobytes may unpack to gigabytes before its size is checked.
        ("grpc.compression_enabled_algorithms_bitset", _NO_COMPRESSION),
        # What gRPC takes of a request before a call reads it. Probing the bandwidth raises this to
        # megabytes, of which `request_bytes.py` would know nothing.
        ("grpc.http2.lookahead_bytes", _UNREAD_BYTES),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.so_reuseport", 0),  # or a second server would take half of the calls
        # Otherwise gRPC cancels calls beyond a thousand, and calls that wait for the event loop
        # for 30 s, before the server can answer RESOURCE_EXHAUSTED.
        ("grpc.server.max_pending_requests", _MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING),
        ("grpc.server_max_unrequested_time_in_server", _MAX_UNREQUESTED_S),
        # gRPC resets calls beyond this number, and counts some that have ended: far above ours.
        ("grpc.max_concurrent_streams", _STREAMS_PER_CALL * max_calls),
        ("grpc.max_connection_idle_ms", _MAX_IDLE_MS),
        # Peers that have gone without a word are noticed after at most 80 s.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Clients may ask for signs of life, also between calls; gRPC would allow it each 5 minutes.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_MS),
    )
