"""Masks of what each query may find, against numpy.

Shapes:
    R  rows in memory        L  labels        B  queries        M  labels that a query may name
"""

import functools
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt
import pytest

from phoenix_server.search.eligibility import (
    ABSENT,
    UNNAMED,
    ColumnsUpdate,
    FilterColumns,
    QueryConditions,
    eligible,
    exclude,
    update_columns,
)
from phoenix_server.search.sharded import ShardedLayout, split_ids
from server.search.cases import Bools, pack_masks, unpack_masks

BATCH = 5
LABELS = 7
NAMED = 3  # M
_END_OF_TIME = 2**64 - 1


def _layout(shards: int) -> ShardedLayout:
    devices = tuple(jax.devices()[:shards])
    return ShardedLayout(devices=devices, rows=203, width=2, tile_rows=128)


class _Columns(NamedTuple):
    """Columns on the host: [R] u64, [L, R] bool and [R] bool."""

    times: npt.NDArray[np.uint64]
    labels: Bools
    live: Bools

    def place(self, layout: ShardedLayout) -> tuple[FilterColumns, jax.Array]:
        columns = FilterColumns(
            jax.device_put(split_ids(self.times), layout.by_rows),
            jax.device_put(pack_masks(self.labels), layout.words),
        )
        return columns, jax.device_put(pack_masks(self.live), layout.words)


def _draw_columns(layout: ShardedLayout, rng: np.random.Generator) -> _Columns:
    total = layout.total_rows
    times = rng.integers(2**32 - 50, 2**32 + 50, total, np.uint64)  # both halves matter
    times[rng.random(total) < 0.1] = 0
    return _Columns(times, rng.random((LABELS, total)) < 0.4, rng.random(total) < 0.8)


def _draw_conditions(rng: np.random.Generator, columns: _Columns) -> QueryConditions:
    """Draw conditions; the last query has none."""
    labels = rng.integers(-3, LABELS, (3, BATCH, NAMED)).astype(np.int32)
    labels[labels < ABSENT] = UNNAMED
    since, before = np.sort(rng.choice(columns.times, (2, BATCH)), axis=0)
    since, before = since.clip(1), before + np.uint64(1)
    labels[:, -1], since[-1], before[-1] = UNNAMED, 0, _END_OF_TIME
    return QueryConditions(
        split_ids(since), split_ids(before), np.bool_(True), *labels, used=np.int32(NAMED)
    )


def _expected(columns: _Columns, conditions: QueryConditions) -> Bools:
    """Return the rows that each query may find, [B, R]."""
    halves = np.array([2**32, 1], np.uint64)
    has = np.pad(columns.labels, ((0, -ABSENT), (0, 0)))  # no row at the index `ABSENT`
    masks = np.empty((BATCH, len(columns.live)), np.bool_)
    for i in range(BATCH):
        mask = columns.live.copy()
        named = [labels[i][labels[i] != UNNAMED] for labels in conditions[3:6]]
        if len(named[0]):
            mask &= has[named[0]].any(axis=0)
        mask &= has[named[1]].all(axis=0) & ~has[named[2]].any(axis=0)
        if conditions.timed:
            mask &= columns.times >= conditions.since[i].astype(np.uint64) @ halves
            mask &= columns.times < conditions.before[i].astype(np.uint64) @ halves
        masks[i] = mask
    return masks


@functools.cache
def _compiled(shards: int) -> Any:
    return jax.jit(partial(eligible, _layout(shards)))


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_each_query_may_find_the_live_rows_that_meet_its_conditions(shards: int, seed: int) -> None:
    layout, rng = _layout(shards), np.random.default_rng(seed)
    columns = _draw_columns(layout, rng)
    conditions = _draw_conditions(rng, columns)
    placed, live = columns.place(layout)
    for timed in (True, False):
        asked = conditions._replace(timed=np.bool_(timed))
        found = _compiled(shards)(placed, live, jax.device_put(asked, layout.replicated))
        expected = _expected(columns, asked)
        np.testing.assert_array_equal(unpack_masks(found), expected)
        np.testing.assert_array_equal(expected[-1], columns.live)


def test_places_of_labels_that_are_not_in_use_are_ignored() -> None:
    layout, rng = _layout(1), np.random.default_rng(0)
    columns = _draw_columns(layout, rng)
    placed, live = columns.place(layout)
    labels = np.full((3, BATCH, NAMED), UNNAMED, np.int32)
    labels[1, :, 0], labels[1, :, 1] = 2, 3  # all of these two
    since, before = np.zeros(BATCH, np.uint64), np.full(BATCH, _END_OF_TIME, np.uint64)
    conditions = QueryConditions(
        split_ids(since), split_ids(before), np.bool_(False), *labels, used=np.int32(1)
    )
    found = _compiled(1)(placed, live, jax.device_put(conditions, layout.replicated))
    np.testing.assert_array_equal(unpack_masks(found)[0], columns.live & columns.labels[2])


@pytest.mark.parametrize("shards", [1, 3])
def test_excluded_rows_leave_the_masks_of_their_queries_only(shards: int) -> None:
    layout, rng = _layout(shards), np.random.default_rng(0)
    masks = rng.random((BATCH, layout.total_rows)) < 0.7
    pairs = rng.permutation(BATCH * layout.total_rows)[:300]
    queries, rows = (each.astype(np.int32) for each in np.divmod(pairs, layout.total_rows))
    expected = masks.copy()
    expected[queries, rows] = False
    padded = np.append(queries, 0).astype(np.int32), np.append(rows, layout.total_rows)
    placed = jax.device_put(pack_masks(masks), layout.words)
    pairs_there = jax.device_put((padded[0], padded[1].astype(np.int32)), layout.replicated)
    found = jax.jit(partial(exclude, layout))(placed, *pairs_there)
    np.testing.assert_array_equal(unpack_masks(found), expected)


@pytest.mark.parametrize("shards", [1, 3])
def test_an_update_writes_times_and_words_of_labels(shards: int) -> None:
    layout, rng = _layout(shards), np.random.default_rng(0)
    columns = _draw_columns(layout, rng)
    placed, _ = columns.place(layout)
    total = layout.total_rows
    rows, words = rng.permutation(total)[:9], rng.permutation(total // 32)[:2]
    times, labels = columns.times.copy(), pack_masks(columns.labels).copy()
    times[rows], labels[:, words] = rng.integers(0, 2**63, 9, np.uint64), 77
    update = ColumnsUpdate(
        rows=np.append(rows, total).astype(np.int32),
        times=split_ids(np.append(times[rows], np.uint64(5))),
        words=np.append(words, total // 32).astype(np.int32),
        labels=np.full((LABELS, 3), 77, np.uint32),
    )
    changed = jax.jit(partial(update_columns, layout))(
        placed, jax.device_put(update, layout.replicated)
    )
    np.testing.assert_array_equal(changed.times, split_ids(times))
    np.testing.assert_array_equal(changed.labels, labels)
