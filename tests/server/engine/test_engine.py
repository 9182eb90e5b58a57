from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt
import pytest

from phoenix_server.bundle.bundle import Bundle, open_bundle
from phoenix_server.config import EngineConfig
from phoenix_server.corpus.changes import NetChange
from phoenix_server.corpus.disk.snapshot import Snapshot, open_snapshot
from phoenix_server.engine.engine import Engine
from phoenix_server.engine.query import Answer, EncodedUser, LikePost, Query
from server.cases import (
    HISTORY_LENGTH,
    copied,
    edit_manifest,
    golden_answers,
    golden_user,
    newest,
    random_user,
)

_TOLERANCE = 1e-6


class Oracle(NamedTuple):
    """A corpus in the order of ids.

    Attributes:
        ids: [N] u64, ascending.
        vectors: [N, D] f64.
    """

    ids: npt.NDArray[np.uint64]
    vectors: npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def oracle(snapshot: Snapshot) -> Oracle:
    ids = snapshot.columns().post_ids
    order = np.argsort(ids)
    vectors = np.concatenate([vectors.copy() for vectors in snapshot.vectors()])
    return Oracle(ids[order], vectors[order].astype(np.float64))


def _assert_exact(answer: Answer, oracle: Oracle, top_k: int) -> None:
    """Compare an answer with sorting all scores of its representation in float64."""
    scores = oracle.vectors @ answer.representation.astype(np.float64)
    rows = np.searchsorted(oracle.ids, answer.post_ids)
    np.testing.assert_array_equal(oracle.ids[rows], answer.post_ids)
    assert answer.eligible == answer.scanned == len(scores)
    assert len(answer.post_ids) == len(answer.scores) == min(top_k, len(scores))
    assert len(set(rows.tolist())) == len(rows)
    best = np.sort(scores)[::-1][:top_k]
    np.testing.assert_allclose(answer.scores, best, rtol=0, atol=_TOLERANCE)
    np.testing.assert_allclose(answer.scores, scores[rows], rtol=0, atol=_TOLERANCE)
    np.testing.assert_array_equal(np.lexsort((rows, -answer.scores)), range(len(best)))
    gaps = np.diff(-np.sort(-scores)[: top_k + 1]) < -2 * _TOLERANCE  # where order is certain
    certain = np.concatenate([[True], gaps])[: len(best)] & np.append(gaps, True)[: len(best)]
    expected = np.argsort(-scores, kind="stable")[:top_k]
    np.testing.assert_array_equal(rows[certain], expected[certain])
    assert not len(best) or certain.mean() > 0.8


def _assert_same(answer: Answer, other: Answer) -> None:
    """Check that two answers are equal bit for bit."""
    for ours, theirs in zip(answer, other, strict=True):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_top_k_of_every_batch_size_are_exact(engine: Engine, oracle: Oracle, size: int) -> None:
    top_ks = [250, 1, 7, 8][:size]
    queries = [Query(random_user(3 + i), top_k) for i, top_k in enumerate(top_ks)]
    answers = engine.retrieve(queries)
    assert len(answers) == size
    for answer, top_k in zip(answers, top_ks, strict=True):
        _assert_exact(answer, oracle, top_k)
    assert len({answer.representation.tobytes() for answer in answers}) == size


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, HISTORY_LENGTH, HISTORY_LENGTH + 50])
def test_the_top_k_of_every_history_length_are_exact(
    engine: Engine, oracle: Oracle, length: int
) -> None:
    (answer,) = engine.retrieve([Query(random_user(length), 20)])
    _assert_exact(answer, oracle, 20)
    assert np.linalg.norm(answer.representation) == pytest.approx(1, abs=1e-5)
    assert answer.norm > 0


def test_a_history_alone_has_an_answer(engine: Engine, oracle: Oracle) -> None:
    (answer,) = engine.retrieve([Query(random_user(3, user_id=0), 20)])
    _assert_exact(answer, oracle, 20)


def test_answers_are_the_published_ones(engine: Engine, golden_layout: Path) -> None:
    # Published in bfloat16, served in float32: equal to a few thousandths.
    for expected in golden_answers(golden_layout):
        (answer,) = engine.retrieve([Query(golden_user(expected), 200)])
        np.testing.assert_allclose(
            answer.representation, expected["user_representation"], rtol=0, atol=6e-3
        )
        np.testing.assert_allclose(answer.scores, expected["scores"], rtol=0, atol=6e-3)
        shared = set(answer.post_ids.tolist()) & set(expected["post_ids"])
        assert len(shared) > 180


