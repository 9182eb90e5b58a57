"""Posts in place of users: the corpus's own vectors are the queries."""

import jax
import numpy as np
import pytest

from phoenix_server.bundle.bundle import Bundle
from phoenix_server.config import EngineConfig
from phoenix_server.corpus.changes import Labels, NetChange, Posts
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.engine.engine import Engine
from phoenix_server.engine.filters import Filter
from phoenix_server.engine.query import Answer, EncodedUser, LikePost, Query
from phoenix_server.runtime.arrays import F32
from server.cases import random_user

_UNKNOWN = 5


@pytest.fixture(scope="module")
def vectors(snapshot: Snapshot) -> dict[int, F32]:
    """Return the vector of each post."""
    found = np.concatenate([chunk.copy() for chunk in snapshot.vectors()])
    return dict(zip(snapshot.columns().post_ids.tolist(), found, strict=True))


@pytest.fixture
def changing(bundle: Bundle, snapshot: Snapshot) -> Engine:
    """Return an engine, on two shards, whose corpus the test may change."""
    config = EngineConfig(
        user_batches=(1,),
        batch_sizes=(2,),
        history_lengths=(),
        result_sizes=(),
        max_top_k=250,
        candidate_batch=5,
    )
    return Engine(bundle, snapshot, tuple(jax.devices()[:2]), config)


def _assert_same(answer: Answer, other: Answer) -> None:
    for ours, theirs in zip(answer, other, strict=True):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def _write(post_id: int, vector: F32) -> NetChange:
    posts = Posts(
        post_ids=np.array([post_id], np.uint64),
        author_ids=np.ones(1, np.uint64),
        created_at_unix_ms=np.zeros(1, np.int64),
        labels=Labels.none(1),
        vectors=vector[None],
    )
    return NetChange(posts, np.zeros(0, np.uint64))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_post_is_searched_by_as_its_vector_is(
    engine: Engine, vectors: dict[int, F32], size: int
) -> None:
    # The posts lie on all of the three shards, one of them first and one last.
    posts = list(vectors)
    chosen = [posts[0], posts[1500], posts[-1], posts[700]][:size]
    by_post = engine.retrieve([Query(LikePost(post, itself=True), 9) for post in chosen])
    by_vector = engine.retrieve([Query(EncodedUser(vectors[post], 1.0), 9) for post in chosen])
    for post, answer, expected in zip(chosen, by_post, by_vector, strict=True):
        _assert_same(answer, expected)
        assert answer.post_ids[0] == post
        assert answer.representation.tobytes() == vectors[post].tobytes()


def test_a_post_is_not_in_its_own_answer_unless_asked_for(
    engine: Engine, vectors: dict[int, F32]
) -> None:
    post, other = list(vectors)[10:12]
    queries = [Query(LikePost(post), 8), Query(LikePost(post, itself=True), 9)]
    queries += [Query(LikePost(other), 250), Query(EncodedUser(vectors[post], 1.0), 9)]
    without, with_it, others, by_vector = engine.retrieve(queries)
    assert with_it.post_ids.tolist() == [post, *without.post_ids.tolist()]
    assert with_it.scores[1:].tobytes() == without.scores.tobytes()
    assert (without.eligible, with_it.eligible) == (2999, 3000)
    assert other not in others.post_ids
    _assert_same(by_vector, with_it)


def test_users_of_all_kinds_share_a_batch(engine: Engine, vectors: dict[int, F32]) -> None:
    post = list(vectors)[99]
    columns = Query(random_user(3), 5)
    queries = [Query(LikePost(post), 5), columns, Query(EncodedUser(vectors[post], 1.0), 5)]
    together = engine.retrieve([*queries, columns])
    for query, answer in zip(queries, together, strict=False):
        (alone,) = engine.retrieve([query])
        if query is columns:  # another program of the tower
            np.testing.assert_allclose(answer.scores, alone.scores, rtol=0, atol=1e-6)
        else:
            _assert_same(answer, alone)


def test_a_filter_applies_besides(engine: Engine, vectors: dict[int, F32]) -> None:
    post = list(vectors)[7]
    (first,) = engine.retrieve([Query(LikePost(post), 5)])
    excluded = np.array([*first.post_ids[:2], post], np.uint64)
    conditions = Filter(excluded_post_ids=excluded, min_score=float(first.scores[3]))
    for itself in (False, True):
        (answer,) = engine.retrieve([Query(LikePost(post, itself), 5, filter=conditions)])
        assert answer.post_ids.tolist() == first.post_ids[2:4].tolist()
        assert answer.eligible == 2997


def test_a_post_that_the_corpus_does_not_hold_is_missing_alone(
    engine: Engine, vectors: dict[int, F32]
) -> None:
    post = list(vectors)[3]
    missing, found = engine.retrieve([Query(LikePost(_UNKNOWN), 5), Query(LikePost(post), 5)])
    assert (missing.missing, found.missing) == (True, False)
    assert (len(missing.post_ids), missing.eligible) == (0, 0)
    _assert_same(found, engine.retrieve([Query(LikePost(post), 5)])[0])


def test_the_vector_is_that_of_the_launch(changing: Engine, vectors: dict[int, F32]) -> None:
    one, other = list(vectors)[:2]
    queries = [Query(LikePost(one, itself=True), 250), Query(LikePost(_UNKNOWN, itself=True), 1)]
    prepared = changing.prepare(queries)
    changing.apply(_write(one, vectors[other]), 1)
    changing.apply(_write(_UNKNOWN, -vectors[other]), 2)
    moved, written = changing.collect(changing.launch(prepared))
    assert moved.representation.tobytes() == vectors[other].tobytes()
    assert {one, other} == set(moved.post_ids[:2].tolist())
    assert (written.post_ids.tolist(), written.missing) == ([_UNKNOWN], False)
    prepared = changing.prepare(queries)
    changing.apply(NetChange(None, np.array([one], np.uint64)), 3)
    deleted, written = changing.collect(changing.launch(prepared))
    assert deleted.missing
    assert (written.post_ids.tolist(), written.sequence) == ([_UNKNOWN], 3)


def test_a_post_that_moved_since_it_was_prepared_is_not_in_its_answer(
    changing: Engine, vectors: dict[int, F32]
) -> None:
    one, other = list(vectors)[:2]
    prepared = changing.prepare([Query(LikePost(one), 250), Query(LikePost(other), 250)])
    changing.apply(NetChange(None, np.array([one, other], np.uint64)), 1)
    for sequence, post in ((2, other), (3, one)):  # each may take the other's row
        changing.apply(_write(post, vectors[post]), sequence)
    for post, answer in zip((one, other), changing.collect(changing.launch(prepared)), strict=True):
        assert not answer.missing
        assert post not in answer.post_ids
        assert answer.eligible == 2999


def test_a_post_costs_no_tower_time(engine: Engine) -> None:
    assert engine.user_seconds(Query(random_user(3), 5)) > 0
    assert engine.user_seconds(Query(LikePost(_UNKNOWN), 5)) == 0
