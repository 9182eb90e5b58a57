"""Filters of queries, and the masks of the rows that each query of a batch may find.

Shapes:
    R  rows of the corpus in memory        B  queries of a batch
    E  exclusions of one device call       n, m  excluded posts and authors of a query
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from phoenix_server.corpus.changes import Ids
from phoenix_server.corpus.memory.index import CorpusIndex, Exclusions
from phoenix_server.runtime.arrays import I32
from phoenix_server.runtime.program_cache import ProgramCache
from phoenix_server.search.eligibility import (
    MAX_LABELS_PER_KIND,
    UNNAMED,
    QueryConditions,
    eligible,
    exclude,
)
from phoenix_server.search.sharded import split_ids

_EXCLUSIONS = 1 << 14  # E; more exclusions take several calls
_END_OF_TIME = 2**64 - 1


class Filter(NamedTuple):
    """The conditions that posts must meet. By default all posts do.

    Attributes:
        since_unix_ms: The earliest time of creation, in milliseconds since 1970 UTC. With this or
            `before_unix_ms`, posts of unknown time do not meet the conditions.
        before_unix_ms: The first time of creation that is too late.
        any_labels: Labels of which a post must have at least one; empty means no condition.
        all_labels: Labels of which a post must have all.
        none_labels: Labels of which a post must have none.
        excluded_post_ids: [n] u64.
        excluded_author_ids: [m] u64.
        min_score: The smallest score to return; posts below it still count as eligible.
    """

    since_unix_ms: int | None = None
    before_unix_ms: int | None = None
    any_labels: tuple[str, ...] = ()
    all_labels: tuple[str, ...] = ()
    none_labels: tuple[str, ...] = ()
    excluded_post_ids: Ids = np.zeros(0, np.uint64)
    excluded_author_ids: Ids = np.zeros(0, np.uint64)
    min_score: float | None = None

    def without_post(self, post_id: int) -> "Filter":
        """Return these conditions, and that a post is not the given one."""
        excluded = np.append(self.excluded_post_ids, np.uint64(post_id))
        return self._replace(excluded_post_ids=excluded)

    @property
    def excludes(self) -> bool:
        """Whether any post or author is excluded."""
        return len(self.excluded_post_ids) > 0 or len(self.excluded_author_ids) > 0

    @property
    def needs_mask(self) -> bool:
        """Whether there is a condition that must be applied before the selection."""
        return (
            self.since_unix_ms is not None
            or self.before_unix_ms is not None
            or bool(self.any_labels or self.all_labels or self.none_labels)
            or self.excludes
        )


class FilterMasks:
    """Computes the masks of batches of a few compiled sizes, over one corpus."""

    def __init__(self, corpus: CorpusIndex, programs: ProgramCache) -> None:
        self._corpus = corpus
        self._programs = programs
        self._eligible: dict[int, Any] = {}
        self._exclude: dict[int, Any] = {}

    def compile(self, batch_size: int) -> None:
        """Compile the masks for B queries; must precede the search that takes them."""
        layout, columns = self._corpus.layout, self._corpus.arrays.column_specs
        pairs = jax.ShapeDtypeStruct((_EXCLUSIONS,), np.int32, sharding=layout.replicated)
        self._exclude[batch_size] = self._programs.compile(
            ("exclude", layout, batch_size),
            partial(exclude, layout),
            *(layout.mask_specs(batch_size), pairs, pairs),
            donate_argnums=0,
        )
        conditions = _query_conditions([], batch_size, self._corpus)
        self._eligible[batch_size] = self._programs.compile(
            ("eligible", layout, batch_size, columns.labels.shape),
            partial(eligible, layout),
            *(columns, layout.specs.live, jax.device_put(conditions, layout.replicated)),
        )

    def look_up(self, filters: Sequence[Filter | None]) -> list[Exclusions | None]:
        """Find the rows that each filter excludes; slow, so done in any thread before `masks`."""
        return [
            self._corpus.find_exclusions(each.excluded_post_ids, each.excluded_author_ids)
            if each is not None and each.excludes
            else None
            for each in filters
        ]

    def masks(
        self,
        filters: Sequence[Filter | None],
        excluded: Sequence[Exclusions | None],
        batch_size: int,
    ) -> jax.Array:
        """Return the rows that the queries of a batch may find: [B, R/32] u32.

        To be called between two changes of the corpus. A label that is not known any more is one
        that no post has.

        Args:
            filters: Of each query; None: it may find all posts. At most B.
            excluded: The results of `look_up` for them.
            batch_size: B.
        """
        corpus = self._corpus
        replicated = corpus.layout.replicated
        conditions = jax.device_put(_query_conditions(filters, batch_size, corpus), replicated)
        program = self._eligible[batch_size]
        masks = corpus.arrays.use(lambda device, columns: program(columns, device.live, conditions))
        queries, rows = self._exclusions(excluded)
        for start in range(0, len(rows), _EXCLUSIONS):
            pairs = slice(start, start + _EXCLUSIONS)
            padding = (0, max(0, start + _EXCLUSIONS - len(rows)))
            padded = (
                np.pad(queries[pairs], padding),
                np.pad(rows[pairs], padding, constant_values=corpus.layout.total_rows),
            )
            masks = self._exclude[batch_size](masks, *jax.device_put(padded, replicated))
        return masks

    def _exclusions(self, excluded: Sequence[Exclusions | None]) -> tuple[I32, I32]:
        """Return pairs of a query and a row that it may not find, as two arrays."""
        rows = [
            np.zeros(0, np.int32) if each is None else self._corpus.excluded_rows(each)
            for each in excluded
        ]
        queries = np.repeat(np.arange(len(rows), dtype=np.int32), [len(each) for each in rows])
        return queries, np.concatenate([np.zeros(0, np.int32), *rows])


def _query_conditions(
    filters: Sequence[Filter | None], batch_size: int, corpus: CorpusIndex
) -> QueryConditions:
    """Return the conditions of at most B filters, padded to B queries without conditions."""
    since = np.zeros(batch_size, np.uint64)
    before = np.full(batch_size, _END_OF_TIME, np.uint64)
    labels = np.full((3, batch_size, MAX_LABELS_PER_KIND), UNNAMED, np.int32)
    used, timed = 0, False
    for i, each in enumerate(filters):
        if each is None:
            continue
        for kind, names in enumerate((each.any_labels, each.all_labels, each.none_labels)):
            labels[kind, i, : len(names)] = corpus.labels.codes(names)
            used = max(used, len(names))
        if each.since_unix_ms is not None or each.before_unix_ms is not None:
            timed = True
            since[i] = max(1, each.since_unix_ms or 0)  # 0 means unknown
            before[i] = _END_OF_TIME if each.before_unix_ms is None else each.before_unix_ms
    return QueryConditions(
        split_ids(since), split_ids(before), np.bool_(timed), *labels, used=np.int32(used)
    )
