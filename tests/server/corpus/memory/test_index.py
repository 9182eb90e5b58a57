"""A corpus index against a dict: the posts that it holds, and those that searches find."""

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import numpy.typing as npt
import pytest

from phoenix_server.corpus.changes import Change, Posts, net
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.corpus.memory.id_map import NOWHERE
from phoenix_server.corpus.memory.index import CorpusIndex
from phoenix_server.engine.compiled_search import CompiledSearch
from phoenix_server.engine.engine import Engine
from phoenix_server.errors import PostNotFoundError
from phoenix_server.runtime.program_cache import ProgramCache
from server.corpus.change_cases import (
    NAMES,
    WIDTH,
    Ids,
    held,
    id_array,
    labelled,
    posts_of,
    written_corpus,
)
from server.corpus.reference import Model
from server.search.native.native_cases import defined_scores

_ROWS = 5000
_CAPACITY = 14_000  # several tiles a shard
_TOP_K = 40
_QUERIES = np.random.default_rng(7).integers(-3, 4, (4, WIDTH)).astype(np.float32)

Floats = npt.NDArray[np.float32]


def _ids_of(start: int, end: int) -> Ids:
    """Return consecutive ids."""
    return np.arange(start, end, dtype=np.uint64)


class _Corpus:
    """An index, and the dict that it must be equal to."""

    def __init__(self, index: CorpusIndex, searches: CompiledSearch, built: Model) -> None:
        self.index = index
        self.searches = searches
        self.model = built.copy()

    def make(self, *changes: Change) -> None:
        """Apply changes to both, as one group."""
        self.index.apply(net(changes), self.index.sequence + len(changes))
        for change in changes:
            self.model.apply(change)

    def check(self) -> None:
        """Check that both hold the same posts, and that searches find them."""
        assert held(self.index).unordered() == self.model.unordered()
        times = [post.created_at_unix_ms for post in self.model.values()]
        assert self.index.newest_created_at_unix_ms() == max(times, default=0)
        ids = np.array(sorted(self.model), np.uint64)
        vectors = self.vectors(ids)
        self.check_found(ids, _QUERIES @ vectors.T)  # integers: exact

    def vectors(self, ids: Ids) -> Floats:
        joined = b"".join(self.model[post_id].vector for post_id in ids.tolist())
        return np.frombuffer(joined, np.float32).reshape(-1, WIDTH)

    def check_found(self, ids: Ids, scores: Floats) -> None:
        """Check the results of searches over [n] ascending ids with [4, n] scores."""
        device = self.index.layout.devices[0]
        for query, own, top_k in zip(_QUERIES, scores, (_TOP_K, 5, 1, _TOP_K), strict=True):
            best = np.argsort(-own, kind="stable")[:top_k]
            found = self.searches.top_k(jax.device_put(query[None], device), [top_k])
            assert np.asarray(found.eligible).tolist() == [len(ids)]
            rows, claimed = np.asarray(found.rows)[0], np.asarray(found.scores)[0]
            np.testing.assert_array_equal(self.index.post_ids[rows[: len(best)]], ids[best])
            np.testing.assert_array_equal(claimed[: len(best)], own[best])
            assert np.isneginf(claimed[len(ids) :]).all()
        everything = self.searches.scores(_QUERIES[0])
        rows = self.index.find(ids)
        np.testing.assert_array_equal(everything[rows], scores[0])
        assert np.isneginf(np.delete(everything, rows)).all()

    def shard_sizes(self) -> npt.NDArray[np.intp]:
        rows = self.index.find(np.array(list(self.model), np.uint64))
        layout = self.index.layout
        return np.bincount(rows // layout.padded_rows, minlength=layout.shards)


@pytest.fixture(scope="module", params=[1, 3])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CorpusIndex, CompiledSearch, Posts, Model]:
    """Return an index, its searches, and its first posts."""
    snapshot, built = written_corpus(tmp_path_factory.mktemp("built") / "corpus", _ROWS)
    devices = tuple(jax.devices()[: request.param])
    index = CorpusIndex(snapshot, devices, capacity=_CAPACITY, max_labels=len(NAMES) + 1)
    programs = ProgramCache()
    index.arrays.compile_updates(programs)
    searches = CompiledSearch(index, programs)
    searches.compile(1, _TOP_K)
    searches.check()
    ids = np.arange(1, _ROWS + 1, dtype=np.uint64)
    rows = index.rows_of(ids)
    posts = Posts(
        post_ids=ids,
        author_ids=index.author_ids[rows],
        created_at_unix_ms=index.created_at_unix_ms[rows],
        labels=index.labels.at(rows),
        vectors=np.eye(WIDTH, dtype=np.float32)[np.arange(_ROWS) % WIDTH],
    )
    return index, searches, posts, built


