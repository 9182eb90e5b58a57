"""The base of the async client: opening and closing, unary and stream calls, health checks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable
from types import TracebackType
from typing import Self, TypeVar

import grpc
import grpc.aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from phoenix_client.transport import channels
from phoenix_client.transport.base_connection import UNREACHABLE, BaseConnection, never_served
from phoenix_client.wire.statuses import client_errors

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


class AsyncConnection(BaseConnection[grpc.aio.Channel]):
    """An async channel and its calls. `AsyncPhoenixClient` adds a method for each RPC."""

    def _open(
        self, target: str, credentials: grpc.ChannelCredentials | None, options: channels.Options
    ) -> grpc.aio.Channel:
        return channels.open_async_channel(target, credentials, options)

    async def close(self) -> None:
        """Close the connection and cancel its calls. A channel that was given stays open."""
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
        """Ask the standard health check whether the server, or one service of it, is serving.

        Returns:
            Whether the status is SERVING; False too if the server cannot be reached in time.

        Raises:
            NotFoundError: The server has no such service.
            PhoenixClientError: The call failed in another way.
        """
        check = self._channel.unary_unary(channels.HEALTH_CHECK, *channels.HEALTH_MESSAGES)
        request = HealthCheckRequest(service=service)
        try:
            reply = await self._call(check, request, timeout_s)
        except UNREACHABLE:
            return False
        return reply.status == HealthCheckResponse.SERVING

    async def wait_until_ready(self, service: str = "", *, timeout_s: float | None = None) -> None:
        """Wait until the server can be reached and its health check reports SERVING.

        Raises:
            DeadlineExceededError: It did not report SERVING in time.
            PhoenixClientError: The call failed in another way.
        """
        watch = self._channel.unary_stream(channels.HEALTH_WATCH, *channels.HEALTH_MESSAGES)
        request = HealthCheckRequest(service=service)
        call = watch(request, timeout=self._limit_s(timeout_s), wait_for_ready=True)
        try:
            with client_errors():
                async for reply in call:
                    if reply.status == HealthCheckResponse.SERVING:
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

        # Stop sending when the call ends: gRPC would report INTERNAL for a message that fails then,
        # in place of the status with which the call ended.
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
    """Return whether a part of a stream was sent. If not, the status of the call says why."""
    try:
        await sending
    except (grpc.RpcError, grpc.aio.InternalError):
        return False
    return True
