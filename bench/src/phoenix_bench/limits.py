"""Measure the limits of a machine: matrix products, and reading memory.

The limit is the best single run of several methods.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from phoenix_bench.machine import cores
from phoenix_bench.results import Limit
from phoenix_bench.timing import Pace, time_in_turns

READ_BANDWIDTH = "read_bandwidth"
SGEMM = "sgemm"

_PACE = Pace(budget_s=5, fewest=7, most=25, pause_s=0)

Methods = dict[str, Callable[[], object]]


def measure_limits(*, dtype: str = "float32", quick: bool = False) -> tuple[Limit, Limit]:
    """Return the device's read bandwidth and its rate of matrix products.

    On a CPU numpy's methods compete with XLA's.

    Args:
        dtype: Element type of the factors; products accumulate in float32.
        quick: Measure on small arrays, which may fit in a cache.
    """
    host = jax.default_backend() == "cpu"
    rng = np.random.default_rng(0)
    mebibytes = 32 if quick else 512
    values = rng.standard_normal(mebibytes << 18, np.float32)
    with ThreadPoolExecutor(cores()) as pool:
        reads = _xla_reads(values) | (_numpy_reads(values, pool) if host else {})
        read, rate = _best(reads, work=values.nbytes)
    bandwidth = Limit(
        name=READ_BANDWIDTH, value=rate, unit="GB/s", method=f"{read}, {mebibytes} MiB"
    )
    size = 512 if quick else 2048 if host else 16384
    matrix = rng.standard_normal((size, size), np.float32)
    products = _xla_products(matrix, dtype)
    if host and dtype == "float32":
        products["numpy"] = partial(np.matmul, matrix, matrix)
    product, rate = _best(products, work=2 * size**3)
    return bandwidth, Limit(
        name=SGEMM, value=rate, unit="GFLOP/s", method=f"{product}, {dtype}, {size} x {size}"
    )


def best_of(first: Limit, second: Limit) -> Limit:
    """Return the higher of two measurements of one limit; the lower one was disturbed."""
    return max(first, second, key=lambda limit: limit.value)


def _best(methods: Methods, *, work: float) -> tuple[str, float]:
    """Return the fastest method and its best rate, in 1e9 units of work per second."""
    seconds = time_in_turns(methods, _PACE)
    best = min(methods, key=lambda method: seconds[method].min())
    return best, work / float(seconds[best].min()) / 1e9


def _xla_reads(values: npt.NDArray[np.float32]) -> Methods:
    methods: Methods = {}
    for rows, axis in ((1, 1), (16, 1), (1024, 1), (values.size // 1024, 0)):
        array = jax.device_put(values.reshape(rows, -1))
        total = jax.jit(partial(jnp.sum, axis=axis)).lower(array).compile()
        methods[f"XLA sum of {rows} x {values.size // rows} over axis {axis}"] = partial(
            _finish, total, array
        )
    matrix, vector = jax.device_put(values.reshape(-1, 128)), jnp.ones(128)
    product = jax.jit(jnp.dot).lower(matrix, vector).compile()
    methods["XLA product of a matrix 128 wide and a vector"] = partial(
        _finish, product, matrix, vector
    )
    return methods


def _numpy_reads(values: npt.NDArray[np.float32], pool: ThreadPoolExecutor) -> Methods:
    threads = cores()
    parts = np.array_split(values, threads)
    words = np.array_split(values.view(np.int64), threads)
    return {
        f"numpy sum in {threads} threads": lambda: list(pool.map(np.sum, parts)),
        f"numpy dot in {threads} threads": lambda: list(pool.map(np.dot, parts, parts)),
        f"numpy or in {threads} threads": lambda: list(pool.map(np.bitwise_or.reduce, words)),
    }


def _xla_products(matrix: npt.NDArray[np.float32], dtype: str) -> Methods:
    factor = jax.device_put(matrix).astype(dtype)
    multiply = partial(jnp.dot, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
    product = jax.jit(multiply).lower(factor, factor).compile()
    return {"XLA": partial(_finish, product, factor, factor)}


def _finish(compiled: Callable[..., jax.Array], *arrays: jax.Array) -> None:
    jax.block_until_ready(compiled(*arrays))
