"""Around each call: limits, status codes for errors, shutdown, and an access log line."""

from __future__ import annotations  # gRPC's types are generic to type checkers only

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2
from grpc_status import rpc_status

from phoenix_server import errors
from phoenix_server.config import CallLimits
from phoenix_server.errors import InvalidRequestError, Violation
from phoenix_server.runtime.threads import run_to_end
from phoenix_server.service.calls_in_flight import CallsInFlight
from phoenix_server.service.field_count import check_field_count
from phoenix_server.service.request_bytes import Call
from phoenix_server.service.status import to_status

_access = logging.getLogger("phoenix_server.access")

_OURS = "/phoenix_retrieval."  # health and reflection are served until the end
_LARGE = 1 << 16  # bytes


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps all calls of known methods.

    To gRPC all of them take streams: so that a call is counted, and may be refused, before its
    request is read.

    Attributes:
        calls: The calls of this project's services in flight.
        streams: The calls of health and reflection that stream replies; they go on to the end.
    """

    def __init__(
        self,
        limits: CallLimits,
        max_request_bytes: int,
        max_fields: Callable[[], int],
        check_room: Mapping[str, Callable[[float | None], None]],
    ) -> None:
        """Begin without calls.

        Args:
            limits: What may be in flight; health and reflection have a room of their own.
            max_request_bytes: Maximum size of a request in bytes.
            max_fields: Returns the maximum fields of a request; see `field_count.py`.
            check_room: By method, called before a request is read, with the seconds until the
                call's deadline; raises OverloadedError if the call would be refused anyway.
        """
        self.calls = CallsInFlight(limits, max_request_bytes)
        few = max(limits.max_bytes_in_flight // 8, 4 * max_request_bytes)
        small = replace(limits, max_bytes_in_flight=few)
        self.streams = CallsInFlight(small, max_request_bytes)
        self._max_fields = max_fields
        self._check_room = check_room
        self._receive_timeout_s = limits.receive_timeout_s
        self._handlers: dict[str, Any] = {}  # by method; wrapped
        self._refuse = asyncio.Event()  # not set: calls that are to be refused are held
        self._refuse.set()

    def hold_refusals(self) -> None:
        """Answer no new call until `end`."""
        self._refuse.clear()

    async def end(self) -> None:
        """Refuse all calls; end those that stream replies."""
        await self.calls.stop(0)
        await self.streams.stop(0)
        self._refuse.set()

    async def intercept_service(
        self, continuation: Any, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Return the method's handler, wrapped."""
        method = handler_call_details.method
        if (wrapped := self._handlers.get(method)) is not None:
            return wrapped
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        make: Any = grpc.stream_unary_rpc_method_handler
        if handler.response_streaming:
            make = grpc.stream_stream_rpc_method_handler
        # The handler gets raw bytes: gRPC itself would answer UNKNOWN if they are not a message.
        wrapped = make(self._wrap(method, handler), response_serializer=handler.response_serializer)
        self._handlers[method] = wrapped
        return wrapped

    def _wrap(self, method: str, handler: Any) -> Any:
        uploads = handler.request_streaming
        streams = uploads or handler.response_streaming
        calls = self.calls if method.startswith(_OURS) else self.streams
        respond = self._responder(method, handler)
        check_room = self._check_room.get(method)

        async def call(
            _: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
        ) -> Message | None:
            began = time.perf_counter()
            code = "CANCELLED"
            try:
                await self._refuse.wait()
                with calls.begin(_connection(context), streams=streams, uploads=uploads) as begun:
                    if check_room is not None:
                        check_room(context.time_remaining())
                    response = await respond(calls, begun, context)
                code = "OK"
                return response
            except grpc.aio.AbortError:  # the handler has said the status
                code = "ABORTED BY THE HANDLER"
                raise
            except Exception as exc:
                if isinstance(exc, NotImplementedError) and calls is self.streams:
                    exc = errors.UnimplementedError(str(exc))
                status = to_status(exc, method)
                code = code_pb2.Code.Name(status.code)
                await context.abort_with_status(rpc_status.to_status(status))  # raises AbortError
            finally:
                _access.debug("%s %s %.1f ms", method, code, 1e3 * (time.perf_counter() - began))

        return call

    def _responder(self, method: str, handler: Any) -> Any:
        """Return what reads a call's requests, and returns the reply or writes the replies."""
        kind = GetMessageClass(_method(method).input_type)

        async def read(calls: CallsInFlight, call: Call, context: Any) -> Message:
            content = await calls.receive(call, context.read, self._receive_timeout_s)
            if content is None:
                raise InvalidRequestError([Violation("request", "is missing")])
            return await _parse(content, kind, self._max_fields())

        async def read_each(
            calls: CallsInFlight, call: Call, context: Any
        ) -> AsyncIterator[Message]:
            timeout_s: float | None = self._receive_timeout_s  # for the first one
            while (content := await calls.receive(call, context.read, timeout_s)) is not None:
                yield await _parse(content, kind, self._max_fields())
                timeout_s = None

        async def respond(calls: CallsInFlight, call: Call, context: Any) -> Message | None:
            if handler.unary_unary:
                return await handler.unary_unary(await read(calls, call, context), context)
            if handler.stream_unary:
                return await handler.stream_unary(read_each(calls, call, context), context)
            if handler.unary_stream:  # Health/Watch, which writes its replies
                request = await read(calls, call, context)
                async with calls.interruptible(None):
                    await handler.unary_stream(request, context)
                return None
            async for reply in handler.stream_stream(read_each(calls, call, context), context):
                await context.write(reply)
            return None

        return respond


def _connection(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Return what tells a connection from others; empty for a Unix socket, where nothing does."""
    peer = context.peer()
    return "" if peer.startswith("unix") else peer


def _method(path: str) -> MethodDescriptor:
    """Return the descriptor of the method at `/package.Service/Method`."""
    pool: Any = descriptor_pool.Default()
    return pool.FindMethodByName(path[1:].replace("/", "."))


async def _parse(content: bytes, kind: type[Message], max_fields: int) -> Message:
    """Parse a request of a type with at most `max_fields` fields.

    Raises:
        InvalidRequestError: It has too many fields or is not a message of the method's type.
    """
    if len(content) > _LARGE:
        await run_to_end(partial(check_field_count, content, kind.DESCRIPTOR, max_fields))
    try:
        return kind.FromString(content)
    except DecodeError as exc:
        what = f"is not a message of the method's type: {exc}"
        raise InvalidRequestError([Violation("request", what)]) from exc
