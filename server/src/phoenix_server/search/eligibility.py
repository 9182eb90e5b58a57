"""Which posts a query may find, told on the devices.

Shapes:
    R  rows of the corpus in memory        L  labels that there may be
    B  queries                             M  most labels of a kind that a query may name
    E  exclusions of a call

Eligibility is a bit: 32 rows share a word. A label is a row of such words, so any, all or none of
some labels is an operation on words. Times are compared row by row. What is excluded by id comes
as rows, which the host has looked up.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax
from jax.sharding import PartitionSpec

from phoenix_server.search.shard import WORD
from phoenix_server.search.sharded import AXIS, ShardedLayout

MOST_LABELS = 64  # M
_ALL = np.uint32(0xFFFFFFFF)
_ROWS: Any = PartitionSpec(AXIS)
_WORDS: Any = PartitionSpec(None, AXIS)
_SAME: Any = PartitionSpec()


class FilterColumns(NamedTuple):
    """What queries filter by, on the devices.

    Attributes:
        times: [R, 2] u32, the high and the low half of when a post was created, in milliseconds
            since 1970 UTC; 0 where unknown.
        labels: [L, R/32] u32; bit i of word j says whether row 32 j + i has the label.
    """

    times: jax.Array
    labels: jax.Array


class ColumnsUpdate(NamedTuple):
    """A change of the columns. To whom a row or a word is beyond, skips it.

    Attributes:
        rows: [n] i32.
        times: [n, 2] u32, of those rows.
        words: [m] i32.
        labels: [L, m] u32, those words.
    """

    rows: npt.NDArray[np.int32]
    times: npt.NDArray[np.uint32]
    words: npt.NDArray[np.int32]
    labels: npt.NDArray[np.uint32]


class Wanted(NamedTuple):
    """What the queries of a batch want.

    Attributes:
        since: [B, 2] u32, the earliest time, as in `FilterColumns.times`.
        before: [B, 2] u32, the time from which on posts are too late.
        timed: [] bool, whether any query asks for a time.
        any_of: [B, M] i32, labels of which a post must have one, -1 for none; without any, all may.
        all_of: [B, M] i32, labels of which it must have all.
        none_of: [B, M] i32, labels of which it must have none.
        most: [] i32, how many of the M are in use.
    """

    since: npt.NDArray[np.uint32]
    before: npt.NDArray[np.uint32]
    timed: np.bool_
    any_of: npt.NDArray[np.int32]
    all_of: npt.NDArray[np.int32]
    none_of: npt.NDArray[np.int32]
    most: np.int32


def update_columns(
    layout: ShardedLayout, columns: FilterColumns, update: ColumnsUpdate
) -> FilterColumns:
    """Return columns with a change; jit me, and donate me the columns."""

    def change(columns: FilterColumns, update: ColumnsUpdate) -> FilterColumns:
        rows = layout.local(jnp.asarray(update.rows), layout.padded_rows)
        words = layout.local(jnp.asarray(update.words), layout.padded_rows // WORD)
        return FilterColumns(
            columns.times.at[rows].set(update.times, mode="drop"),
            columns.labels.at[:, words].set(update.labels, mode="drop"),
        )

    return jax.shard_map(
        change,
        mesh=layout.mesh,
        in_specs=(FilterColumns(_ROWS, _WORDS), _SAME),
        out_specs=FilterColumns(_ROWS, _WORDS),
        check_vma=False,
    )(columns, update)


def eligible(
    layout: ShardedLayout, columns: FilterColumns, live: jax.Array, wanted: Wanted
) -> jax.Array:
    """Return which rows each query may find, exclusions aside: [B, R/32] u32; jit me.

    Args:
        layout: How the rows lie.
        columns: What to filter by.
        live: [1, R/32] u32, the rows that hold posts.
        wanted: Of B queries.
    """
    return jax.shard_map(
        _eligible_of_shard,
        mesh=layout.mesh,
        in_specs=(FilterColumns(_ROWS, _WORDS), _WORDS, _SAME),
        out_specs=_WORDS,
        check_vma=False,
    )(columns, live, wanted)


def exclude(
    layout: ShardedLayout, masks: jax.Array, queries: jax.Array, rows: jax.Array
) -> jax.Array:
    """Return masks [B, R/32] u32 without some rows; jit me, and donate me the masks.

    Args:
        layout: How the rows lie.
        masks: The masks.
        queries: [E] i32.
        rows: [E] i32, what each of these queries may not find; no pair comes twice. A row beyond
            all is none.
    """

    def take_out(masks: jax.Array, queries: jax.Array, rows: jax.Array) -> jax.Array:
        local = layout.local(rows, layout.padded_rows)
        bits = jnp.uint32(1) << (local % WORD).astype(jnp.uint32)
        words = local // WORD
        # The bits of a word that are set and to be cleared are distinct: their sum is their union.
        there = masks.at[queries, words].get(mode="fill", fill_value=0) & bits
        return masks.at[queries, words].subtract(there, mode="drop")

    return jax.shard_map(
        take_out,
        mesh=layout.mesh,
        in_specs=(_WORDS, _SAME, _SAME),
        out_specs=_WORDS,
        check_vma=False,
    )(masks, queries, rows)


def _eligible_of_shard(columns: FilterColumns, live: jax.Array, wanted: Wanted) -> jax.Array:
    batch, words = len(wanted.since), live.shape[1]
    none = jnp.zeros((batch, words), jnp.uint32)

    def add(place: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        def named(labels: npt.NDArray[np.int32], otherwise: np.uint32) -> jax.Array:
            code = lax.dynamic_index_in_dim(jnp.asarray(labels), place, axis=1, keepdims=False)
            return jnp.where(code[:, None] >= 0, columns.labels[code], otherwise)

        any_of, all_of, none_of = state
        return (
            any_of | named(wanted.any_of, np.uint32(0)),
            all_of & named(wanted.all_of, _ALL),
            none_of | named(wanted.none_of, np.uint32(0)),
        )

    any_of, all_of, none_of = lax.fori_loop(0, wanted.most, add, (none, ~none, none))
    whoever = (jnp.asarray(wanted.any_of) < 0).all(axis=1)[:, None]
    masks = live & jnp.where(whoever, _ALL, any_of) & all_of & ~none_of
    return lax.cond(
        jnp.asarray(wanted.timed),
        lambda: (
            masks & _in_time(columns.times, jnp.asarray(wanted.since), jnp.asarray(wanted.before))
        ),
        lambda: masks,
    )


def _in_time(times: jax.Array, since: jax.Array, before: jax.Array) -> jax.Array:
    """Return whether [P, 2] times are in [B, 2] bounds, as words: [B, P/32] u32."""
    high, low = (times[:, half].reshape(1, -1, WORD) for half in (0, 1))

    def earlier(bounds: jax.Array) -> jax.Array:
        bound_high, bound_low = (bounds[:, half, None, None] for half in (0, 1))
        return (high < bound_high) | ((high == bound_high) & (low < bound_low))

    bits = earlier(before) & ~earlier(since)  # [B, P/32, 32]
    weights = jnp.uint32(1) << jnp.arange(WORD, dtype=jnp.uint32)
    return jnp.where(bits, weights, 0).sum(axis=2, dtype=jnp.uint32)
