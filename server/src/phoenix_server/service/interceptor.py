"""Around each call: the size limit, status codes for errors, shutdown, and an access log line."""

from __future__ import annotations  # gRPC's types are generic to type checkers only

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from phoenix_server import errors
from phoenix_server.errors import InvalidRequestError, OverloadedError, Violation

_access = logging.getLogger("phoenix_server.access")
_log = logging.getLogger(__name__)

# Details travel in a header, and peers refuse headers above 8 KiB.
_MAX_DETAILS = 40
_MAX_MESSAGE = 1024

_OURS = "/phoenix_retrieval."  # health and reflection are served until the end
_CODES = {
    InvalidRequestError: code_pb2.INVALID_ARGUMENT,
    errors.PostNotFoundError: code_pb2.NOT_FOUND,
    errors.CorpusFullError: code_pb2.RESOURCE_EXHAUSTED,
    errors.StorageError: code_pb2.RESOURCE_EXHAUSTED,
    errors.ReadOnlyError: code_pb2.FAILED_PRECONDITION,
    OverloadedError: code_pb2.RESOURCE_EXHAUSTED,
    errors.DeadlineExceededError: code_pb2.DEADLINE_EXCEEDED,
    errors.GenerationError: code_pb2.FAILED_PRECONDITION,  # and BusyError
    errors.NoGenerationError: code_pb2.NOT_FOUND,
    errors.NoMemoryError: code_pb2.RESOURCE_EXHAUSTED,
    errors.ForbiddenError: code_pb2.PERMISSION_DENIED,
    errors.NotReadyError: code_pb2.UNAVAILABLE,
}


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps calls with one reply; calls that stream replies (health, reflection) pass through."""

    def __init__(self, *, max_request_bytes: int) -> None:
        self._max_request_bytes = max_request_bytes
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._stopping = False
        self._handlers: dict[str, Any] = {}  # by method; wrapped

    async def drain(self, grace_s: float) -> int:
        """Refuse new calls and wait up to `grace_s` seconds for those in flight.

        gRPC's own shutdown would cancel calls that arrive meanwhile, without a reason.

        Returns:
            The number of calls that did not finish.
        """
        self._stopping = True
        if self._in_flight:
            self._idle.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), grace_s)
        return self._in_flight

    async def intercept_service(
        self, continuation: Any, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Return the method's handler, wrapped."""
        method = handler_call_details.method
        if method in self._handlers:
            return self._handlers[method]
        handler: Any = await continuation(handler_call_details)
        if handler is None or handler.response_streaming:
            return handler
        # The handler gets raw bytes: gRPC itself would answer UNKNOWN if they are not a message.
        read: Any = partial(self._read, deserialize=handler.request_deserializer)
        make: Any = grpc.unary_unary_rpc_method_handler
        behave: Any = handler.unary_unary
        if handler.request_streaming:
            make, behave = grpc.stream_unary_rpc_method_handler, handler.stream_unary
            read = partial(_read_each, read)
        call = self._wrap(method, behave, read)
        wrapped = make(call, response_serializer=handler.response_serializer)
        self._handlers[method] = wrapped
        return wrapped

    def _wrap(
        self, method: str, behave: Callable[..., Awaitable[Message]], read: Callable[[Any], object]
    ) -> Any:
        ours = method.startswith(_OURS)
        finish: Any = self._finish  # the stubs require an instance of one of their classes

        async def call(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
            began = time.perf_counter()
            code = "CANCELLED"
            self._in_flight += 1
            context.add_done_callback(finish)  # called when the reply has been sent
            try:
                if self._stopping and ours:
                    raise errors.NotReadyError("the server is shutting down")
                response = await behave(read(request), context)
                code = "OK"
                return response
            except Exception as exc:
                if not isinstance(exc, errors.PhoenixServerError):
                    _log.exception("%s failed", method)
                status = to_status(exc)
                code = code_pb2.Code.Name(status.code)
                await context.abort_with_status(rpc_status.to_status(status))
                raise
            finally:
                _access.debug("%s %s %.1f ms", method, code, 1e3 * (time.perf_counter() - began))

        return call

    def _finish(self, context: object) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()

    def _read(self, request: bytes, deserialize: Callable[[bytes], Message]) -> Message:
        """Parse a request.

        Raises:
            InvalidRequestError: It is too large or not a message of the method's type.
        """
        if len(request) > self._max_request_bytes:
            limit = f"has {len(request)} bytes, at most {self._max_request_bytes} are accepted"
            raise InvalidRequestError([Violation("request", limit)])
        try:
            return deserialize(request)
        except DecodeError as exc:
            what = f"is not a message of the method's type: {exc}"
            raise InvalidRequestError([Violation("request", what)]) from exc


async def _read_each(
    read: Callable[[bytes], Message], requests: AsyncIterator[bytes]
) -> AsyncIterator[Message]:
    async for request in requests:
        yield read(request)


def to_status(exc: Exception) -> status_pb2.Status:
    """Return the status for an exception; that of an unexpected one hides the details."""
    code = next((code for kind, code in _CODES.items() if isinstance(exc, kind)), None)
    if code is None:
        message = "internal error; the server's log says more"
        return status_pb2.Status(code=code_pb2.INTERNAL, message=message)
    status = status_pb2.Status(code=code, message=str(exc)[:_MAX_MESSAGE])
    for detail in _details(exc):
        status.details.add().Pack(detail)
    return status


def retry_delay(exc: OverloadedError) -> Duration:
    """Return when to retry: after at least a millisecond."""
    delay = Duration()
    delay.FromMilliseconds(max(1, round(exc.retry_after_s * 1e3)))
    return delay


def _details(exc: Exception) -> Iterator[Message]:
    if isinstance(exc, InvalidRequestError):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(**violation._asdict())
            for violation in exc.violations[:_MAX_DETAILS]
        ]
        yield error_details_pb2.BadRequest(field_violations=violations)
    elif isinstance(exc, errors.PostNotFoundError):
        for post_id in exc.post_ids[:_MAX_DETAILS]:
            yield error_details_pb2.ResourceInfo(
                resource_type="post", resource_name=str(post_id), description="not in the corpus"
            )
    elif isinstance(exc, OverloadedError):
        yield error_details_pb2.RetryInfo(retry_delay=retry_delay(exc))
