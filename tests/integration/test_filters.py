"""Filters over the wire, compared with numpy."""

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest

from integration.conftest import SHARDED, SMALL
from integration.wire import user, violations
from phoenix_retrieval.v1 import retrieval_service_pb2 as pb
from phoenix_retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from phoenix_server.config import ServeConfig
from phoenix_server.corpus.disk.snapshot import Snapshot, open_snapshot
from servers import run_server

Bools = npt.NDArray[np.bool_]


class Oracle:
    """The golden corpus in numpy, and which of its posts meet a filter."""

    def __init__(self, snapshot: Snapshot) -> None:
        columns = snapshot.columns()
        self.ids, self.authors = columns.post_ids, columns.author_ids
        self.times = columns.created_at_unix_ms
        self.names = list(snapshot.manifest.label_names)
        counts = columns.labels.counts
        self.labels = np.zeros((len(self.ids), len(self.names)), np.bool_)
        self.labels[np.repeat(np.arange(len(self.ids)), counts), columns.labels.indices] = True
        self.vectors = np.concatenate([v.astype(np.float64) for v in snapshot.vectors()])

    def eligible(self, wanted: pb.Filter) -> Bools:
        """Return which posts meet all conditions except `min_score`: [N] bool."""
        mask = np.ones(len(self.ids), np.bool_)
        if wanted.HasField("created_since_unix_ms"):
            mask &= (self.times > 0) & (self.times >= wanted.created_since_unix_ms)
        if wanted.HasField("created_before_unix_ms"):
            mask &= (self.times > 0) & (self.times < wanted.created_before_unix_ms)
        if wanted.any_labels:
            mask &= self.labels[:, [self.names.index(n) for n in wanted.any_labels]].any(axis=1)
        for name in wanted.all_labels:
            mask &= self.labels[:, self.names.index(name)]
        for name in wanted.none_labels:
            mask &= ~self.labels[:, self.names.index(name)]
        mask &= ~np.isin(self.ids, np.array(wanted.excluded_post_ids, np.uint64))
        return mask & ~np.isin(self.authors, np.array(wanted.excluded_author_ids, np.uint64))

    def check(self, request: pb.RetrieveRequest, response: pb.RetrieveResponse) -> None:
        """Check an answer that has the user's representation."""
        mask = self.eligible(request.filter)
        scores = self.vectors @ np.array(response.user_representation)
        assert response.rows_eligible == mask.sum()
        assert response.rows_scanned == len(self.ids)
        if request.filter.HasField("min_score"):
            mask &= scores >= request.filter.min_score
        best = np.flatnonzero(mask)[np.argsort(-scores[mask])][: request.top_k]
        assert len(response.post_ids) == len(best)
        np.testing.assert_allclose(response.scores, scores[best], rtol=0, atol=1e-6)
        rows = [self.ids.tolist().index(post_id) for post_id in response.post_ids]
        assert mask[rows].all()
        np.testing.assert_allclose(scores[rows], scores[best], rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def oracle(golden_corpus: Path) -> Oracle:
    return Oracle(open_snapshot(golden_corpus))


@pytest.fixture(scope="module", params=[1, 7], ids=["1 shard", "7 shards"])
def stub(
    request: pytest.FixtureRequest, bundle_f32: Path, golden_corpus: Path
) -> Generator[RetrievalServiceStub, None, None]:
    config = ServeConfig(
        bundle=bundle_f32,
        corpus=golden_corpus,
        read_only=True,
        shards=request.param,
        engine=SMALL if request.param == 1 else SHARDED,
    )
    with run_server(config) as server, grpc.insecure_channel(server.address) as channel:
        yield RetrievalServiceStub(channel)


def _draw(oracle: Oracle, rng: np.random.Generator) -> pb.Filter:
    """Draw a filter of random conditions."""
    kinds: Iterator[bool] = iter(rng.random(8) < 0.4)
    wanted = pb.Filter()
    if next(kinds):
        wanted.created_since_unix_ms = int(rng.choice(oracle.times))
    if next(kinds):
        wanted.created_before_unix_ms = int(rng.choice(oracle.times))
    for field in (wanted.any_labels, wanted.none_labels):
        if next(kinds):
            field.extend(rng.choice(oracle.names, 2, replace=False))
    if next(kinds):
        wanted.all_labels.append(rng.choice(oracle.names))
    if next(kinds):
        wanted.excluded_post_ids.extend(rng.choice(oracle.ids, 1500).tolist())
        wanted.excluded_post_ids.append(5)
    if next(kinds):
        wanted.excluded_author_ids.extend(rng.choice(oracle.authors, 9).tolist())
    if next(kinds):
        wanted.min_score = float(rng.normal(0.1, 0.1))
    return wanted


def _request(wanted: pb.Filter, top_k: int = 20) -> pb.RetrieveRequest:
    return pb.RetrieveRequest(
        user=user(), top_k=top_k, filter=wanted, return_user_representation=True
    )


@pytest.mark.parametrize("seed", range(6))
def test_each_request_of_a_batch_gets_the_best_posts_that_meet_its_filter(
    stub: RetrievalServiceStub, oracle: Oracle, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    requests = [_request(_draw(oracle, rng), int(rng.integers(1, 60))) for _ in range(7)]
    requests[2].ClearField("filter")
    response = stub.BatchRetrieve(pb.BatchRetrieveRequest(requests=requests))
    for request, result in zip(requests, response.results, strict=True):
        assert result.status.code == 0
        oracle.check(request, result.response)


@pytest.mark.parametrize("seed", range(6))
def test_a_single_request_gets_the_best_posts_that_meet_its_filter(
    stub: RetrievalServiceStub, oracle: Oracle, seed: int
) -> None:
    request = _request(_draw(oracle, np.random.default_rng(100 + seed)))
    oracle.check(request, stub.Retrieve(request))


def test_equivalent_filters_give_identical_answers(
    stub: RetrievalServiceStub, oracle: Oracle
) -> None:
    first, second = oracle.names[:2]
    seen = oracle.ids[:40].tolist()
    one = pb.Filter(any_labels=[first, second], excluded_post_ids=seen)
    other = pb.Filter(
        any_labels=[second, first, second],
        excluded_post_ids=[*reversed(seen), *seen],
        created_since_unix_ms=1,
        created_before_unix_ms=2**63,
    )
    answers = [stub.Retrieve(_request(wanted)) for wanted in (one, other)]
    assert (oracle.times > 0).all()
    assert answers[0] == answers[1]


def test_a_filter_that_no_post_meets_has_an_empty_answer(stub: RetrievalServiceStub) -> None:
    response = stub.Retrieve(_request(pb.Filter(created_before_unix_ms=2)))
    assert (response.rows_eligible, len(response.post_ids)) == (0, 0)


def test_min_score_shortens_the_answer_but_not_the_count_of_eligible_posts(
    stub: RetrievalServiceStub, oracle: Oracle
) -> None:
    everything = stub.Retrieve(_request(pb.Filter()))
    cut = everything.scores[7]
    response = stub.Retrieve(_request(pb.Filter(min_score=cut)))
    assert response.post_ids == everything.post_ids[:8]
    assert response.rows_eligible == len(oracle.ids)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"any_labels": ["nothing"]},
            {"filter.any_labels": "the corpus does not know the label 'nothing'"},
        ),
        (
            {"none_labels": ["a", "b"]},
            {"filter.none_labels": "the corpus does not know the label 'b'"},
        ),
        ({"excluded_post_ids": [0]}, {"filter.excluded_post_ids[0]": "is 0, which is no id"}),
        (
            {"excluded_author_ids": [7, 0]},
            {"filter.excluded_author_ids[1]": "is 0, which is no id"},
        ),
        (
            {"excluded_post_ids": range(1, 2**15 + 2)},
            {"filter.excluded_post_ids": "32769 posts and authors, at most 32768 can be excluded"},
        ),
        ({"min_score": float("nan")}, {"filter.min_score": "is not a number"}),
    ],
)
def test_a_filter_that_cannot_be_applied_fails_the_request(
    stub: RetrievalServiceStub, fields: Mapping[str, Any], expected: dict[str, str]
) -> None:
    assert violations(lambda: stub.Retrieve(_request(pb.Filter(**fields)))) == expected
