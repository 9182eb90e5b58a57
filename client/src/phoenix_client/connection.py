"""What the sync client is built on: opening and closing, calls, and the health check."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from threading import Semaphore
from types import TracebackType
from typing import Self, TypeVar

import grpc

from phoenix_client import channels
from phoenix_client.errors import DeadlineExceededError, UnavailableError
from phoenix_client.statuses import from_rpc_error
from phoenix_retrieval.v1.corpus_service_pb2_grpc import CorpusServiceStub
from phoenix_retrieval.v1.model_service_pb2_grpc import ModelServiceStub
from phoenix_retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

_MOST_WAITING = 2  # requests of a stream that are made before gRPC takes them

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


class Connection:
    """A channel, and the services at its other end. `PhoenixClient` adds a method for each call."""

    def __init__(
        self,
        target: str = channels.DEFAULT_TARGET,
        *,
        timeout_s: float = channels.DEFAULT_TIMEOUT_S,
        credentials: grpc.ChannelCredentials | None = None,
        max_request_bytes: int | None = None,
        max_response_bytes: int | None = channels.DEFAULT_MAX_RESPONSE_BYTES,
        channel: grpc.Channel | None = None,
    ) -> None:
        """Prepare a connection; the first call opens it.

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
            channel = channels.open_channel(target, credentials, options)
        self._channel = channel
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
            PhoenixClientError: The call failed in another way.
        """
        check = self._channel.unary_unary(
            channels.HEALTH_CHECK,
            request_serializer=channels.write_health_request,
            response_deserializer=channels.read_health_reply,
        )
        try:
            return self._call(check, service, timeout_s)
        except (UnavailableError, DeadlineExceededError):
            return False

    def wait_until_ready(self, service: str = "", *, timeout_s: float | None = None) -> None:
        """Wait until the server can be reached and its health check says that it is serving.

        Raises:
            DeadlineExceededError: It did not come to that in time.
            PhoenixClientError: The call failed in another way.
        """
        watch = self._channel.unary_stream(
            channels.HEALTH_WATCH,
            request_serializer=channels.write_health_request,
            response_deserializer=channels.read_health_reply,
        )
        call = watch(service, timeout=self._limit_s(timeout_s), wait_for_ready=True)
        try:
            for serving in call:
                if serving:
                    return
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        finally:
            call.cancel()
        raise UnavailableError("the health check ended before the server was serving")

    def _limit_s(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else channels.checked_timeout_s(timeout_s)

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Reply],
        request: _Request,
        timeout_s: float | None,
    ) -> _Reply:
        try:
            return method(request, timeout=self._limit_s(timeout_s))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

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
            try:
                return call.result()
            except grpc.RpcError as error:
                raise from_rpc_error(error) from error
        finally:
            call.cancel()
            waiting.put(None)