@pytest.fixture
def corpus(shared: tuple[CorpusIndex, CompiledSearch, Posts, Model]) -> Iterator[_Corpus]:
    """Yield a corpus of posts 1 to 5,000, restored after each test."""
    index, searches, posts, built = shared
    corpus = _Corpus(index, searches, built)
    yield corpus
    index.apply(net([np.array(list(held(index)), np.uint64), posts]), 0)


def test_an_index_holds_the_posts_of_its_snapshot(corpus: _Corpus) -> None:
    assert corpus.index.sequence == 0
    corpus.check()


@pytest.mark.parametrize("seed", range(2))
def test_random_changes_have_the_effect_that_they_have_on_a_dict(
    corpus: _Corpus, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    large = rng.integers(2**63, 2**64, 4000, np.uint64)
    universe = np.concatenate([_ids_of(1, 10_001), large, id_array(2**64 - 1)])
    for _ in range(8):
        changes: list[Change] = []
        for _ in range(int(rng.integers(1, 4))):
            count = int(rng.choice([1, 3, 70, 1500, 4000]))
            ids = rng.choice(universe, count, replace=False)
            posts = posts_of(ids.tolist(), seed=int(rng.integers(2**32)))
            changes.append(posts if rng.random() < 0.55 else ids)
        corpus.make(*changes)
        corpus.check()
        asked = rng.choice(universe, 50)
        held, posts, sequence = corpus.index.look_up(asked)
        assert held.tolist() == [post_id in corpus.model for post_id in asked.tolist()]
        np.testing.assert_array_equal(posts.post_ids, asked[held])
        known = [corpus.model[post_id] for post_id in asked[held].tolist()]
        assert posts.author_ids.tolist() == [post.author_id for post in known]
        assert posts.created_at_unix_ms.tolist() == [post.created_at_unix_ms for post in known]
        labels = iter(posts.labels.names[index] for index in posts.labels.indices)
        for count, post in zip(posts.labels.counts.tolist(), known, strict=True):
            assert {next(labels) for _ in range(count)} == set(post.labels)
        assert sequence == corpus.index.sequence


def test_an_index_can_become_empty_and_full(corpus: _Corpus) -> None:
    ids = np.array(list(corpus.model), np.uint64)
    corpus.make(ids[7:], id_array(8, 9))
    corpus.check()
    corpus.make(ids)
    assert not corpus.model
    corpus.check()
    assert corpus.index.find(ids[:3]).tolist() == [NOWHERE] * 3
    corpus.make(posts_of([2**64 - 1]))
    corpus.check()
    # As many posts as there is room for, some of them replaced.
    corpus.make(posts_of(range(1, _CAPACITY)))
    assert len(corpus.index) == _CAPACITY
    corpus.make(posts_of(range(_CAPACITY, 2 * _CAPACITY - 1), seed=1), _ids_of(1, _CAPACITY))
    assert len(corpus.index) == _CAPACITY
    corpus.check()


@pytest.mark.parametrize("count", [1, 64, 65, 1024, 1025, 2050])
def test_changes_of_any_size_reach_the_devices_completely(corpus: _Corpus, count: int) -> None:
    rng = np.random.default_rng(count)
    corpus.make(posts_of(range(_ROWS + 1, _ROWS + 1 + count)))
    corpus.check()
    corpus.make(posts_of((rng.choice(_ROWS, count, replace=False) + 1).tolist(), seed=1))
    corpus.check()
    corpus.make((rng.choice(_ROWS, count, replace=False) + 1).astype(np.uint64))
    corpus.check()


def test_new_posts_fill_the_shards_equally(corpus: _Corpus) -> None:
    shards = corpus.index.layout.shards
    last = _ROWS
    for count in (1, 1, 1, 2, 4, 100, 1, 3001, 5):
        corpus.make(posts_of(range(last + 1, last + 1 + count)))
        last += count
        assert np.ptp(corpus.shard_sizes()) < max(shards, 2)
    assert corpus.shard_sizes().sum() == last


def test_new_posts_reuse_the_rows_of_deleted_posts(corpus: _Corpus) -> None:
    layout = corpus.index.layout
    first_shard = corpus.index.find(_ids_of(1, _ROWS + 1)) < layout.padded_rows
    gone = _ids_of(1, _ROWS + 1)[first_shard][: _ROWS // layout.shards - 3]
    rows = set(corpus.index.find(gone).tolist())
    corpus.make(gone)
    corpus.make(posts_of(range(_ROWS + 1, _ROWS + 1 + len(gone))))
    assert set(corpus.index.find(_ids_of(_ROWS + 1, _ROWS + 1 + len(gone))).tolist()) == rows
    corpus.check()


def test_a_replaced_post_keeps_nothing_of_the_previous_one(corpus: _Corpus) -> None:
    plain = posts_of([7, 8, 9], seed=1, names=[])
    corpus.make(posts_of([7, 8, 9]), id_array(8), plain)
    assert all(corpus.model[n].labels == () for n in (7, 8, 9))
    corpus.check()
    rows = corpus.index.find(id_array(7, 8, 9))
    assert corpus.index.labels.at(rows).counts.tolist() == [0, 0, 0]


def test_the_newest_time_is_that_of_the_posts_left(corpus: _Corpus) -> None:
    corpus.make(posts_of([20, 21, 22]))
    times = sorted((corpus.model[n].created_at_unix_ms, n) for n in (20, 21, 22))
    assert corpus.index.newest_created_at_unix_ms() == times[-1][0]
    corpus.make(id_array(times[-1][1]))
    assert corpus.index.newest_created_at_unix_ms() == times[-2][0]


def test_deleting_posts_that_are_not_held_changes_only_the_sequence(corpus: _Corpus) -> None:
    before = held(corpus.index).unordered()
    corpus.make(id_array(2**64 - 1, 10**6))
    assert corpus.index.sequence == 1
    assert held(corpus.index).unordered() == before
    corpus.check()


def test_scores_do_not_depend_on_the_rows_of_the_posts(corpus: _Corpus) -> None:
    rng = np.random.default_rng(0)
    corpus.make(_ids_of(1, _ROWS + 1))
    for start in (1, 1000, 2500):
        posts = posts_of(range(start, start + 2000))
        vectors = rng.normal(size=(2000, WIDTH)).astype(np.float32)
        posts.vectors[:] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        posts.vectors[::9] = posts.vectors[0]  # ties
        gone = rng.choice(np.arange(1, 4500, dtype=np.uint64), 900, replace=False)
        corpus.make(posts, gone)
    ids = np.array(sorted(corpus.model), np.uint64)
    vectors = corpus.vectors(ids)
    scores = np.stack([defined_scores(vectors, query) for query in _QUERIES])
    corpus.check_found(ids, scores)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (posts_of(range(21, 32), names=[]), "31 posts do not fit in 30 rows"),
        (labelled([1], "new"), "no room for 1 more labels"),
    ],
)
def test_a_change_that_fails_half_way_ends_searches(
    tmp_path: Path, change: Posts, reason: str
) -> None:
    snapshot, _ = written_corpus(tmp_path / "corpus", 20)
    devices = tuple(jax.devices()[:2])
    index = CorpusIndex(snapshot, devices, capacity=30, max_labels=2)
    index.arrays.use(lambda *_: None)
    with pytest.raises(ValueError, match=reason):
        index.apply(net([change]), 1)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="failed half-way; restart"):
            index.arrays.use(lambda *_: None)


