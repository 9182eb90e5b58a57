"""Calls of a server's services with plain stubs, and what they fail with."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from phoenix_client import PhoenixClient
from phoenix_retrieval.v1 import corpus_service_pb2 as corpus_pb
from phoenix_retrieval.v1 import model_service_pb2 as model_pb
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from phoenix_retrieval.v1.corpus_service_pb2_grpc import CorpusServiceStub
from phoenix_retrieval.v1.model_service_pb2_grpc import ModelServiceStub
from phoenix_retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from phoenix_retrieval.v1.user_pb2 import Action, User

PATIENCE_S = 1500.0
"""How long to wait for what should come at once: less than the time limit of a test."""

_MAX_CANDIDATES = 512  # of one call


@dataclass(frozen=True)
class Stubs:
    """The services of one server."""

    model: ModelServiceStub
    corpus: CorpusServiceStub
    retrieval: RetrievalServiceStub

    def retrieve(self, top_k: int = 5, **options: Any) -> retrieval_pb.RetrieveResponse:
        """Retrieve the best posts for the test user."""
        request = retrieval_pb.RetrieveRequest(user=user(), top_k=top_k, **options)
        return self.retrieval.Retrieve(request, timeout=PATIENCE_S)

    def user_vector(self) -> list[float]:
        """Return the test user's representation: no post can score higher."""
        return list(self.retrieve(return_user_representation=True).user_representation)

    def encode(self, post_ids: Sequence[int], author_ids: Sequence[int]) -> npt.NDArray[Any]:
        """Return the vectors that the candidate tower gives to posts: [n, D] f64."""
        parts: list[npt.NDArray[Any]] = []
        for start in range(0, len(post_ids), _MAX_CANDIDATES):
            part = slice(start, start + _MAX_CANDIDATES)
            request = retrieval_pb.EncodeCandidatesRequest(
                post_ids=post_ids[part], author_ids=author_ids[part]
            )
            response = self.retrieval.EncodeCandidates(request)
            flat = np.array(response.candidate_representations, np.float64)
            parts.append(flat.reshape(-1, response.embedding_size))
        return np.concatenate(parts)

    def upsert(self, *post_ids: int, **columns: Any) -> corpus_pb.UpsertPostsResponse:
        """Write posts; the id of each post's author is the post's plus 1 by default."""
        columns.setdefault("author_ids", [post_id + 1 for post_id in post_ids])
        request = corpus_pb.UpsertPostsRequest(post_ids=post_ids, **columns)
        return self.corpus.UpsertPosts(request)

    def delete(self, *post_ids: int) -> corpus_pb.DeletePostsResponse:
        """Delete posts."""
        return self.corpus.DeletePosts(corpus_pb.DeletePostsRequest(post_ids=post_ids))

    def posts(self, *post_ids: int) -> corpus_pb.GetPostsResponse:
        """Return what the corpus holds of posts."""
        return self.corpus.GetPosts(corpus_pb.GetPostsRequest(post_ids=post_ids))

    def missing(self, *post_ids: int) -> list[int]:
        """Return the posts that the corpus does not hold."""
        return list(self.posts(*post_ids).missing_post_ids)

    def state(self) -> corpus_pb.GetCorpusResponse:
        """Return the state of the corpus."""
        return self.corpus.GetCorpus(corpus_pb.GetCorpusRequest())

    def snapshot(self) -> corpus_pb.CorpusSnapshot:
        """Write a snapshot of the corpus, which trims its journal."""
        return self.corpus.CreateSnapshot(corpus_pb.CreateSnapshotRequest()).snapshot

    def load(self, **request: Any) -> model_pb.Generation:
        """Load a generation."""
        return self.model.LoadGeneration(model_pb.LoadGenerationRequest(**request)).generation

    def activate(self, number: int) -> model_pb.Generation:
        """Activate a loaded generation."""
        request = model_pb.ActivateGenerationRequest(number=number)
        return self.model.ActivateGeneration(request).generation

    def roll_back(self) -> model_pb.Generation:
        """Activate the generation that was active before."""
        return self.model.RollbackGeneration(model_pb.RollbackGenerationRequest()).generation

    def generations(self) -> dict[int, model_pb.Generation]:
        """Return all generations by their numbers."""
        listed = self.model.ListGenerations(model_pb.ListGenerationsRequest()).generations
        return {each.number: each for each in listed}

    def stats(self) -> model_pb.GetServingStatsResponse:
        """Return the counts of requests."""
        return self.model.GetServingStats(model_pb.GetServingStatsRequest())


@contextmanager
def open_stubs(address: str) -> Generator[Stubs, None, None]:
    """Connect to a server until the block ends."""
    with grpc.insecure_channel(address) as channel:
        yield Stubs(
            ModelServiceStub(channel), CorpusServiceStub(channel), RetrievalServiceStub(channel)
        )


def connect(address: str) -> PhoenixClient:
    """Return a client of a server; its calls may take as long as a busy machine needs."""
    return PhoenixClient(address, timeout_s=PATIENCE_S)


def user(**changes: Any) -> User:
    """Return the test user, with some fields changed."""
    fields: dict[str, Any] = {
        "user_id": 7,
        "post_ids": [11, 12, 13],
        "author_ids": [21, 22, 23],
        "action_masks": [1 << Action.ACTION_FAVORITE, 0, 1 << 18],
    }
    return User(**{**fields, **changes})


def failure(call: Callable[[], Any]) -> status_pb2.Status:
    """Return the status with which a call fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    status = rpc_status.from_call(error)
    if status is None:
        return status_pb2.Status(code=error.code().value[0], message=error.details())
    return status


def violations(call: Callable[[], Any]) -> dict[str, str]:
    """Return the violations of fields with which a call fails, by field."""
    status = failure(call)
    assert status.code == code_pb2.INVALID_ARGUMENT
    bad_request = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad_request)
    for violation in bad_request.field_violations:
        assert violation.field in status.message
    return {violation.field: violation.description for violation in bad_request.field_violations}
