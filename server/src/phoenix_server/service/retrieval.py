"""`RetrievalService`: protobuf in, protobuf out. Handlers only await."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeAlias, TypeVar

from phoenix_retrieval.v1 import retrieval_service_pb2 as pb
from phoenix_retrieval.v1 import retrieval_service_pb2_grpc
from phoenix_retrieval.v1.manifest_pb2 import ModelSizes
from phoenix_retrieval.v1.user_pb2 import User
from phoenix_server.bundle.features import UserColumns
from phoenix_server.corpus.changes import Labels
from phoenix_server.engine.engine import Engine
from phoenix_server.engine.filters import Filter
from phoenix_server.engine.query import Answer, LikePost, Query
from phoenix_server.errors import InvalidRequestError, OverloadedError, PostNotFoundError
from phoenix_server.generations.generation import Generation
from phoenix_server.runtime.threads import run_to_end
from phoenix_server.service.columns import check_count, read_ids, to_u64
from phoenix_server.service.encode_posts import encode_posts
from phoenix_server.service.filter_request import read_filter
from phoenix_server.service.requests import read_candidates, read_top_k, read_user
from phoenix_server.service.search_request import check_exclusions, read_queries
from phoenix_server.service.state import Context, ServingState
from phoenix_server.service.status import bounded_violations, retry_delay, to_status

_MAX_RANKINGS = 2  # at once; each holds the scores of the whole corpus
_MAX_WAITING_RANKINGS = 32
_RETRY_S = 0.1
_READ_TOGETHER = 8  # requests of a batch
_WRITTEN_TOGETHER = 256  # vectors

_Asked: TypeAlias = pb.RetrieveRequest | pb.SearchRequest
_Call: TypeAlias = Callable[[], Awaitable[pb.RetrieveResponse]]
_Request = TypeVar("_Request", bound=_Asked)
_Read = TypeVar("_Read")


class RetrievalServicer(retrieval_service_pb2_grpc.RetrievalServiceServicer):
    """Serves queries with the active generation."""

    def __init__(self, state: ServingState) -> None:
        self._state = state
        self._ranking = asyncio.Semaphore(_MAX_RANKINGS)
        self._rankings = 0  # running and waiting

    async def Retrieve(self, request: pb.RetrieveRequest, context: Context) -> pb.RetrieveResponse:
        """Return the exact top k of one user."""
        return await self._retrieve(request, context.time_remaining())

    async def BatchRetrieve(
        self, request: pb.BatchRetrieveRequest, context: Context
    ) -> pb.BatchRetrieveResponse:
        """Return the exact top k of many users; each succeeds or fails on its own."""
        check_count("requests", len(request.requests), self._state.limits.max_batch_users)
        timeout_s = context.time_remaining()  # shared by all
        calls = (partial(self._retrieve, one, timeout_s) for one in request.requests)
        return pb.BatchRetrieveResponse(results=await _results(calls))

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        """Return the exact top k of vectors or posts; each succeeds or fails on its own."""
        timeout_s = context.time_remaining()  # shared by all
        generation, queries, timeout_s = await self._read(request, self._read_search, timeout_s)
        engine = generation.engine
        if request.post_ids:
            engine.corpus.rows_of(to_u64(request.post_ids))  # raises where it does not hold one

        async def search(query: Query) -> pb.RetrieveResponse:
            return _response(request, await _answer(generation, query, timeout_s), engine)

        return pb.SearchResponse(results=await _results(partial(search, each) for each in queries))

    async def EncodeUser(
        self, request: pb.EncodeUserRequest, context: Context
    ) -> pb.EncodeUserResponse:
        """Return a user's representation."""
        generation = self._state.generation
        query = Query(self._read_user(request.user, generation), top_k=0)
        answer = await _answer(generation, query, context.time_remaining())
        return pb.EncodeUserResponse(
            generation=generation.engine.generation,
            user_representation=answer.representation.tolist(),
            user_norm=answer.norm,
        )

    async def EncodeCandidates(
        self, request: pb.EncodeCandidatesRequest, context: Context
    ) -> pb.EncodeCandidatesResponse:
        """Return the candidate tower's vectors of posts."""
        generation = self._state.generation
        posts, authors = read_candidates(
            request.post_ids, request.author_ids, self._state.limits.max_candidates
        )
        vectors = await encode_posts(generation, posts, authors, context.time_remaining())
        response = pb.EncodeCandidatesResponse(
            generation=generation.engine.generation, embedding_size=vectors.shape[1]
        )
        for start in range(0, len(vectors), _WRITTEN_TOGETHER):
            part = vectors[start : start + _WRITTEN_TOGETHER]
            response.candidate_representations.extend(part.ravel().tolist())
            await asyncio.sleep(0)  # other calls have their turn
        return response

    async def ScorePosts(
        self, request: pb.ScorePostsRequest, context: Context
    ) -> pb.ScorePostsResponse:
        """Return exact scores and ranks of posts for a user."""
        post_ids = read_ids("post_ids", request.post_ids, self._state.limits.max_candidates)
        async with self._turn_to_rank():
            generation = self._state.generation
            user = generation.batcher.look_up(self._read_user(request.user, generation))
            score = partial(generation.engine.score_posts, user, post_ids)
            rank = await generation.batcher.call(
                score, kind="score_posts", timeout_s=context.time_remaining()
            )
            ranking = await run_to_end(rank)  # it sorts the whole corpus
        return pb.ScorePostsResponse(
            generation=generation.engine.generation,
            rows_scanned=ranking.scanned,
            rows_eligible=ranking.scanned,
            scores=ranking.scores.tolist(),
            ranks=ranking.ranks.tolist(),
            sequence=ranking.sequence,
        )

    @asynccontextmanager
    async def _turn_to_rank(self) -> AsyncGenerator[None, None]:
        """Wait until few enough rankings run.

        Raises:
            OverloadedError: Too many wait.
        """
        if self._rankings >= _MAX_RANKINGS + _MAX_WAITING_RANKINGS:
            what = f"{self._rankings} calls of ScorePosts run or wait"
            raise OverloadedError(what, retry_after_s=_RETRY_S)
        self._rankings += 1
        try:
            async with self._ranking:
                yield
        finally:
            self._rankings -= 1

    async def _retrieve(
        self, request: pb.RetrieveRequest, timeout_s: float | None
    ) -> pb.RetrieveResponse:
        generation, query, timeout_s = await self._read(request, self._read_query, timeout_s)
        answer = await _answer(generation, query, timeout_s)
        return _response(request, answer, generation.engine)

    async def _read(
        self,
        request: _Request,
        read: Callable[[_Request, Generation], _Read],
        timeout_s: float | None,
    ) -> tuple[Generation, _Read, float | None]:
        """Read a request, and wait for the change that it names.

        Returns:
            The active generation, the request as read for it, and the time that is left.
        """
        generation = self._state.generation
        found = read(request, generation)
        if request.min_sequence:
            timeout_s = await self._wait_for(request.min_sequence, timeout_s)
            if generation is not self._state.generation:  # another one was activated meanwhile
                generation = self._state.generation
                found = read(request, generation)
        return generation, found, timeout_s

    def _read_user(self, user: User, generation: Generation) -> UserColumns:
        return read_user(user, _model(generation), self._state.limits.max_history)

    def _read_query(self, request: pb.RetrieveRequest, generation: Generation) -> Query:
        top_k = read_top_k(request.top_k, generation.engine.config.max_top_k)
        user = self._read_user(request.user, generation)
        return Query(user, top_k, request.return_labels, self._read_filter(request, generation))

    def _read_search(self, request: pb.SearchRequest, generation: Generation) -> list[Query]:
        top_k = read_top_k(request.top_k, generation.engine.config.max_top_k)
        width = _model(generation).embedding_size
        users = read_queries(request, self._state.limits.max_batch_users, width)
        check_exclusions(request, len(users), self._state.limits.max_excluded)
        conditions = self._read_filter(request, generation)
        return [Query(user, top_k, request.return_labels, conditions) for user in users]

    def _read_filter(self, request: _Asked, generation: Generation) -> Filter | None:
        if not request.HasField("filter"):
            return None
        known = generation.engine.corpus.labels.knows
        return read_filter(request.filter, self._state.limits.max_excluded, known)

    async def _wait_for(self, sequence: int, timeout_s: float | None) -> float | None:
        """Wait until a change is visible; return the time that is left."""
        began_s = time.monotonic()
        await self._state.updates.wait_for(sequence, timeout_s)
        return None if timeout_s is None else timeout_s - (time.monotonic() - began_s)