def test_a_long_history_counts_by_its_newest(engine: Engine) -> None:
    user = random_user(HISTORY_LENGTH + 9)
    cut = newest(user, HISTORY_LENGTH)
    _assert_same(engine.retrieve([Query(user, 9)])[0], engine.retrieve([Query(cut, 9)])[0])


def test_neighbours_do_not_change_an_answer(engine: Engine) -> None:
    query = Query(random_user(5), 20)
    neighbours = [Query(random_user(n, seed=1), k) for n, k in ((1, 20), (16, 9), (0, 0))]
    alone = engine.retrieve([query])[0]
    first = engine.retrieve([query, *neighbours])[0]
    for place in range(4):
        others = [Query(random_user(n, seed=2), 250) for n in (2, 0, 16)]
        others.insert(place, query)
        _assert_same(engine.retrieve(others)[place], first)
    # Another batch size of the tower is another program: equal up to rounding.
    np.testing.assert_allclose(first.representation, alone.representation, rtol=0, atol=_TOLERANCE)
    np.testing.assert_allclose(first.scores, alone.scores, rtol=0, atol=_TOLERANCE)


def test_longer_neighbours_do_not_change_an_answer(engine: Engine) -> None:
    # They run through programs of their own; the search is the same for all.
    query = Query(random_user(5), 20)
    (alone,) = engine.retrieve([query])
    for length in (17, HISTORY_LENGTH):
        for top_k in (1, 250):
            long = Query(random_user(length), top_k)
            _assert_same(engine.retrieve([query, long, long, long])[0], alone)
            _assert_same(engine.retrieve([long, query])[1], alone)


def test_a_batch_of_several_lengths_and_top_ks_answers_each(engine: Engine, oracle: Oracle) -> None:
    queries = [
        Query(random_user(length), top_k)
        for length, top_k in ((HISTORY_LENGTH, 3), (2, 250), (40, 7), (0, 8))
    ]
    for query, answer in zip(queries, engine.retrieve(queries), strict=True):
        _assert_exact(answer, oracle, query.top_k)
        (alone,) = engine.retrieve([query])
        gap = np.abs(answer.representation - alone.representation).max()
        assert gap <= _TOLERANCE


def test_a_batch_smaller_than_its_program_is_padded_inertly(engine: Engine) -> None:
    queries = [Query(random_user(5), 20), Query(random_user(2), 3), Query(random_user(0), 1)]
    for padded, full in zip(
        engine.retrieve(queries),
        engine.retrieve([*queries, Query(random_user(9), 5)]),
        strict=False,
    ):
        _assert_same(padded, full)


def test_batches_overlap_on_the_device(engine: Engine) -> None:
    batches = [[Query(random_user(n, seed=i), 9) for n in (3, 20)] for i in range(3)]
    launched = [engine.launch(engine.prepare(batch)) for batch in batches]
    for batch, one in reversed(list(zip(batches, launched, strict=True))):
        for answer, expected in zip(engine.collect(one), engine.retrieve(batch), strict=True):
            _assert_same(answer, expected)


def test_nothing_compiles_after_the_engine_is_made(bundle: Bundle, snapshot: Snapshot) -> None:
    config = EngineConfig(
        user_batches=(1, 2),
        batch_sizes=(1, 4),
        history_lengths=(16,),
        result_sizes=(7,),
        max_top_k=250,
        candidate_batch=5,
    )
    engine = Engine(bundle, snapshot, tuple(jax.devices()[:3]), config)
    necessary = engine.loaded_programs[1]
    post = int(snapshot.columns().post_ids[0])

    def answer_everything() -> list[Answer]:
        answers: list[Answer] = []
        for lengths in ((3,), (17,), (3, 4), (3, 17), (3, 4, 16, 17), (0, 1, 2)):
            for top_k in (0, 7, 250):
                queries = [Query(random_user(n), top_k) for n in lengths]
                answers += engine.retrieve(queries)
                known = EncodedUser(answers[-1].representation, answers[-1].norm)
                answers += engine.retrieve([Query(known, top_k), *queries[1:]])
                answers += engine.retrieve([Query(LikePost(post), top_k), *queries[1:]])
        engine.score_posts(random_user(3), np.zeros(0, np.uint64))()
        engine.apply(NetChange(None, np.array([5], np.uint64)), engine.corpus.sequence)
        engine.encode_posts(*np.arange(1, 15, dtype=np.uint64).reshape(2, 7))
        return answers

    before = answer_everything()
    assert engine.unforeseen_compilations == 0
    engine.compile_rest(stopped=lambda: True)
    assert engine.loaded_programs[1] == necessary
    engine.compile_rest()
    assert engine.loaded_programs[1] > necessary
    for now, then in zip(answer_everything(), before, strict=True):
        np.testing.assert_allclose(now.representation, then.representation, rtol=0, atol=_TOLERANCE)
    assert engine.unforeseen_compilations == 0
    jax.jit(lambda x: x + engine.max_batch)(np.ones(3))
    assert engine.unforeseen_compilations == 1


