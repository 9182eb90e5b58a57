"""The base of the async client: opening and closing, unary and stream calls, health checks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
from grpc_health.v1.health_pb2 import HealthCheckRequest

from phoenix_client.transport import health
from phoenix_client.transport.base_connection import BaseConnection
from phoenix_client.transport.channels import Options
from phoenix_client.wire.call import Call
from phoenix_client.wire.statuses import client_errors

_Request = TypeVar("_Request")
_Result = TypeVar("_Result")


class AsyncConnection(BaseConnection[grpc.aio.Channel]):
    """An async channel and its calls. `AsyncPhoenixClient` adds a method for each RPC."""

    _grpc = grpc.aio

    def _open(
        self, target: str, credentials: grpc.ChannelCredentials | None, options: Options
    ) -> grpc.aio.Channel:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            what = (
                f"create {type(self).__name__} in a coroutine: it belongs to the running event loop"
            )
            raise RuntimeError(what) from None
        return super()._open(target, credentials, options)

    async def close(self) -> None:
        """Close the connection and cancel its calls. A channel that was given stays open."""
        if self._owns_channel:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def is_serving(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """Ask the standard health check whether the server, or one service of it, is serving.

        Returns:
            Whether the status is SERVING; False too if the server cannot be reached in time.

        Raises:
            NotFoundError: The server has no such service.
            PhoenixClientError: The call failed in another way.
        """
        try:
            return await self._call(health.health_check(service), timeout_s)
        except health.UNREACHABLE:
            return False

    async def wait_until_ready(self, service: str = "", *, timeout_s: float | None = None) -> None:
        """Wait until the server can be reached and its health check reports SERVING.

        Raises:
            DeadlineExceededError: It did not report SERVING in time.
            PhoenixClientError: The call failed in another way.
        """
        watch, limit_s = self._rpcs["Watch"], self._limit_s(timeout_s)
        call = watch(HealthCheckRequest(service=service), timeout=limit_s, wait_for_ready=True)
        try:
            with client_errors():
                async for reply in call:
                    if health.says_serving(reply):
                        return
        finally:
            call.cancel()
        raise health.never_served()

    async def _call(self, call: Call[_Result], timeout_s: float | None) -> _Result:
        with client_errors():
            reply = await self._rpcs[call.rpc](call.request, timeout=self._limit_s(timeout_s))
        return call.read(reply)

    async def _send(
        self, rpc: str, requests: AsyncIterable[_Request], timeout_s: float | None
    ) -> Any:
        call = self._rpcs[rpc](timeout=self._limit_s(timeout_s))
        sending = asyncio.ensure_future(_send_all(call, requests))
        # Stop sending when the call ends: gRPC would report INTERNAL for a message that fails then,
        # in place of the status with which the call ended.
        call.add_done_callback(lambda _: sending.cancel())
        try:
            (problem,) = await asyncio.gather(sending, return_exceptions=True)
            stopped = isinstance(problem, asyncio.CancelledError) and call.done()
            if problem is not None and not stopped:
                raise problem
            with client_errors():
                return await call
        finally:
            call.cancel()


async def _send_all(call: Any, requests: AsyncIterable[_Request]) -> None:
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