async def _results(calls: Iterable[_Call]) -> list[pb.RetrieveResult]:
    """Make calls at once; return the response or the error of each, in order."""
    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[pb.RetrieveResult]] = []
        for call in calls:
            tasks.append(group.create_task(_result(call)))
            if len(tasks) % _READ_TOGETHER == 0:
                await asyncio.sleep(0)  # other calls have their turn
    return [task.result() for task in tasks]


async def _result(call: _Call) -> pb.RetrieveResult:
    try:
        response = await call()
    except Exception as exc:
        return pb.RetrieveResult(status=_request_status(exc))
    return pb.RetrieveResult(status=pb.RequestStatus(), response=response)


def _model(generation: Generation) -> ModelSizes:
    return generation.engine.bundle.manifest.model


async def _answer(generation: Generation, query: Query, timeout_s: float | None) -> Answer:
    answer = await generation.batcher.retrieve(query, timeout_s=timeout_s)
    if answer.missing and isinstance(query.user, LikePost):  # deleted while the query waited
        raise PostNotFoundError([query.user.post_id])
    if not answer.has_direction:
        raise ArithmeticError("the user tower returned a vector without a direction")
    return answer


def _response(request: _Asked, answer: Answer, engine: Engine) -> pb.RetrieveResponse:
    labels = Labels.none(0) if answer.labels is None else answer.labels
    created_at = answer.created_at_unix_ms.tolist() if request.return_created_at else None
    vector = answer.representation.tolist() if request.return_user_representation else None
    return pb.RetrieveResponse(
        generation=engine.generation,
        rows_scanned=answer.scanned,
        rows_eligible=answer.eligible,
        post_ids=answer.post_ids.tolist(),
        scores=answer.scores.tolist(),
        sequence=answer.sequence,
        author_ids=answer.author_ids.tolist() if request.return_author_ids else None,
        created_at_unix_ms=created_at,
        label_names=labels.names,
        label_counts=labels.counts.tolist(),
        label_indices=labels.indices.tolist(),
        user_representation=vector,
    )


def _request_status(exc: Exception) -> pb.RequestStatus:
    """Return the status that the request would have had as a call of its own."""
    status = to_status(exc, "a request in a batch")
    result = pb.RequestStatus(code=status.code, message=status.message)
    if isinstance(exc, InvalidRequestError):
        for field, description in bounded_violations(exc):
            result.field_violations.add(field=field, description=description)
    elif (delay := retry_delay(exc)) is not None:
        result.retry_delay.CopyFrom(delay)
    return result
