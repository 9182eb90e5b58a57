"""Make the same steps on a real corpus and on its reference model, and compare the two."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from phoenix_server.corpus.changes import Change, ChangeResult, Ids, Labels, Posts
from phoenix_server.engine.filters import Filter
from phoenix_server.runtime.program_cache import ProgramCache
from server.corpus.real_corpus import (
    BATCH,
    CAPACITY,
    MAX_LABELS,
    TOWERS,
    WIDTH,
    RealCorpus,
    encode,
)
from server.corpus.reference import Model

_COMMON_LABELS = tuple(f"label {n}" for n in range(MAX_LABELS - 4))
_RARE_LABELS = tuple(
    f"rare {n}" for n in range(40)
)  # of a few posts each, so that they come and go
_TIME_STEP_MS = 2**33 + 1  # times differ in both halves of 64 bits


class Comparison:
    """A real corpus, the model that it must be equal to, and random steps for both."""

    def __init__(
        self,
        path: Path,
        rng: np.random.Generator,
        *,
        shards: int,
        top_k: int,
        programs: ProgramCache,
        evict_oldest: bool,
    ) -> None:
        self._rng = rng
        self._evict_oldest = evict_oldest
        self._tower = TOWERS[0]
        first = self._draw_posts(list(range(1, 120)), self._tower)
        self._model = Model.of(first)
        self._real = RealCorpus(
            path, first, shards=shards, top_k=top_k, programs=programs, evict_oldest=evict_oldest
        )

    def change(self, count: int) -> None:
        """Draw changes, submit them together, and check the result of each."""
        changes = [self._draw_change() for _ in range(count)]
        for change, outcome in zip(changes, self._real.submit(*changes), strict=True):
            assert isinstance(outcome, ChangeResult) == self._fits(change), outcome
            if not isinstance(outcome, ChangeResult):
                continue
            if isinstance(change, Posts):
                evicted = len(self._model.evict(change.post_ids, CAPACITY))
                vectors = encode(self._tower, change.post_ids, change.author_ids)
                change = replace(change, vectors=vectors)
            else:
                evicted = 0
            assert outcome.evicted == evicted
            self._model.apply(change)
            assert outcome.sequence == self._model.sequence

    def snapshot(self) -> None:
        """Write a snapshot of the real corpus."""
        self._real.snapshot()

    def load(self, tower: str) -> None:
        """Load the real corpus for other towers."""
        self._real.load(tower)

    def activate(self, tower: str) -> None:
        """Serve both with other towers, if they are loaded."""
        if self._real.activate(tower):
            self._reencode(tower)

    def restart(self, tower: str, *, gently: bool) -> None:
        """Restart, with other towers or the same; unless gently, as after a crash."""
        self._real.restart(tower, gently=gently)
        self._reencode(tower)

    def check(self) -> None:
        """Compare the answers to drawn queries, and all columns of the posts."""
        rng, model, corpus = self._rng, self._model, self._real.target.corpus
        queries = rng.integers(-2, 3, (BATCH, WIDTH)).astype(np.float32)
        queries[:, 0] += 3 * (~queries.any(axis=1))  # no query is all zeros
        filters = [self._draw_filter() for _ in range(BATCH)]
        answers, eligible = self._real.retrieve(queries, filters)
        for query, wanted, answer, count in zip(queries, filters, answers, eligible, strict=True):
            expected = model.answer(query, wanted)
            assert count == len(expected)
            assert answer == expected[: self._real.top_k]
        assert corpus.sequence == model.sequence
        assert len(corpus) == len(model)
        known, ever = set(corpus.labels.names), model.label_names
        assert model.used_labels <= known <= ever
        assert len(known) == min(len(ever), MAX_LABELS) == len(corpus.labels.names)
        ids = sorted({*model, *rng.integers(1, 600, 5).tolist()})
        held, posts, _ = corpus.look_up(np.array(ids, np.uint64))
        assert held.tolist() == [post_id in model for post_id in ids]
        for post_id, post in Model.of(posts).items():
            assert post.columns() == model[post_id].columns()
        assert corpus.newest_created_at_unix_ms() == max(
            (post.created_at_unix_ms for post in model.values()), default=0
        )

    def close(self) -> None:
        """Close the real corpus."""
        self._real.close()

    def _fits(self, change: Change) -> bool:
        """Return whether there is room for a change, or eviction can make room."""
        if not isinstance(change, Posts):
            return True
        model = self._model.copy()
        if self._evict_oldest and len(change) <= CAPACITY:
            model.evict(change.post_ids, CAPACITY)
        model.apply(change)
        return len(model) <= CAPACITY and len(model.used_labels) <= MAX_LABELS

    def _reencode(self, tower: str) -> None:
        """Serve the model with other towers."""
        self._tower = tower
        for post_id, post in self._model.items():
            ids, authors = (np.array([n], np.uint64) for n in (post_id, post.author_id))
            self._model[post_id] = post._replace(vector=encode(tower, ids, authors)[0].tobytes())

    def _draw_change(self) -> Change:
        """Draw posts to write or to delete; some have vectors of towers that were served before."""
        rng = self._rng
        ids = rng.choice(np.arange(1, 600), int(rng.integers(1, 60)), replace=False)
        if rng.random() < (0.2 if self._evict_oldest else 0.4):  # so that both become full
            return ids.astype(np.uint64)
        tower = self._tower if rng.random() < 0.8 else str(rng.choice(TOWERS))
        return self._draw_posts(ids.tolist(), tower)

    def _draw_posts(self, ids: Sequence[int], tower: str) -> Posts:
        """Draw posts of some ids."""
        rng, n = self._rng, len(ids)
        post_ids = np.array(ids, np.uint64)
        author_ids = rng.integers(1, 12, n).astype(np.uint64)
        names = tuple(rng.choice(_COMMON_LABELS, 4, replace=False).tolist())
        indices = [rng.choice(4, count, replace=False) for count in rng.integers(0, 3, n)]
        if rng.random() < 0.6:
            names += tuple(rng.choice(_RARE_LABELS, 2, replace=False).tolist())
            place = int(rng.integers(n))
            indices[place] = np.append(indices[place], (4, 5)[: int(rng.integers(1, 3))])
        counts = np.array([len(each) for each in indices])
        return Posts(
            post_ids=post_ids,
            author_ids=author_ids,
            created_at_unix_ms=rng.integers(0, 5, n) * _TIME_STEP_MS,
            labels=Labels(
                names,
                counts.astype(np.int32),
                np.concatenate([np.zeros(0, np.int32), *indices]).astype(np.int32),
            ).without_unused(),
            vectors=encode(tower, post_ids, author_ids),
            tower=tower,
        )

    def _draw_filter(self) -> Filter | None:
        """Draw a filter that the model can apply."""
        rng = self._rng
        if rng.random() < 0.3:
            return None
        named = sorted(self._model.label_names)  # of some, no post is left

        def some(most: int) -> tuple[str, ...]:
            if not named or rng.random() < 0.6:
                return ()
            return tuple(rng.choice(named, min(len(named), most), replace=False).tolist())

        def time() -> int | None:
            return None if rng.random() < 0.6 else int(rng.integers(0, 5)) * _TIME_STEP_MS

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
