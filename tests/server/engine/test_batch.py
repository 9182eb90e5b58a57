"""Batches of users with columns and of encoded ones; answers from what the device returned."""

from itertools import product
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from phoenix_server.bundle.towers import EncodedUsers
from phoenix_server.corpus.memory.index import CorpusIndex
from phoenix_server.engine.batch import LaunchedBatch, collect_answers
from phoenix_server.engine.engine import Engine
from phoenix_server.engine.filters import Filter
from phoenix_server.engine.query import Answer, EncodedUser, Query
from phoenix_server.search.sharded import TopK
from server.cases import random_user

K = 4


class _Batch(NamedTuple):
    """What the device would return for two users, [2, K] and [1 or 2]."""

    scores: Any
    rows: Any
    eligible: Any

    def launched(self, *queries: Query) -> LaunchedBatch:
        vectors, norms = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([2, 5], np.float32)
        users = EncodedUsers(*map(jnp.asarray, (vectors, norms)))
        return LaunchedBatch(queries, users, TopK(*map(jnp.asarray, (*self, np.int32(0)))))


@pytest.fixture
def corpus(engine: Engine) -> CorpusIndex:
    return engine.corpus


@pytest.fixture
def batch(corpus: CorpusIndex) -> _Batch:
    scores = np.array([[0.9, 0.7, 0.5, 0.3], [0.8, 0.6, -np.inf, -np.inf]], np.float32)
    rows = corpus.layout.spread(len(corpus))[np.arange(2 * K).reshape(2, K)]
    return _Batch(scores, rows, np.array([3000, 2], np.int32))


def test_each_query_gets_its_own_number_of_posts(corpus: CorpusIndex, batch: _Batch) -> None:
    queries = Query(random_user(1), 3), Query(random_user(2), 4)
    first, second = collect_answers(batch.launched(*queries), corpus)
    np.testing.assert_array_equal(first.scores, batch.scores[0, :3])
    np.testing.assert_array_equal(second.scores, batch.scores[1, :2])  # only two are eligible
    for answer, rows in ((first, batch.rows[0, :3]), (second, batch.rows[1, :2])):
        np.testing.assert_array_equal(answer.post_ids, corpus.post_ids[rows])
        np.testing.assert_array_equal(answer.author_ids, corpus.author_ids[rows])
        np.testing.assert_array_equal(answer.created_at_unix_ms, corpus.created_at_unix_ms[rows])
        assert (answer.scanned, answer.sequence) == (len(corpus), corpus.sequence)
        assert answer.labels is None
    assert (first.eligible, second.eligible) == (3000, 2)
    assert (first.norm, second.norm) == (2, 5)
    assert second.representation.tolist() == [3, 4, 5]


def test_one_count_of_eligible_posts_may_stand_for_all_queries(
    corpus: CorpusIndex, batch: _Batch
) -> None:
    queries = Query(random_user(1), 2), Query(random_user(2), 1)
    launched = batch._replace(eligible=np.array([3000], np.int32)).launched(*queries)
    assert [answer.eligible for answer in collect_answers(launched, corpus)] == [3000, 3000]


def test_posts_below_the_least_score_are_eligible_and_not_returned(
    corpus: CorpusIndex, batch: _Batch
) -> None:
    query = Query(random_user(1), 4, filter=Filter(min_score=0.5))
    (answer,) = collect_answers(batch.launched(query), corpus)
    np.testing.assert_array_equal(answer.scores, batch.scores[0, :3])
    assert answer.eligible == 3000


def test_labels_are_those_of_the_posts_returned(corpus: CorpusIndex, batch: _Batch) -> None:
    (answer,) = collect_answers(batch.launched(Query(random_user(1), 3, labels=True)), corpus)
    assert answer.labels is not None
    assert len(answer.labels.counts) == 3


def test_without_a_search_users_are_only_encoded(corpus: CorpusIndex, batch: _Batch) -> None:
    launched = batch.launched(Query(random_user(1), 0))._replace(found=None)
    (answer,) = collect_answers(launched, corpus)
    assert (len(answer.post_ids), len(answer.scores), answer.eligible) == (0, 0, 0)
    assert answer.representation.tolist() == [0, 1, 2]


def test_answers_own_their_arrays(engine: Engine) -> None:
    answer = engine.retrieve([Query(random_user(5), 3)])[0]
    for array in (answer.post_ids, answer.scores, answer.author_ids, answer.representation):
        assert array.base is None


def _user(answer: Answer) -> EncodedUser:
    return EncodedUser(answer.representation, answer.norm)


@pytest.mark.parametrize("known", list(product((False, True), repeat=4)))
def test_any_users_of_a_batch_may_come_encoded(engine: Engine, known: tuple[bool, ...]) -> None:
    queries = [Query(random_user(n), k) for n, k in ((5, 9), (20, 0), (3, 250), (16, 1))]
    # Encoded alone, through another tower program: not the vectors that the batch would compute.
    alone = [engine.retrieve([query])[0] for query in queries]
    compiled = engine.unforeseen_compilations
    mixed = [
        query._replace(user=_user(answer)) if is_known else query
        for query, answer, is_known in zip(queries, alone, known, strict=True)
    ]
    for answer, expected, is_known in zip(engine.retrieve(mixed), alone, known, strict=True):
        if is_known:
            for ours, theirs in zip(answer, expected, strict=True):
                assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
        np.testing.assert_allclose(answer.representation, expected.representation, atol=1e-6)
        np.testing.assert_allclose(answer.scores, expected.scores, rtol=0, atol=1e-6)
        assert answer.norm == pytest.approx(expected.norm, rel=1e-5)
    assert engine.unforeseen_compilations == compiled


def test_the_tower_runs_for_users_with_columns_alone(engine: Engine) -> None:
    columns = [Query(random_user(n), 3) for n in (1, 2, 3, 4)]
    known = columns[0]._replace(user=_user(engine.retrieve(columns)[0]))
    assert engine.prepare([known, known]).chunks == ()
    ((inputs, places),) = engine.prepare([known, *columns[1:]]).chunks
    assert (len(inputs["user_rows"]), places.tolist()) == (4, [1, 2, 3, 4])
    assert not engine.prepare([known, *columns[1:]]).is_in_place
    assert not engine.prepare([*columns[1:], known]).is_in_place
    assert engine.prepare(columns).is_in_place
    assert engine.prepare(columns[1:]).is_in_place


def test_an_encoded_user_costs_no_tower_time(engine: Engine) -> None:
    query = Query(random_user(1), 3)
    assert engine.user_seconds(query) > 0
    assert engine.user_seconds(query._replace(user=_user(engine.retrieve([query])[0]))) == 0


def test_posts_are_scored_for_an_encoded_user_as_they_were_found(engine: Engine) -> None:
    # Encoded in a batch, through another tower program than `score_posts` runs for columns.
    answer = engine.retrieve([Query(random_user(n), 250) for n in (5, 2, 3)])[0]
    ranking = engine.score_posts(_user(answer), answer.post_ids)()
    assert ranking.scores.tobytes() == answer.scores.tobytes()
    assert ranking.ranks.tolist() == list(range(1, 251))
