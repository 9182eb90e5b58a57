"""A reference model of a corpus, and a real corpus on disk and in memory to compare with it.

Vectors have entries of 1/4, so that they are of unit length and scores of integer queries are
exact. There are few different vectors, so that many posts tie.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.changes import (
    Change,
    ChangeResult,
    Ids,
    Labels,
    NetChange,
    PostColumns,
    Posts,
)
from phoenix_server.corpus.disk.compaction import prune_snapshots, write_snapshot
from phoenix_server.corpus.disk.snapshot import Snapshot, to_record_batch, verify
from phoenix_server.corpus.disk.snapshot_writer import new_snapshot
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.memory.index import CorpusIndex
from phoenix_server.corpus.updates.commands import UpdateTarget
from phoenix_server.corpus.updates.replay import replay
from phoenix_server.corpus.updates.worker import UpdateWorker
from phoenix_server.engine.compiled_search import CompiledSearch
from phoenix_server.engine.filters import Filter, FilterMasks
from phoenix_server.runtime.program_cache import ProgramCache
from server.corpus.reference import Post, change_model, described, evicted

T = TypeVar("T")
Floats = npt.NDArray[np.float32]

WIDTH = 16
CAPACITY = 400
MAX_LABELS = 12
LABELS = tuple(f"label {n}" for n in range(MAX_LABELS))
TOWERS = tuple(letter * 64 for letter in "abc")
BATCH = 4
TOP_KS = (50, CAPACITY)  # blocks are chosen for the first, all rows are scored for the second


_KINDS = np.where(np.random.default_rng(7).random((9, WIDTH)) < 0.5, -0.25, 0.25)


def encode(tower: str, post_ids: Ids, author_ids: Ids) -> Floats:
    """Return the vectors of posts by some towers."""
    kinds = post_ids * np.uint64(7) + author_ids * np.uint64(5) * np.uint64(1 + TOWERS.index(tower))
    return _KINDS[kinds % np.uint64(len(_KINDS))].astype(np.float32)


def draw_posts(rng: np.random.Generator, ids: Sequence[int], tower: str) -> Posts:
    """Draw posts of some ids."""
    n = len(ids)
    post_ids = np.array(ids, np.uint64)
    author_ids = rng.integers(1, 12, n).astype(np.uint64)
    counts = rng.integers(0, 3, n)
    names = tuple(rng.choice(LABELS, 4, replace=False).tolist())
    indices = [rng.choice(4, count, replace=False) for count in counts]
    return Posts(
        post_ids=post_ids,
        author_ids=author_ids,
        created_at_unix_ms=rng.integers(0, 5, n) * (2**33 + 1),
        labels=Labels(
            names,
            counts.astype(np.int32),
            np.concatenate([np.zeros(0, np.int32), *indices]).astype(np.int32),
        ),
        vectors=encode(tower, post_ids, author_ids),
        tower=tower,
    )


def draw_filter(rng: np.random.Generator, model: "Model") -> Filter | None:
    """Draw a filter that the model can apply."""
    if rng.random() < 0.3:
        return None
    known = sorted(model.labels)

    def some(most: int) -> tuple[str, ...]:
        if not known or rng.random() < 0.6:
            return ()
        return tuple(rng.choice(known, min(len(known), most), replace=False).tolist())

    def time() -> int | None:
        return None if rng.random() < 0.6 else int(rng.integers(0, 5)) * (2**33 + 1)

    def ids(largest: int, count: int) -> Ids:
        return rng.integers(1, largest, 0 if rng.random() < 0.6 else count).astype(np.uint64)

    return Filter(
        since_unix_ms=time(),
        before_unix_ms=time(),
        any_labels=some(3),
        all_labels=some(1),
        none_labels=some(2),
        excluded_post_ids=ids(600, 200),
        excluded_author_ids=ids(12, 3),
    )


@dataclass
class Model:
    """What the corpus should hold, and how it is served."""

    posts: dict[int, Post] = field(default_factory=dict[int, Post])
    labels: set[str] = field(default_factory=set[str])
    sequence: int = 0
    tower: str = TOWERS[0]
    evict_oldest: bool = False

    def fits(self, change: Change) -> bool:
        """Return whether there is room for a change, or eviction can make room."""
        if not isinstance(change, Posts):
            return True
        there = set(change.post_ids.tolist())
        if not self.evict_oldest:
            there |= set(self.posts)
        names = self.labels | set(change.labels.names)
        return len(there) <= CAPACITY and len(names) <= MAX_LABELS

    def evict(self, change: Change) -> int:
        """Make room for a change that fits; return how many posts are evicted."""
        if not isinstance(change, Posts):
            return 0
        times = {post_id: post.created_at_unix_ms for post_id, post in self.posts.items()}
        gone = evicted(times, change.post_ids.tolist(), CAPACITY)
        for post_id in gone:
            del self.posts[post_id]
        self.sequence += bool(gone)
        return len(gone)

    def apply(self, change: Change) -> None:
        """Apply a change."""
        self.sequence += 1
        if isinstance(change, Posts):
            self.labels |= set(change.labels.names)
            vectors = encode(self.tower, change.post_ids, change.author_ids)
            change = replace(change, vectors=vectors)
        change_model(self.posts, change)

    def swap(self, tower: str) -> None:
        """Serve with other towers."""
        self.tower = tower
        for post_id, post in self.posts.items():
            ids, authors = (np.array([n], np.uint64) for n in (post_id, post.author_id))
            self.posts[post_id] = post._replace(vector=encode(tower, ids, authors)[0].tobytes())

    def retrieve(self, query: Floats, wanted: Filter | None) -> list[tuple[int, float]]:
        """Return all posts that meet a filter, with their scores, in order."""
        found = [
            (post_id, float(query.astype(np.float64) @ np.frombuffer(post.vector, np.float32)))
            for post_id, post in self.posts.items()
            if wanted is None or _meets(post_id, post, wanted)
        ]
        return sorted(found, key=lambda each: (-each[1], each[0]))


def _meets(post_id: int, post: Post, wanted: Filter) -> bool:
    since, before = wanted.since_unix_ms, wanted.before_unix_ms
    labels = set(post.labels)
    return (
        (since is None or 0 < post.created_at_unix_ms >= since)
        and (before is None or 0 < post.created_at_unix_ms < before)
        and (not wanted.any_labels or not labels.isdisjoint(wanted.any_labels))
        and labels.issuperset(wanted.all_labels)
        and labels.isdisjoint(wanted.none_labels)
        and post_id not in wanted.excluded_post_ids
        and post.author_id not in wanted.excluded_author_ids
    )


class Target:
    """The part of an engine that the update worker uses."""

    def __init__(self, corpus: CorpusIndex, tower: str) -> None:
        self.corpus = corpus
        self.tower = tower

    def encode_posts(self, post_ids: Ids, author_ids: Ids) -> Floats:
        return encode(self.tower, post_ids, author_ids)

    def apply(self, change: NetChange, sequence: int) -> None:
        self.corpus.apply(change, sequence)


class Encoder(NamedTuple):
    """An encoder for towers that are not served yet."""

    tower: str

    def encode_posts(self, post_ids: Ids, author_ids: Ids) -> Floats:
        return encode(self.tower, post_ids, author_ids)


class Served(NamedTuple):
    """The parts of an engine without the towers."""

    target: Target
    searches: CompiledSearch
    filters: FilterMasks


def run(function: Callable[[], None]) -> None:
    """Run a function between two batches; here there are no others."""
    function()


class Real:
    """A corpus on disk and in memory, without towers, which can restart from the disk."""

    def __init__(
        self,
        path: Path,
        posts: Posts,
        *,
        shards: int,
        top_k: int,
        programs: ProgramCache,
        evict_oldest: bool,
    ) -> None:
        with new_snapshot(
            path, source=path, embedding_size=WIDTH, tower_fingerprint=TOWERS[0]
        ) as writer:
            writer.write(to_record_batch(posts))
        self.top_k = top_k
        self._evict_oldest = evict_oldest
        self._path, self._shards, self._programs = path, shards, programs
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._open(TOWERS[0])

    def submit(self, *changes: Change) -> list[ChangeResult | BaseException]:
        """Submit changes together, and return their results or errors."""

        async def submit() -> list[ChangeResult | BaseException]:
            tasks = [asyncio.ensure_future(self._updates.submit(change)) for change in changes]
            return await asyncio.gather(*tasks, return_exceptions=True)

        return self._run(submit())

    def snapshot(self) -> None:
        """Write a snapshot and verify it."""
        verify(self._run(self._updates.snapshot()))

    def load(self, tower: str) -> None:
        """Load the corpus for other towers beside the one that is served."""
        store = self._updates.store
        with self._updates.snapshots_paused():
            snapshot = write_snapshot(store, Encoder(tower))
            verify(snapshot)
            self._kept[tower] = served = self._serve(snapshot)
            replay(store, served.target)

    def activate(self, tower: str) -> bool:
        """Serve with other towers, if they are loaded; return whether they are."""
        if tower not in self._kept:
            return False
        store, served = self._updates.store, self._kept[tower]

        def prepare() -> None:
            replay(store, served.target)
            self._served = served

        target = UpdateTarget(store, served.target, run)
        self._run(self._updates.switch(target, prepare))
        return True

    def restart(self, tower: str, *, gently: bool) -> None:
        """Restart from the disk; unless gently, without closing the update worker."""
        if gently:
            assert self._updates.close()
        self._updates.store.close()  # as the kernel does after a crash
        self._open(tower)

    def retrieve(
        self, queries: Floats, filters: Sequence[Filter | None]
    ) -> tuple[list[list[tuple[int, float]]], list[int]]:
        """Return the best ids and scores for [B, D] queries, and how many posts were eligible."""
        corpus = self.target.corpus
        masks = None
        if any(each is not None for each in filters):
            masks = self._served.filters.masks(
                filters, self._served.filters.look_up(filters), BATCH
            )
        first = corpus.layout.devices[0]
        found = self._served.searches.top_k(jax.device_put(queries, first), self.top_k, masks)
        scores, rows = np.asarray(found.scores), np.asarray(found.rows)
        eligible = np.resize(np.asarray(found.eligible), len(queries)).tolist()
        ids = corpus.post_ids[rows]
        answers = [
            list(zip(ids[i, :n].tolist(), scores[i, :n].tolist(), strict=True))
            for i, n in enumerate(min(count, self.top_k) for count in eligible)
        ]
        return answers, eligible

    def close(self) -> None:
        """End the update worker and the event loop."""
        self._updates.close()
        self._updates.store.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def target(self) -> Target:
        """The corpus that is served."""
        return self._served.target

    def _open(self, tower: str) -> None:
        store = Store(self._path, tower=tower)
        snapshot = store.snapshot
        if snapshot.manifest.tower_fingerprint != tower:
            snapshot = write_snapshot(store, Encoder(tower))
        self._served = self._serve(snapshot)
        self._kept = {tower: self._served}
        replay(store, self.target)
        prune_snapshots(store)
        self._updates = UpdateWorker(
            UpdateTarget(store, self.target, run),
            snapshot_after=10**9,
            evict_oldest=self._evict_oldest,
            before_trim=self._bring_along,
        )

    def _serve(self, snapshot: Snapshot) -> Served:
        corpus = CorpusIndex(
            snapshot,
            tuple(jax.devices()[: self._shards]),
            capacity=CAPACITY,
            max_labels=MAX_LABELS,
        )
        corpus.arrays.compile_updates(self._programs)
        searches = CompiledSearch(corpus, self._programs)
        searches.compile(BATCH, self.top_k)
        filters = FilterMasks(corpus, self._programs)
        filters.compile(BATCH)
        return Served(Target(corpus, snapshot.manifest.tower_fingerprint), searches, filters)

    def _bring_along(self, store: Store) -> None:
        for served in self._kept.values():
            if served is not self._served:
                replay(store, served.target)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


def check(model: Model, real: Real, rng: np.random.Generator) -> None:
    """Compare the answers to drawn queries, and all columns of the posts."""
    queries = rng.integers(-2, 3, (BATCH, WIDTH)).astype(np.float32)
    queries[:, 0] += 3 * (~queries.any(axis=1))  # no query is all zeros
    filters = [draw_filter(rng, model) for _ in range(BATCH)]
    answers, eligible = real.retrieve(queries, filters)
    for query, wanted, answer, count in zip(queries, filters, answers, eligible, strict=True):
        expected = model.retrieve(query, wanted)
        assert count == len(expected)
        assert answer == expected[: real.top_k]
    corpus = real.target.corpus
    assert corpus.sequence == model.sequence
    assert len(corpus) == len(model.posts)
    assert set(corpus.labels.names) == model.labels
    ids = sorted({*model.posts, *rng.integers(1, 600, 5).tolist()})
    held, posts, _ = corpus.look_up(np.array(ids, np.uint64))
    assert held.tolist() == [post_id in model.posts for post_id in ids]
    columns = {name: getattr(posts, name) for name in PostColumns.__dataclass_fields__}
    vectors = np.zeros((len(posts), 0), np.float32)
    for post_id, post in described(Posts(**columns, vectors=vectors)).items():
        expected = model.posts[post_id]
        assert post[:2] == expected[:2]
        assert set(post.labels) == set(expected.labels)
    assert corpus.newest_created_at_unix_ms() == max(
        (post.created_at_unix_ms for post in model.posts.values()), default=0
    )


def begin(
    path: Path,
    rng: np.random.Generator,
    *,
    shards: int,
    top_k: int,
    programs: ProgramCache,
    evict_oldest: bool,
) -> tuple[Model, Real]:
    """Return a model and a real corpus of the same posts."""
    model = Model(evict_oldest=evict_oldest)
    first = draw_posts(rng, list(range(1, 120)), TOWERS[0])
    model.apply(first)
    model.sequence = 0
    # Of a corpus as built, only labels that some post has are known.
    model.labels = {name for post in model.posts.values() for name in post.labels}
    real = Real(
        path, first, shards=shards, top_k=top_k, programs=programs, evict_oldest=evict_oldest
    )
    return model, real


def change(model: Model, real: Real, changes: Sequence[Change]) -> None:
    """Apply changes, submitted together, to both."""
    for each, outcome in zip(changes, real.submit(*changes), strict=True):
        assert isinstance(outcome, ChangeResult) == model.fits(each), outcome
        if isinstance(outcome, ChangeResult):
            assert outcome.evicted == model.evict(each)
            model.apply(each)
            assert outcome.sequence == model.sequence


def activate(model: Model, real: Real, tower: str) -> None:
    """Serve both with other towers, if they are loaded."""
    if real.activate(tower):
        model.swap(tower)


def restart(model: Model, real: Real, tower: str, *, gently: bool) -> None:
    """Restart, with other towers or the same."""
    real.restart(tower, gently=gently)
    model.swap(tower)


def draw_change(rng: np.random.Generator, model: Model) -> Change:
    """Draw posts to write or to delete; some have vectors of towers that were served before."""
    ids = rng.choice(np.arange(1, 600), int(rng.integers(1, 60)), replace=False)
    if rng.random() < (0.2 if model.evict_oldest else 0.4):  # so that both become full
        return ids.astype(np.uint64)
    tower = model.tower if rng.random() < 0.8 else str(rng.choice(TOWERS))
    return draw_posts(rng, ids.tolist(), tower)


def soak(path: Path, steps: int, seed: int, report: Callable[[int], None]) -> None:
    """Draw changes, snapshots, swaps, restarts and crashes, and compare every five steps."""
    rng = np.random.default_rng(seed)
    shards, top_k = int(rng.integers(1, 4)), int(rng.choice(TOP_KS))
    model, real = begin(
        path,
        rng,
        shards=shards,
        top_k=top_k,
        programs=ProgramCache(),
        evict_oldest=bool(rng.random() < 0.5),
    )
    try:
        for step in range(steps):
            kind, tower = rng.random(), str(rng.choice(TOWERS))
            if kind < 0.01:
                real.snapshot()
            elif kind < 0.03:
                restart(model, real, tower, gently=rng.random() < 0.5)
            elif kind < 0.04:
                real.load(tower)
            elif kind < 0.06:
                activate(model, real, tower)
            else:
                changes = [draw_change(rng, model) for _ in range(int(rng.integers(1, 5)))]
                change(model, real, changes)
            if step % 5 == 4:
                check(model, real, rng)
                report(step + 1)
    finally:
        real.close()
