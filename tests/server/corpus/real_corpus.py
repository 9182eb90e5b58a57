"""A real corpus on disk and in memory, without towers, to compare with the reference model.

Vectors have entries of 1/4, so that they are of unit length and scores of integer queries are
exact. There are few different vectors, so that many posts tie.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.changes import Change, ChangeResult, Ids, NetChange, Posts
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

T = TypeVar("T")
Floats = npt.NDArray[np.float32]

WIDTH = 16
CAPACITY = 400
MAX_LABELS = 12
TOWERS = tuple(letter * 64 for letter in "abc")
BATCH = 4
TOP_KS = (50, CAPACITY)  # blocks are chosen for the first, all rows are scored for the second

_KINDS = np.where(np.random.default_rng(7).random((9, WIDTH)) < 0.5, -0.25, 0.25)


def encode(tower: str, post_ids: Ids, author_ids: Ids) -> Floats:
    """Return the vectors of posts by some towers."""
    kinds = post_ids * np.uint64(7) + author_ids * np.uint64(5) * np.uint64(1 + TOWERS.index(tower))
    return _KINDS[kinds % np.uint64(len(_KINDS))].astype(np.float32)


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


class RealCorpus:
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
            snapshot = write_snapshot(store, Encoder(tower), max_labels=MAX_LABELS)
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
        wanted = [self.top_k] * len(queries)
        found = self._served.searches.top_k(jax.device_put(queries, first), wanted, masks)
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
            snapshot = write_snapshot(store, Encoder(tower), max_labels=MAX_LABELS)
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
