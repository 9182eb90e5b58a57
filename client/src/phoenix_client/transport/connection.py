"""What the sync client is built on: opening and closing, calls, and the health check."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from threading import Semaphore
from types import TracebackType
from typing import Self, TypeVar

import grpc

from phoenix_client.transport import channels
from phoenix_client.transport.base_connection import UNREACHABLE, BaseConnection, never_served
from phoenix_client.wire.statuses import client_errors
from phoenix_retrieval.v1.corpus_service_pb2_grpc import CorpusServiceStub
from phoenix_retrieval.v1.model_service_pb2_grpc import ModelServiceStub
from phoenix_retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

_MOST_WAITING = 2  # requests of a stream that are made before gRPC takes them

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


class Connection(BaseConnection[grpc.Channel]):
    """A channel, and the services at its other end. `PhoenixClient` adds a method for each call."""

    def _open(
        self, target: str, credentials: grpc.ChannelCredentials | None, options: channels.Options
    ) -> grpc.Channel:
        return channels.open_channel(target, credentials, options)

    def _attach(self, channel: grpc.Channel) -> None:
        self._retrieval = RetrievalServiceStub(channel)
        self._model = ModelServiceStub(channel)
        self._corpus = CorpusServiceStub(channel)

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        if self._owns_channel:
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def is_serving(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """Ask the standard health check whether the server, or one service of it, is serving.

        Returns:
            Whether it says so; False too if it cannot be reached in time.

        Raises:
            NotFoundError: The server has no such service.
            PhoenixClientError: The call failed in another way.
        """
        check = self._channel.unary_unary(channels.HEALTH_CHECK, *channels.HEALTH_MESSAGES)
        try:
            return self._call(check, service, timeout_s)
        except UNREACHABLE:
            return False

    def wait_until_ready(self, service: str = "", *, timeout_s: float | None = None) -> None:
        """Wait until the server can be reached and its health check says that it is serving.

        Raises:
            DeadlineExceededError: It did not come to that in time.
            PhoenixClientError: The call failed in another way.
        """
        watch = self._channel.unary_stream(channels.HEALTH_WATCH, *channels.HEALTH_MESSAGES)
        call = watch(service, timeout=self._limit_s(timeout_s), wait_for_ready=True)
        try:
            with client_errors():
                for serving in call:
                    if serving:
                        return
        finally:
            call.cancel()
        raise never_served()

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Reply],
        request: _Request,
        timeout_s: float | None,
    ) -> _Reply:
        with client_errors():
            return method(request, timeout=self._limit_s(timeout_s))

    def _send(
        self,
        method: grpc.StreamUnaryMultiCallable[_Request, _Reply],
        requests: Iterable[_Request],
        timeout_s: float | None,
    ) -> _Reply:
        # gRPC would iterate `requests` in a thread of its own, and they may be bound to this one:
        # rows of a database, lines of standard input.
        waiting: SimpleQueue[_Request | None] = SimpleQueue()
        room = Semaphore(_MOST_WAITING)

        def taken() -> Iterator[_Request]:
            while (request := waiting.get()) is not None:
                room.release()
                yield request

        call = method.future(taken(), timeout=self._limit_s(timeout_s))
        call.add_done_callback(lambda _: room.release())
        try:
            for request in requests:
                room.acquire()
                if call.done():
                    break
                waiting.put(request)
            waiting.put(None)
            with client_errors():
                return call.result()
        finally:
            call.cancel()
            waiting.put(None)
