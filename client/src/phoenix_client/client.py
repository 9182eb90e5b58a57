"""The sync client."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self, TypeVar

import grpc

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


class PhoenixClient:
    """A connection to a retrieval server. Threads may share it.

    Every call ends within its time limit and raises a `PhoenixClientError` if it fails. Values that
    cannot be sent raise `ValueError` first. Use it as a context manager, or call `close`.
    """

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

    def retrieve(
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
        """Return the posts of highest score for a user: the exact top k.

        Args:
            user: The user.
            top_k: How many posts, from 1 to the server's limit (`Model.max_top_k`).
            with_author_ids: Return the posts' authors.
            with_labels: Return the posts' labels.
            with_created_at: Return when the posts were created.
            with_representation: Return the user's representation.
            timeout_s: Time limit of this call.

        Raises:
            PhoenixClientError: The call failed.
        """
        query = RetrieveQuery(
            user=user,
            top_k=top_k,
            with_author_ids=with_author_ids,
            with_labels=with_labels,
            with_created_at=with_created_at,
            with_representation=with_representation,
        )
        request = messages.retrieve_request(query)
        return messages.read_retrieve(self._call(self._retrieval.Retrieve, request, timeout_s))

    def batch_retrieve(
        self, queries: Iterable[RetrieveQuery], *, timeout_s: float | None = None
    ) -> list[RetrieveResult | PhoenixClientError]:
        """Answer many queries at once.

        Returns:
            As many results as queries, in their order. A query that failed has its exception, not
            raised, for a result.

        Raises:
            PhoenixClientError: The call failed as a whole.
        """
        request = messages.batch_retrieve_request(queries)
        reply = self._call(self._retrieval.BatchRetrieve, request, timeout_s)
        return messages.read_batch_retrieve(reply, len(request.requests))

    def encode_user(self, user: User, *, timeout_s: float | None = None) -> EncodedUser:
        """Return a user's representation.

        Raises:
            PhoenixClientError: The call failed.
        """
        request = messages.encode_user_request(user)
        reply = self._call(self._retrieval.EncodeUser, request, timeout_s)
        return messages.read_encode_user(reply)

    def encode_candidates(
        self,
        post_ids: Iterable[int],
        author_ids: Iterable[int],
        *,
        timeout_s: float | None = None,
    ) -> EncodedCandidates:
        """Return the unit vectors of posts, in the corpus or not.

        Args:
            post_ids: The posts; never 0.
            author_ids: Their authors; never 0.
            timeout_s: Time limit of this call.

        Raises:
            PhoenixClientError: The call failed.
        """
        request = messages.encode_candidates_request(post_ids, author_ids)
        reply = self._call(self._retrieval.EncodeCandidates, request, timeout_s)
        return messages.read_encode_candidates(reply, len(request.post_ids))

    def score_posts(
        self, user: User, post_ids: Iterable[int], *, timeout_s: float | None = None
    ) -> ScoreResult:
        """Return exact scores and ranks of posts in the corpus.

        Raises:
            NotFoundError: The corpus does not hold all of them.
            PhoenixClientError: The call failed.
        """
        request = messages.score_posts_request(user, post_ids)
        reply = self._call(self._retrieval.ScorePosts, request, timeout_s)
        return messages.read_score_posts(reply, request.post_ids)

    def get_model(self, *, timeout_s: float | None = None) -> Model:
        """Describe the model and the corpus that answer now.

        Raises:
            PhoenixClientError: The call failed.
        """
        reply = self._call(self._model.GetModel, model_pb2.GetModelRequest(), timeout_s)
        return messages.read_model(reply)

    def get_serving_stats(self, *, timeout_s: float | None = None) -> ServingStats:
        """Tell what waits for the device, and what has become of the calls so far.

        Raises:
            PhoenixClientError: The call failed.
        """
        request = model_pb2.GetServingStatsRequest()
        reply = self._call(self._model.GetServingStats, request, timeout_s)
        return messages.read_serving_stats(reply)

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
