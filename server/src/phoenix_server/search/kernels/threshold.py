"""Kernels that choose the largest of many values without sorting them.

Shapes:
    B  queries        n  values of a query        C  values wanted, at least
    m  places for chosen values, or groups

Sorting all values would cost more than the scan that computed them. Values are divided into groups.
The C-th largest of the group maxima is a threshold that at least C values reach; as the values of a
group lie far apart, few more do. The values that reach it are kept, in their order, and of the
others only the maximum: with it the caller can tell whether the choice suffices.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

_MAX_GROUPS = 1 << 14  # held in registers: 64 for each of a program's 256 threads
_CHUNK = 1 << 13  # values that a program reads at once
_WARPS = 8
_SIGN = -(2**31)
_MAGNITUDE = 2**31 - 1


def choose(
    values: jax.Array, count: int, capacity: int, *, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """Choose all values that reach the C-th largest group maximum, as far as there is room.

    Args:
        values: [B, n] f32, no NaN and no -0.0.
        count: C, at most n.
        capacity: m; if more values reach the threshold, the last ones are left out.
        interpret: Run as ordinary JAX, on any device, instead of as kernels.

    Returns:
        [B, m] i32, the places of the chosen values, ascending, then n as padding; a value of -inf
        is never chosen. [B] f32, the largest value that was not chosen, or -inf.
    """
    return _keep(
        values,
        kth_largest(_group_maxima(values, count), count, interpret=interpret),
        capacity,
        interpret=interpret,
    )


def kth_largest(values: jax.Array, k: int, *, interpret: bool) -> jax.Array:
    """Return the k-th largest of [B, n] f32: [B]; n is a power of two, at most 16,384."""
    return pl.pallas_call(
        partial(_find_kth, k=k),
        out_shape=jax.ShapeDtypeStruct((len(values),), jnp.float32),
        grid=(len(values),),
        compiler_params=triton.CompilerParams(num_warps=_WARPS),
        interpret=interpret,
        name="kth_largest",
    )(values)


def _group_maxima(values: jax.Array, count: int) -> jax.Array:
    """Return maxima of m groups, each of every m-th value: [B, m]; m is a power of two, >= C."""
    batch, size = values.shape
    groups = min(pl.next_power_of_2(size), max(_MAX_GROUPS, pl.next_power_of_2(count)))
    padding = -size % groups
    padded = jnp.pad(values, ((0, 0), (0, padding)), constant_values=-jnp.inf)
    return padded.reshape(batch, -1, groups).max(axis=1)


def _keep(
    values: jax.Array, thresholds: jax.Array, capacity: int, *, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """Choose the values of [B, n] that reach the thresholds [B]; results as `choose`."""
    batch, size = values.shape
    chunk = min(_CHUNK, pl.next_power_of_2(size))
    places, counts, left_out = pl.pallas_call(
        partial(_keep_row, capacity=capacity, chunk=chunk),
        out_shape=(
            jax.ShapeDtypeStruct((batch, capacity + chunk), jnp.int32),
            jax.ShapeDtypeStruct((batch,), jnp.int32),
            jax.ShapeDtypeStruct((batch,), jnp.float32),
        ),
        grid=(batch,),
        compiler_params=triton.CompilerParams(num_warps=_WARPS),
        interpret=interpret,
        name="keep_largest",
    )(values, thresholds)
    taken = jnp.arange(capacity) < counts[:, None]
    return jnp.where(taken, places[:, :capacity], size), left_out


def _find_kth(values_ref: jax.Ref, kth_ref: jax.Ref, *, k: int) -> None:
    """Find the k-th largest value of one query bit by bit, from the highest."""
    row = pl.program_id(0)
    bits = lax.bitcast_convert_type(values_ref[row, :], jnp.int32)
    keys = _flip(bits)  # integers in the order of the values

    def set_bit(step: jax.Array, found: jax.Array) -> jax.Array:
        candidate = found + lax.shift_left(jnp.int32(1), 31 - step)
        reach = jnp.sum((keys >= candidate).astype(jnp.int32))
        return jnp.where(reach >= k, candidate, found)

    found = lax.fori_loop(0, 32, set_bit, jnp.int32(_SIGN))
    kth_ref[row] = lax.bitcast_convert_type(_flip(found), jnp.float32)


def _flip(bits: jax.Array) -> jax.Array:
    """Map the bits of floats to integers in the order of the floats, or back."""
    return jnp.where(bits < 0, bits ^ _MAGNITUDE, bits)


def _keep_row(
    values_ref: jax.Ref,
    thresholds_ref: jax.Ref,
    places_ref: jax.Ref,
    counts_ref: jax.Ref,
    left_out_ref: jax.Ref,
    *,
    capacity: int,
    chunk: int,
) -> None:
    """Write the places of the values of one query that reach the threshold."""
    row, size = pl.program_id(0), values_ref.shape[1]
    threshold = thresholds_ref[row]
    lanes = jnp.arange(chunk, dtype=jnp.int32)

    def keep_chunk(index: jax.Array, state: tuple[jax.Array, jax.Array]):
        count, left_out = state
        places = index * chunk + lanes
        values = triton.load(values_ref.at[row, places], mask=places < size, other=-jnp.inf)
        reach = (values >= threshold) & (values > -jnp.inf)
        ones = reach.astype(jnp.int32)
        target = count + jnp.cumsum(ones) - 1
        kept = reach & (target < capacity)
        # Masked lanes get distinct places after the capacity: the interpreter writes back what it
        # read at the place of a masked lane.
        target = jnp.where(kept, target, capacity + lanes)
        triton.store(places_ref.at[row, target], places, mask=kept)
        best = jnp.max(jnp.where(kept, -jnp.inf, values))
        return count + jnp.sum(ones), jnp.maximum(left_out, best)

    nothing = (jnp.int32(0), jnp.float32(-jnp.inf))
    count, left_out = lax.fori_loop(0, -(-size // chunk), keep_chunk, nothing)
    counts_ref[row] = count
    left_out_ref[row] = left_out
