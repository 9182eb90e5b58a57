"""Which posts each query may find, as masks that are computed on the devices.

Shapes:
    R  rows of the corpus in memory        L  labels
    B  queries                             M  labels of a kind that one query may name
    E  exclusions of a call                P  rows of one shard in memory
    n, m  rows and words of an update

Eligibility is one bit a row: 32 rows share a word. A label is an array of such words, so a test for
any, all or none of some labels is a bitwise operation on words. Times are compared row by row.
Excluded posts and authors come as rows, which the host has looked up.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from phoenix_server.runtime.arrays import I32, U32
from phoenix_server.search.shard import WORD
from phoenix_server.search.sharded import BY_ROWS, BY_WORDS, REPLICATED, ShardedLayout

MAX_LABELS_PER_KIND = 64  # M
UNNAMED = -1
"""In place of the code of a label: a query names no label there."""
ABSENT = -2
"""In place of the code of a label: a query names one that no post has."""
_ALL = np.uint32(0xFFFFFFFF)


class FilterColumns(NamedTuple):
    """The columns that queries filter by, on the devices.

    Attributes:
        times: [R, 2] u32, the high and the low half of the time of creation, in milliseconds since
            1970 UTC; 0 where unknown.
        labels: [L, R/32] u32; bit i of word j says whether row 32 j + i has the label.
    """

    times: jax.Array
    labels: jax.Array


_COLUMNS: Any = FilterColumns(BY_ROWS, BY_WORDS)


class ColumnsUpdate(NamedTuple):
    """A change of the columns. Out-of-range rows and words are padding; each shard ignores them.

    Attributes:
        rows: [n] i32.
        times: [n, 2] u32, of those rows.
        words: [m] i32.
        labels: [L, m] u32, those words.
    """

    rows: I32
    times: U32
    words: I32
    labels: U32


class QueryConditions(NamedTuple):
    """The conditions of a batch of queries, exclusions aside.

    Attributes:
        since: [B, 2] u32, the earliest time, as in `FilterColumns.times`.
        before: [B, 2] u32, the first time that is too late.
        timed: [] bool, whether any query has a condition on time.
        any_of: [B, M] i32, codes of labels of which a post must have at least one, `UNNAMED` or
            `ABSENT`; if all are `UNNAMED`, every post passes.
        all_of: [B, M] i32, labels of which it must have all.
        none_of: [B, M] i32, labels of which it must have none.
        used: [] i32, the number of the M places that any query uses.
    """

    since: U32
    before: U32
    timed: np.bool_
    any_of: I32
    all_of: I32
    none_of: I32
    used: np.int32


def update_columns(
    layout: ShardedLayout, columns: FilterColumns, update: ColumnsUpdate
) -> FilterColumns:
    """Return columns with a change applied. To be jitted, with the columns donated."""

    def change(columns: FilterColumns, update: ColumnsUpdate) -> FilterColumns:
        rows = layout.local(jnp.asarray(update.rows), layout.padded_rows)
        words = layout.local(jnp.asarray(update.words), layout.padded_rows // WORD)
        return FilterColumns(
            columns.times.at[rows].set(update.times, mode="drop"),
            columns.labels.at[:, words].set(update.labels, mode="drop"),
        )

    return layout.map(change, (_COLUMNS, REPLICATED), _COLUMNS)(columns, update)


def eligible(
    layout: ShardedLayout, columns: FilterColumns, live: jax.Array, conditions: QueryConditions
) -> jax.Array:
    """Return the rows that each query may find, exclusions aside: [B, R/32] u32. To be jitted.

    Args:
        layout: How the rows lie.
        columns: What to filter by.
        live: [1, R/32] u32, the rows that hold posts.
        conditions: Of B queries.
    """
    mapped = layout.map(_eligible_of_shard, (_COLUMNS, BY_WORDS, REPLICATED), BY_WORDS)
    return mapped(columns, live, conditions)


def exclude(
    layout: ShardedLayout, masks: jax.Array, queries: jax.Array, rows: jax.Array
) -> jax.Array:
    """Return masks [B, R/32] u32 without some rows. To be jitted, with the masks donated.

    Args:
        layout: How the rows lie.
        masks: The masks.
        queries: [E] i32.
        rows: [E] i32, a row that the query at the same place may not find; the pairs are distinct.
            Out-of-range rows are padding.
    """

    def take_out(masks: jax.Array, queries: jax.Array, rows: jax.Array) -> jax.Array:
        local = layout.local(rows, layout.padded_rows)
        bits = jnp.uint32(1) << (local % WORD).astype(jnp.uint32)
        words = local // WORD
        # The bits of a word that are set and to be cleared are distinct: their sum is their union.
        there = masks.at[queries, words].get(mode="fill", fill_value=0) & bits
        return masks.at[queries, words].subtract(there, mode="drop")

    return layout.map(take_out, (BY_WORDS, REPLICATED, REPLICATED), BY_WORDS)(masks, queries, rows)


def _eligible_of_shard(
    columns: FilterColumns, live: jax.Array, conditions: QueryConditions
) -> jax.Array:
    batch, words = len(conditions.since), live.shape[1]
    none = jnp.zeros((batch, words), jnp.uint32)

    def add(place: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        def named(labels: I32, otherwise: np.uint32) -> jax.Array:
            code = lax.dynamic_index_in_dim(jnp.asarray(labels), place, axis=1)
            absent_or_not = jnp.where(code == ABSENT, np.uint32(0), otherwise)
            return jnp.where(code >= 0, columns.labels[code[:, 0]], absent_or_not)

        any_of, all_of, none_of = state
        return (
            any_of | named(conditions.any_of, np.uint32(0)),
            all_of & named(conditions.all_of, _ALL),
            none_of | named(conditions.none_of, np.uint32(0)),
        )

    any_of, all_of, none_of = lax.fori_loop(0, conditions.used, add, (none, ~none, none))
    unrestricted = (jnp.asarray(conditions.any_of) == UNNAMED).all(axis=1)[:, None]
    masks = live & jnp.where(unrestricted, _ALL, any_of) & all_of & ~none_of
    return lax.cond(
        jnp.asarray(conditions.timed),
        lambda: (
            masks
            & _in_time(columns.times, jnp.asarray(conditions.since), jnp.asarray(conditions.before))
        ),
        lambda: masks,
    )


def _in_time(times: jax.Array, since: jax.Array, before: jax.Array) -> jax.Array:
    """Return as words which [P, 2] times are in [since, before), [B, 2] each: [B, P/32] u32."""
    high, low = (times[:, half].reshape(1, -1, WORD) for half in (0, 1))

    def earlier(bounds: jax.Array) -> jax.Array:
        bound_high, bound_low = (bounds[:, half, None, None] for half in (0, 1))
        return (high < bound_high) | ((high == bound_high) & (low < bound_low))

    bits = earlier(before) & ~earlier(since)  # [B, P/32, 32]
    weights = jnp.uint32(1) << jnp.arange(WORD, dtype=jnp.uint32)
    return jnp.where(bits, weights, 0).sum(axis=2, dtype=jnp.uint32)