def test_rows_are_returned_in_the_order_of_the_posts(engine: Engine, snapshot: Snapshot) -> None:
    post_ids = snapshot.columns().post_ids
    asked = np.random.default_rng(0).choice(post_ids, 500)
    rows = engine.corpus.rows_of(asked)
    np.testing.assert_array_equal(engine.corpus.post_ids[rows], asked)
    written = dict(zip(post_ids.tolist(), snapshot.columns().author_ids.tolist(), strict=True))
    assert engine.corpus.author_ids[rows].tolist() == [
        written[post_id] for post_id in asked.tolist()
    ]


def test_all_missing_posts_are_listed(engine: Engine, snapshot: Snapshot) -> None:
    post_ids = snapshot.columns().post_ids
    missing = np.array([1, 2**64 - 1, post_ids[5] + np.uint64(1)], np.uint64)
    asked = np.concatenate([post_ids[:2], missing[:2], post_ids[2:3], missing[2:]])
    with pytest.raises(PostNotFoundError) as caught:
        engine.corpus.rows_of(asked)
    assert caught.value.post_ids == tuple(missing.tolist())
    assert str(caught.value).startswith("3 of the posts are not in the corpus: 1, ")


def test_labels_are_returned_in_the_order_of_the_posts(engine: Engine, snapshot: Snapshot) -> None:
    columns = snapshot.columns()
    asked = columns.post_ids[[2999, 0, 7, 7]]
    labels = engine.corpus.labels.at(engine.corpus.rows_of(asked))
    assert labels.counts.tolist() == [1, 1, 1, 1]
    named = [labels.names[index] for index in labels.indices]
    expected = columns.labels.indices[[2999, 0, 7, 7]]
    assert named == [snapshot.manifest.label_names[code] for code in expected]
    assert engine.corpus.labels.at(np.zeros(0, np.int32)).counts.tolist() == []
