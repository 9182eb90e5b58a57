"""A corpus in memory, as plain as can be, and a real one on disk beside it.

Vectors have entries of 1/4, so that they are of unit length and scores of whole-numbered queries
are exact, and few of them, so that many posts tie.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.changes import Change, Ids, Labels, Net, Posts, net
from phoenix_server.corpus.index import CorpusIndex
from phoenix_server.corpus.live import Done, LiveCorpus
from phoenix_server.corpus.snapshot import verify
from phoenix_server.corpus.snapshotting import as_arrow, remove_old
from phoenix_server.corpus.store import Store
from phoenix_server.corpus.writer import new_snapshot
from phoenix_server.filters import Filter, Filters
from phoenix_server.programs import Programs
from phoenix_server.searches import Searches

T = TypeVar("T")
Floats = npt.NDArray[np.float32]

WIDTH = 16
CAPACITY = 400
MAX_LABELS = 12
LABELS = tuple(f"label {n}" for n in range(MAX_LABELS))
FINGERPRINT = "f" * 64
BATCH = 4
TOP_KS = (50, CAPACITY)  # blocks are chosen for the first, all rows are scored for the second


def draw_posts(rng: np.random.Generator, ids: Sequence[int]) -> Posts:
    """Draw posts of some ids."""
    n = len(ids)
    kinds = np.where(np.random.default_rng(7).random((9, WIDTH)) < 0.5, -0.25, 0.25)
    counts = rng.integers(0, 3, n)
    names = tuple(rng.choice(LABELS, 4, replace=False).tolist())
    indices = [rng.choice(4, count, replace=False) for count in counts]
    return Posts(
        post_ids=np.array(ids, np.uint64),
        author_ids=rng.integers(1, 12, n).astype(np.uint64),
        created_at_unix_ms=rng.integers(0, 5, n) * (2**33 + 1),
        labels=Labels(
            names,
            counts.astype(np.int32),
            np.concatenate([np.zeros(0, np.int32), *indices]).astype(np.int32),
        ),
        vectors=kinds[rng.integers(0, len(kinds), n)].astype(np.float32),
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
class Post:
    """One post of the model."""

    author: int
    created: int
    labels: frozenset[str]
    vector: Floats


@dataclass
class Model:
    """What the corpus should be."""

    posts: dict[int, Post] = field(default_factory=dict[int, Post])
    labels: set[str] = field(default_factory=set[str])
    sequence: int = 0

    def fits(self, change: Change) -> bool:
        """Return whether there is room for a change."""
        if not isinstance(change, Posts):
            return True
        there = set(self.posts) | set(change.post_ids.tolist())
        names = self.labels | set(change.labels.names)
        return len(there) <= CAPACITY and len(names) <= MAX_LABELS

    def apply(self, change: Change) -> None:
        """Make a change."""
        self.sequence += 1
        if not isinstance(change, Posts):
            for post_id in change.tolist():
                self.posts.pop(post_id, None)
            return
        self.labels |= set(change.labels.names)
        for i, post_id in enumerate(change.post_ids.tolist()):
            mine = change.labels.of(np.array([i]))
            self.posts[post_id] = Post(
                int(change.author_ids[i]),
                int(change.created_at_unix_ms[i]),
                frozenset(mine.names[index] for index in mine.indices),
                change.vectors[i],
            )

    def retrieve(self, query: Floats, wanted: Filter | None) -> list[tuple[int, float]]:
        """Return all posts that meet a filter, with their scores, in order."""
        found = [
            (post_id, float(np.dot(query.astype(np.float64), post.vector)))
            for post_id, post in self.posts.items()
            if wanted is None or _meets(post_id, post, wanted)
        ]
        return sorted(found, key=lambda each: (-each[1], each[0]))


def _meets(post_id: int, post: Post, wanted: Filter) -> bool:
    since, before = wanted.since_unix_ms, wanted.before_unix_ms
    return (
        (since is None or 0 < post.created >= since)
        and (before is None or 0 < post.created < before)
        and (not wanted.any_labels or not post.labels.isdisjoint(wanted.any_labels))
        and post.labels.issuperset(wanted.all_labels)
        and post.labels.isdisjoint(wanted.none_labels)
        and post_id not in wanted.excluded_post_ids
        and post.author not in wanted.excluded_author_ids
    )


class Target:
    """What an engine is to changes."""

    def __init__(self, corpus: CorpusIndex) -> None:
        self.corpus = corpus

    def apply(self, change: Net, sequence: int) -> None:
        self.corpus.apply(change, sequence)


class Real:
    """A corpus on disk and in memory, without towers; starts anew from the disk at will."""

    def __init__(
        self, path: Path, posts: Posts, *, shards: int, top_k: int, programs: Programs
    ) -> None:
        with new_snapshot(
            path, source=path, embedding_size=WIDTH, tower_fingerprint=FINGERPRINT
        ) as writer:
            writer.write(as_arrow(posts))
        self.top_k = top_k
        self._path, self._shards, self._programs = path, shards, programs
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._open()

    def submit(self, *changes: Change) -> list[Done | BaseException]:
        """Submit changes at once; return what became of each."""

        async def submit() -> list[Done | BaseException]:
            tasks = [asyncio.ensure_future(self._live.submit(change)) for change in changes]
            return await asyncio.gather(*tasks, return_exceptions=True)

        return self._run(submit())

    def snapshot(self) -> None:
        """Write a snapshot, and check it."""
        verify(self._run(self._live.snapshot()))

    def restart(self, *, gently: bool) -> None:
        """Start anew from the disk; if not gently, without a word to the old one."""
        if gently:
            assert self._live.close()
        else:
            self._live.store.close()  # the kernel would
        self._open()

    def retrieve(
        self, queries: Floats, filters: Sequence[Filter | None]
    ) -> tuple[list[list[tuple[int, float]]], list[int]]:
        """Return the best ids and scores for [B, D] queries, and how many posts were eligible."""
        corpus = self.target.corpus
        masks = None
        if any(each is not None for each in filters):
            masks = self._filters.masks(filters, BATCH)
        first = corpus.layout.devices[0]
        found = self._searches.top_k(jax.device_put(queries, first), self.top_k, masks)
        scores, rows = np.asarray(found.scores), np.asarray(found.rows)
        eligible = np.resize(np.asarray(found.eligible), len(queries)).tolist()
        ids, _, _ = corpus.posts_at(rows)
        answers = [
            list(zip(ids[i, :n].tolist(), scores[i, :n].tolist(), strict=True))
            for i, n in enumerate(min(count, self.top_k) for count in eligible)
        ]
        return answers, eligible

    def close(self) -> None:
        """Be done."""
        self._live.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _open(self) -> None:
        store = Store(self._path)
        corpus = CorpusIndex(
            store.snapshot,
            tuple(jax.devices()[: self._shards]),
            capacity=CAPACITY,
            max_labels=MAX_LABELS,
        )
        corpus.compile_updates(self._programs)
        self._searches = Searches(corpus, self._programs)
        self._searches.compile(BATCH, self.top_k)
        self._filters = Filters(corpus, self._programs)
        self._filters.compile(BATCH)
        self.target = Target(corpus)
        if changes := list(store.changes()):
            numbers, made = zip(*changes, strict=True)
            self.target.apply(net(made), numbers[-1])
        remove_old(store)

        def between(function: Callable[[], None]) -> None:
            function()

        self._live = LiveCorpus(store, self.target, between, snapshot_after=10**9)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


def check(model: Model, real: Real, rng: np.random.Generator) -> None:
    """Compare the answers to drawn queries, and all that is known of the posts."""
    queries = rng.integers(-2, 3, (BATCH, WIDTH)).astype(np.float32)
    queries[:, 0] += 3 * (~queries.any(axis=1))  # none of zeros
    filters = [draw_filter(rng, model) for _ in range(BATCH)]
    answers, eligible = real.retrieve(queries, filters)
    for query, wanted, answer, count in zip(queries, filters, answers, eligible, strict=True):
        expected = model.retrieve(query, wanted)
        assert count == len(expected)
        assert answer == expected[: real.top_k]
    corpus = real.target.corpus
    assert corpus.sequence == model.sequence
    assert len(corpus) == len(model.posts)
    assert set(corpus.label_names) == model.labels
    ids = sorted({*model.posts, *rng.integers(1, 600, 5).tolist()})
    found = corpus.look_up(np.array(ids, np.uint64))
    there = iter(range(len(found.labels.counts)))
    for i, post_id in enumerate(ids):
        post = model.posts.get(post_id)
        assert (found.rows[i] >= 0) == (post is not None)
        if post is not None:
            assert (int(found.author_ids[i]), int(found.created_at_unix_ms[i])) == (
                post.author,
                post.created,
            )
            mine = found.labels.of(np.array([next(there)]))
            assert {mine.names[index] for index in mine.indices} == post.labels
    assert corpus.newest() == max((post.created for post in model.posts.values()), default=0)


def begin(
    path: Path, rng: np.random.Generator, *, shards: int, top_k: int, programs: Programs
) -> tuple[Model, Real]:
    """Return a model and a real corpus of the same posts."""
    model = Model()
    first = draw_posts(rng, list(range(1, 120)))
    model.apply(first)
    model.sequence = 0
    # Of a corpus as it was built, only labels that some post has are known.
    model.labels = {name for post in model.posts.values() for name in post.labels}
    return model, Real(path, first, shards=shards, top_k=top_k, programs=programs)


def change(model: Model, real: Real, changes: Sequence[Change]) -> None:
    """Make changes, submitted at once, here and there."""
    for each, outcome in zip(changes, real.submit(*changes), strict=True):
        assert isinstance(outcome, Done) == model.fits(each), outcome
        if isinstance(outcome, Done):
            model.apply(each)
            assert outcome.sequence == model.sequence


def draw_change(rng: np.random.Generator) -> Change:
    """Draw posts to write, or to delete."""
    ids = rng.choice(np.arange(1, 600), int(rng.integers(1, 60)), replace=False)
    if rng.random() < 0.4:
        return ids.astype(np.uint64)
    return draw_posts(rng, ids.tolist())


def soak(path: Path, steps: int, seed: int, report: Callable[[int], None]) -> None:
    """Make drawn changes, snapshots, restarts and crashes, and compare now and then."""
    rng = np.random.default_rng(seed)
    shards, top_k = int(rng.integers(1, 4)), int(rng.choice(TOP_KS))
    model, real = begin(path, rng, shards=shards, top_k=top_k, programs=Programs())
    try:
        for step in range(steps):
            kind = rng.random()
            if kind < 0.01:
                real.snapshot()
            elif kind < 0.03:
                real.restart(gently=rng.random() < 0.5)
            else:
                change(model, real, [draw_change(rng) for _ in range(int(rng.integers(1, 5)))])
            if step % 5 == 4:
                check(model, real, rng)
                report(step + 1)
    finally:
        real.close()
