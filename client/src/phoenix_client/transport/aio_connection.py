"""What the async client is built on: opening and closing, calls, and the health check."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable
from types import TracebackType
from typing import Self, TypeVar

import grpc
import grpc.aio

from phoenix_client.transport import channels
from phoenix_client.transport.base_connection import UNREACHABLE, BaseConnection, never_served
from phoenix_client.wire.statuses import client_errors
from phoenix_retrieval.v1.corpus_service_pb2_grpc import CorpusServiceStub
from phoenix_retrieval.v1.model_service_pb2_grpc import ModelServiceStub
from phoenix_retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


class AsyncConnection(BaseConnection[grpc.aio.Channel]):
    """A channel, and the services at its other end. `AsyncPhoenixClient` adds the methods."""

    def _open(
        self, target: str, credentials: grpc.ChannelCredentials | None, options: channels.Options
    ) -> grpc.aio.Channel:
        return channels.open_async_channel(target, credentials, options)

    def _attach(self, channel: grpc.aio.Channel) -> None:
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
        check = self._channel.unary_unary(channels.HEALTH_CHECK, *channels.HEALTH_MESSAGES)
        try:
            return await self._call(check, service, timeout_s)
        except UNREACHABLE:
            return False

    async def wait_until_ready(self, service: str = "", *, timeout_s: float | None = None) -> None:
        """Wait until the server can be reached and its health check says that it is serving."""
        watch = self._channel.unary_stream(channels.HEALTH_WATCH, *channels.HEALTH_MESSAGES)
        call = watch(service, timeout=self._limit_s(timeout_s), wait_for_ready=True)
        try:
            with client_errors():
                async for serving in call:
                    if serving:
                        return
        finally:
            call.cancel()
        raise never_served()

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Reply],
        request: _Request,
        timeout_s: float | None,
    ) -> _Reply:
        with client_errors():
            return await method(request, timeout=self._limit_s(timeout_s))

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
            with client_errors():
                return await call
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
