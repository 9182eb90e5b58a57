"""Chooses the largest of many numbers without sorting them.

Shapes:
    B  queries        n  numbers of a query        m  most that are chosen

`lax.top_k` sorts on one core of a CPU what it finds. Where the order does not matter, a threshold
does: it is found by bisection of the numbers' bits, and passes over all queries at once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

_WORD = 32
_STEPS = 33  # bisect 32 bits


def choose(values: jax.Array, least: int, most: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Choose the largest numbers of each query, at least `least` and at most `most`.

    Where too many are equal to the last ones, those are left out, and fewer than `least` remain.

    Args:
        values: [B, n] f32, without NaN; n at least `most`.
        least: At least 1.
        most: m, at least `least`.

    Returns:
        [B, m] i32, their places, ascending, then n; [B] f32, the largest of the others; [B] bool,
        whether there are at least `least`.
    """
    keys = _ordered(values)
    limit, count = _threshold(keys, least, most)
    enough = count <= most
    limit = jnp.where(enough, limit, limit + 1)
    chosen = keys >= limit[:, None]
    rest = jnp.where(chosen, -jnp.inf, values).max(axis=1)
    return places(chosen, most), rest, enough


def choose_best(values: jax.Array, ids: Callable[[], jax.Array], k: int) -> jax.Array:
    """Choose the k largest numbers of each query, and of equal ones those of the smallest ids.

    Args:
        values: [B, n] f32, without NaN; -inf is never chosen. n is at least k.
        ids: Gives [B or 1, n, 2] u32, the high and the low half of each id; distinct where a value
            is above -inf.
        k: At least 1.

    Returns:
        [B, k] i32, their places, ascending, then n.
    """

    def choose_more(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        phase, chosen, tied = state
        # By value; then, the smaller the better, by the high and by the low half of the id.
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
        all_wanted = jnp.sum(tied, axis=1) <= missing
        wanted = tied & (above | all_wanted[:, None])
        return phase + 1, chosen | wanted, tied & at_limit & ~wanted

    # Those that tie with the last are told apart by their ids only if they are too many.
    _, chosen, _ = lax.while_loop(
        lambda state: (state[0] < 3) & state[2].any(),
        choose_more,
        (jnp.int32(0), jnp.zeros(values.shape, jnp.bool_), values > -jnp.inf),
    )
    return places(chosen, k)


def places(chosen: jax.Array, size: int) -> jax.Array:
    """Return where [B, n] bool are true: the first [B, size] i32 places, then n."""
    batch, n = chosen.shape
    bits = jnp.pad(chosen, ((0, 0), (0, -n % _WORD))).reshape(batch, -1, _WORD)
    weights = jnp.uint32(1) << jnp.arange(_WORD, dtype=jnp.uint32)
    words = jnp.where(bits, weights, 0).sum(axis=2, dtype=jnp.uint32)  # [B, n/32]
    counts = lax.population_count(words).astype(jnp.int32)
    ends = jnp.cumsum(counts, axis=1)
    rank = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), (batch, size))
    # Bisect for the word that holds the bit of each rank, then for the bit.
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
    """Return a limit for each query, and how many of its [B, n] i32 keys are not below it.

    At least `least` are not, and more than `most` only if fewer than `least` are above it. Both may
    differ by query, [B] i32.
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
    """Return integers in the order of floats."""
    bits = lax.bitcast_convert_type(values, jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)


def _descending(halves: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return integers in the reverse order of [..., n] u32."""
    keys = lax.bitcast_convert_type(halves ^ jnp.uint32(0x7FFFFFFF), jnp.int32)
    return jnp.broadcast_to(keys, shape)


def _take(values: jax.Array, at: jax.Array) -> jax.Array:
    return jnp.take_along_axis(values, at, axis=1, mode="promise_in_bounds")
