"""What the async client is built on: opening and closing, calls, and the health check."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable
from types import TracebackType
from typing import Self, TypeVar

import grpc
import grpc.aio

from phoenix_client import channels
from phoenix_client.errors import DeadlineExceededError, UnavailableError
from phoenix_client.statuses import from_rpc_error
from phoenix_retrieval.v1.corpus_service_pb2_grpc import CorpusServiceStub
from phoenix_retrieval.v1.model_service_pb2_grpc import ModelServiceStub
from phoenix_retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


class AsyncConnection:
    """A channel, and the services at its other end. `AsyncPhoenixClient` adds the methods."""

    def __init__(
        self,
        target: str = channels.DEFAULT_TARGET,
        *,
        timeout_s: float = channels.DEFAULT_TIMEOUT_S,
        credentials: grpc.ChannelCredentials | None = None,
        max_request_bytes: int | None = None,
        max_response_bytes: int | None = channels.DEFAULT_MAX_RESPONSE_BYTES,
        channel: grpc.aio.Channel | None = None,
    ) -> None:
        """Prepare a connection, inside a running event loop; the first call opens it.

        Args:
            target: The server, as gRPC names it: `host:port`, `dns:///name`, `unix:path`.
            timeout_s: Time limit of calls that set none.
            credentials: For TLS, as from `grpc.ssl_channel_credentials()`. None: not encrypted.
            max_request_bytes: Largest message to send. None: as large as the server takes.
            max_response_bytes: Largest message to accept. None: any.
            channel: Use this channel, and leave it open at the end. All but `timeout_s` is then
                its matter.

        Raises:
            ValueError: `timeout_s` is not above 0, or infinite.
        """
        self._timeout_s = channels.checked_timeout_s(timeout_s)
        self._owns_channel = channel is None
        if channel is None:
            options = channels.channel_options(max_request_bytes, max_response_bytes)
            channel = channels.open_async_channel(target, credentials, options)
        self._channel = channel
        self._retrieval = RetrievalServiceStub(channel)
        self._model = ModelServiceStub(channel)
        self._corpus = CorpusServiceStub(channel)

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        if self._owns_channel:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def is_serving(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """Ask the standard health check whether the server, or one service of it, is serving."""
        check = self._channel.unary_unary(
            channels.HEALTH_CHECK,
            request_serializer=channels.write_health_request,
            response_deserializer=channels.read_health_reply,
        )
        try:
            return await self._call(check, service, timeout_s)
        except (UnavailableError, DeadlineExceededError):
            return False

    async def wait_until_ready(self, service: str = "", *, timeout_s: float | None = None) -> None:
        """Wait until the server can be reached and its health check says that it is serving."""
        watch = self._channel.unary_stream(
            channels.HEALTH_WATCH,
            request_serializer=channels.write_health_request,
            response_deserializer=channels.read_health_reply,
        )
        call = watch(service, timeout=self._limit_s(timeout_s), wait_for_ready=True)
        try:
            async for serving in call:
                if serving:
                    return
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        finally:
            call.cancel()
        raise UnavailableError("the health check ended before the server was serving")

    def _limit_s(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else channels.checked_timeout_s(timeout_s)

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Reply],
        request: _Request,
        timeout_s: float | None,
    ) -> _Reply:
        try:
            return await method(request, timeout=self._limit_s(timeout_s))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def _send(
        self,
        method: grpc.aio.StreamUnaryMultiCallable[_Request, _Reply],
        requests: AsyncIterable[_Request],
        timeout_s: float | None,
    ) -> _Reply:
        call = method(timeout=self._limit_s(timeout_s))
        sending = asyncio.ensure_future(_send_all(call, requests))

        def stop(_: object) -> None:
            sending.cancel()

        # A message that is on its way when the call ends must not fail by itself: gRPC would put
        # INTERNAL in the place of the status that the call ended with.
        call.add_done_callback(stop)
        try:
            (problem,) = await asyncio.gather(sending, return_exceptions=True)
            stopped = isinstance(problem, asyncio.CancelledError) and call.done()
            if problem is not None and not stopped:
                raise problem
            try:
                return await call
            except grpc.RpcError as error:
                raise from_rpc_error(error) from error
        finally:
            call.cancel()


async def _send_all(
    call: grpc.aio.StreamUnaryCall[_Request, _Reply], requests: AsyncIterable[_Request]
) -> None:
    async for request in requests:
        if call.done() or not await _sent(call.write(request)):
            return
    await _sent(call.done_writing())


async def _sent(sending: Awaitable[None]) -> bool:
    """Return whether something of a stream was sent; if not, the call's end says why."""
    try:
        await sending
    except (grpc.RpcError, grpc.aio.InternalError):
        return False
    return True