def test_costs_are_measured_for_what_is_compiled(engine: Engine) -> None:
    assert engine.user_seconds(Query(random_user(3), 5)) > 0
    assert engine.user_seconds(Query(random_user(HISTORY_LENGTH + 9), 5)) > 0
    assert engine.batch_seconds(1) > 0
    assert engine.batch_seconds(4) > 0


def test_top_k_zero_only_encodes(engine: Engine) -> None:
    user = random_user(5)
    (encoded,) = engine.retrieve([Query(user, 0)])
    (answered,) = engine.retrieve([Query(user, 5)])
    assert (len(encoded.post_ids), len(encoded.scores), encoded.eligible) == (0, 0, 0)
    assert encoded.representation.tobytes() == answered.representation.tobytes()
    assert encoded.norm == answered.norm
    mixed = engine.retrieve([Query(user, 0), Query(user, 5)])
    assert [len(answer.post_ids) for answer in mixed] == [0, 5]


def test_posts_are_scored_and_ranked_as_retrieve_does(engine: Engine, oracle: Oracle) -> None:
    user = random_user(5)
    (answer,) = engine.retrieve([Query(user, 250)])
    ranking = engine.score_posts(user, answer.post_ids)()
    assert ranking.scores.tobytes() == answer.scores.tobytes()
    assert ranking.ranks.tolist() == list(range(1, 251))
    everything = engine.score_posts(user, oracle.ids)()
    expected = oracle.vectors @ answer.representation.astype(np.float64)
    np.testing.assert_allclose(everything.scores, expected, rtol=0, atol=_TOLERANCE)
    assert sorted(everything.ranks) == list(range(1, 3001))
    assert everything.scanned == 3000


@pytest.mark.parametrize("count", [1, 4, 5, 6, 13])
def test_any_number_of_candidates_is_encoded(engine: Engine, count: int) -> None:
    posts, authors = np.random.default_rng(0).integers(1, 2**64, (2, 13), np.uint64)
    everything = engine.encode_posts(posts, authors)
    vectors = engine.encode_posts(posts[:count], authors[:count])
    assert vectors.shape == (count, 128)
    np.testing.assert_array_equal(vectors, everything[:count])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert not np.allclose(vectors, engine.encode_posts(authors[:count], posts[:count]))


@pytest.mark.parametrize(
    "changes",
    [
        {"user_batches": ()},
        {"user_batches": (8, 4)},
        {"batch_sizes": ()},
        {"batch_sizes": (0, 1)},
        {"batch_sizes": (2, 1)},
        {"batch_sizes": (1, 1)},
        {"history_lengths": (-1,)},
        {"result_sizes": (8, 4)},
        {"max_top_k": 0},
        {"candidate_batch": 0},
        {"max_labels": 0},
        {"capacity": 0},
    ],
)
def test_sizes_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    EngineConfig()
    with pytest.raises(ValueError, match=next(iter(changes))):
        EngineConfig(**changes)


def test_neighbours_move_a_bfloat16_user_by_no_more_than_rounding(
    bundle_bf16: Path, snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phoenix_server.bundle.towers.count_lanes", lambda device: 1)
    bundle = open_bundle(bundle_bf16)
    corpus = copied(snapshot.path, tmp_path / "corpus")
    fingerprint = bundle.manifest.tower_fingerprint
    edit_manifest(corpus, lambda manifest: manifest.update(tower_fingerprint=fingerprint))
    config = EngineConfig(
        user_batches=(1, 4),
        batch_sizes=(1, 4),
        history_lengths=(),
        result_sizes=(),
        max_top_k=4000,
    )
    engine = Engine(bundle, open_snapshot(corpus), tuple(jax.devices()[:1]), config)
    query = Query(random_user(5), 20)
    (alone,) = engine.retrieve([query])
    for longest in (3, HISTORY_LENGTH):
        batch = [query, *(Query(random_user(longest, seed), 20) for seed in (1, 2))]
        ((_, places),) = engine.prepare(batch).chunks
        assert len(places) == 4  # all run together, through another program than one alone
        among = engine.retrieve(batch)[0]
        np.testing.assert_allclose(among.representation, alone.representation, rtol=0, atol=5e-3)
