"""The choice of the largest of many numbers without sorting them.

Shapes:
    B  queries        n  numbers of a query        m  places for chosen numbers

On a CPU `lax.top_k` sorts what it finds on one core. Where the order does not matter, a threshold
is enough. It is found by bisection of the numbers' bits, with passes over all queries at once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

_WORD = 32
_STEPS = 33  # bisect 32 bits


def choose(values: jax.Array, least: int, most: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Choose the largest numbers of each query, at least `least` and at most `most`.

    If too many numbers are equal to the smallest chosen one, all of them are left out, and fewer
    than `least` remain.

    Args:
        values: [B, n] f32, without NaN; n at least `most`.
        least: At least 1.
        most: m, at least `least`.

    Returns:
        [B, m] i32, the places of the chosen numbers, ascending, then n as padding; [B] f32, the
        largest of the other numbers; [B] bool, whether at least `least` are chosen.
    """
    keys = _ordered(values)
    limit, count = _threshold(keys, least, most)
    enough = count <= most
    limit = jnp.where(enough, limit, limit + 1)
    chosen = keys >= limit[:, None]
    rest = jnp.where(chosen, -jnp.inf, values).max(axis=1)
    return places(chosen, most), rest, enough


def choose_best(values: jax.Array, ids: Callable[[], jax.Array], k: int) -> jax.Array:
    """Choose the k largest numbers of each query; of equal numbers those with the smallest ids.

    Args:
        values: [B, n] f32, without NaN; -inf is never chosen. n is at least k.
        ids: Returns [B or 1, n, 2] u32, the high and the low half of each id; distinct where a
            value is above -inf. Its result is used only to break ties.
        k: At least 1.

    Returns:
        [B, k] i32, the places of the chosen numbers, ascending, then n as padding.
    """

    def choose_more(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        phase, chosen, tied = state
        # Phase 0 compares values; 1 and 2 the high and the low halves of ids, smallest first.
        keys = lax.switch(
            phase,
            (
                lambda: _ordered(values),
                lambda: _descending(ids()[..., 0], values.shape),
                lambda: _descending(ids()[..., 1], values.shape),
            ),
        )
        keys = jnp.where(tied, keys, jnp.iinfo(jnp.int32).min)
        missing = k - jnp.sum(chosen, axis=1, dtype=jnp.int32)
        limit, count = _threshold(keys, missing, missing)
        at_limit = keys == limit[:, None]
        above = (keys > limit[:, None]) | (at_limit & (count <= missing)[:, None])
        all_fit = jnp.sum(tied, axis=1) <= missing
        added = tied & (above | all_fit[:, None])
        return phase + 1, chosen | added, tied & at_limit & ~added

    # Numbers that tie at the limit are compared by id only if there are too many of them.
    _, chosen, _ = lax.while_loop(
        lambda state: (state[0] < 3) & state[2].any(),
        choose_more,
        (jnp.int32(0), jnp.zeros(values.shape, jnp.bool_), values > -jnp.inf),
    )
    return places(chosen, k)


def places(chosen: jax.Array, size: int) -> jax.Array:
    """Return the first places where [B, n] bool are true: [B, size] i32, then n as padding."""
    batch, n = chosen.shape
    bits = jnp.pad(chosen, ((0, 0), (0, -n % _WORD))).reshape(batch, -1, _WORD)
    weights = jnp.uint32(1) << jnp.arange(_WORD, dtype=jnp.uint32)
    words = jnp.where(bits, weights, 0).sum(axis=2, dtype=jnp.uint32)  # [B, n/32]
    counts = lax.population_count(words).astype(jnp.int32)
    ends = jnp.cumsum(counts, axis=1)
    rank = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), (batch, size))
    # Bisect for the word that holds the bit of each rank, then for the bit in the word.
    last = words.shape[1] - 1
    steps = last.bit_length()

    def find_word(number: jax.Array, word: jax.Array) -> jax.Array:
        step = jnp.int32(1 << steps) >> number
        behind = word + step - 1
        passed = (behind <= last) & (_take(ends, jnp.minimum(behind, last)) <= rank)
        return jnp.where(passed, word + step, word)

    word = lax.fori_loop(0, steps + 1, find_word, jnp.zeros_like(rank))
    found = word <= last
    word = jnp.minimum(word, last)

    def find_bit(number: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        bit, rank, left = state
        width = jnp.uint32(_WORD // 2) >> number.astype(jnp.uint32)
        low = left & ((jnp.uint32(1) << width) - 1)
        below = lax.population_count(low).astype(jnp.int32)
        passed = rank >= below
        return (
            jnp.where(passed, bit + width.astype(jnp.int32), bit),
            jnp.where(passed, rank - below, rank),
            jnp.where(passed, left >> width, low),
        )

    left = _take(words, word)
    rank = rank - _take(ends - counts, word)
    state = (jnp.zeros_like(rank), rank, left)
    bit, _, _ = lax.fori_loop(0, _WORD.bit_length() - 1, find_bit, state)
    return jnp.where(found, word * _WORD + bit, n)


def _threshold(
    keys: jax.Array, least: int | jax.Array, most: int | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return a limit for each query, [B] i32, and the number of its [B, n] i32 keys >= the limit.

    That number is at least `least`. It exceeds `most` only if fewer than `least` keys are > the
    limit. Both bounds may differ by query, [B] i32.
    """

    def bisect(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        step, low, count, high, done = state
        middle = (low | high) - ((low ^ high) >> 1)  # their mean, rounded up, without overflow
        above = jnp.sum(keys >= middle[:, None], axis=1, dtype=jnp.int32)
        up = (above >= least) & ~done
        low, count = jnp.where(up, middle, low), jnp.where(up, above, count)
        high = jnp.where(up | done, high, middle - 1)
        return step + 1, low, count, high, done | (count <= most) | (high == low)

    low = keys.min(axis=1)
    count = jnp.full_like(low, keys.shape[1])
    state = (jnp.int32(0), low, count, keys.max(axis=1), count <= most)
    _, low, count, _, _ = lax.while_loop(
        lambda state: (state[0] < _STEPS) & ~state[-1].all(), bisect, state
    )
    return low, count


def _ordered(values: jax.Array) -> jax.Array:
    """Return [B, n] i32 in the order of [B, n] f32."""
    bits = lax.bitcast_convert_type(values, jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)


def _descending(halves: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return i32 of the given shape in the reverse order of [..., n] u32."""
    keys = lax.bitcast_convert_type(halves ^ jnp.uint32(0x7FFFFFFF), jnp.int32)
    return jnp.broadcast_to(keys, shape)


def _take(values: jax.Array, at: jax.Array) -> jax.Array:
    return jnp.take_along_axis(values, at, axis=1, mode="promise_in_bounds")
