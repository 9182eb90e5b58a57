"""The async client. What its methods take, return and raise is said at `PhoenixClient`."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self, TypeVar

import grpc
import grpc.aio

from phoenix_client import channels, messages
from phoenix_client.errors import DeadlineExceededError, PhoenixClientError, UnavailableError
from phoenix_client.model import Model
from phoenix_client.queries import RetrieveQuery
from phoenix_client.results import (
    EncodedCandidates,
    EncodedUser,
    RetrieveResult,
    ScoreResult,
)
from phoenix_client.stats import ServingStats
from phoenix_client.statuses import from_rpc_error
from phoenix_client.users import User
from phoenix_retrieval.v1 import model_service_pb2 as model_pb2
from phoenix_retrieval.v1.model_service_pb2_grpc import ModelServiceStub
from phoenix_retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


class AsyncPhoenixClient:
    """A connection to a retrieval server, for the event loop in which it is made.

    Every call ends within its time limit and raises a `PhoenixClientError` if it fails. Values that
    cannot be sent raise `ValueError` first. Cancelling a task that awaits a call cancels the call.
    Use it as an async context manager, or await `close`.
    """

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

    async def retrieve(
        self,
        user: User,
        *,
        top_k: int,
        with_author_ids: bool = False,
        with_labels: bool = False,
        with_created_at: bool = False,
        with_representation: bool = False,
        timeout_s: float | None = None,
    ) -> RetrieveResult:
        """Return the posts of highest score for a user: the exact top k."""
        query = RetrieveQuery(
            user=user,
            top_k=top_k,
            with_author_ids=with_author_ids,
            with_labels=with_labels,
            with_created_at=with_created_at,
            with_representation=with_representation,
        )
        request = messages.retrieve_request(query)
        reply = await self._call(self._retrieval.Retrieve, request, timeout_s)
        return messages.read_retrieve(reply)

    async def batch_retrieve(
        self, queries: Iterable[RetrieveQuery], *, timeout_s: float | None = None
    ) -> list[RetrieveResult | PhoenixClientError]:
        """Answer many queries at once; a query that failed has its exception for a result."""
        request = messages.batch_retrieve_request(queries)
        reply = await self._call(self._retrieval.BatchRetrieve, request, timeout_s)
        return messages.read_batch_retrieve(reply, len(request.requests))

    async def encode_user(self, user: User, *, timeout_s: float | None = None) -> EncodedUser:
        """Return a user's representation."""
        request = messages.encode_user_request(user)
        reply = await self._call(self._retrieval.EncodeUser, request, timeout_s)
        return messages.read_encode_user(reply)

    async def encode_candidates(
        self,
        post_ids: Iterable[int],
        author_ids: Iterable[int],
        *,
        timeout_s: float | None = None,
    ) -> EncodedCandidates:
        """Return the unit vectors of posts, in the corpus or not."""
        request = messages.encode_candidates_request(post_ids, author_ids)
        reply = await self._call(self._retrieval.EncodeCandidates, request, timeout_s)
        return messages.read_encode_candidates(reply, len(request.post_ids))

    async def score_posts(
        self, user: User, post_ids: Iterable[int], *, timeout_s: float | None = None
    ) -> ScoreResult:
        """Return exact scores and ranks of posts in the corpus."""
        request = messages.score_posts_request(user, post_ids)
        reply = await self._call(self._retrieval.ScorePosts, request, timeout_s)
        return messages.read_score_posts(reply, request.post_ids)

    async def get_model(self, *, timeout_s: float | None = None) -> Model:
        """Describe the model and the corpus that answer now."""
        reply = await self._call(self._model.GetModel, model_pb2.GetModelRequest(), timeout_s)
        return messages.read_model(reply)

    async def get_serving_stats(self, *, timeout_s: float | None = None) -> ServingStats:
        """Tell what waits for the device, and what has become of the calls so far."""
        request = model_pb2.GetServingStatsRequest()
        reply = await self._call(self._model.GetServingStats, request, timeout_s)
        return messages.read_serving_stats(reply)

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
