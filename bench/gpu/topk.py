"""Check and measure the exact top k on one GPU, with only JAX and the server's search.

    PYTHONPATH=server/src:proto/gen python3 bench/gpu/topk.py --out build/bench/gpu_topk.json

Checks answers against float64 on the host. Then measures the server's search with kernels and with
tiles, XLA's `lax.top_k` over all scores, the scan alone with tiles of several sizes, and the limits
of the machine. Ends within 8 minutes; the notes list what was skipped for lack of time. `--quick`
uses small sizes, also on a CPU, where kernels are interpreted and times have no meaning.

Shapes:
    N  posts of the corpus   D  width of a vector    B  queries    K  results
    P  rows in memory: N, padded
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax
from record import QUICK, Run, Sizes, measure, measure_limits

from phoenix_server.search.kernels.block_maxima import Tile, block_maxima, of_blocks, rounding_error
from phoenix_server.search.shard import Shard, unpack
from phoenix_server.search.sharded import DeviceCorpus, ShardedLayout, TopK, pack

Doubles = npt.NDArray[np.float64]

WIDTH = 128
_TOLERANCE = 2e-6  # of a float32 sum of 128 products of unit vectors
_CHUNK_BYTES = 4 << 30  # scores computed at once for `lax.top_k`


def layouts(rows: int) -> dict[str, ShardedLayout]:
    """Return the layouts to compare, by name; all take the same arrays."""
    device = jax.devices()[0]
    shard = partial(ShardedLayout, devices=(device,), rows=rows, width=WIDTH)
    tile = 1 << (18 if rows > 1 << 20 else 10)
    cpu = device.platform == "cpu"
    return {
        "kernel": shard(tile_rows=tile, block_rows=32, scan="kernel", interpret=cpu),
        "tiles": shard(tile_rows=tile, queries_at_once=32),
    }


def draw(layout: ShardedLayout, dtype: str, batch: int) -> tuple[DeviceCorpus, jax.Array]:
    """Draw unit vectors and queries. Every hundredth row equals the row after it.

    Ids do not ascend with the rows.
    """
    padded, rows = layout.padded_rows, layout.rows

    def chunk(key: jax.Array) -> jax.Array:
        vectors = jax.random.normal(key, (layout.tile_rows, WIDTH))
        return (vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)

    @jax.jit
    def build() -> Shard:
        keys = jax.random.split(jax.random.key(1), padded // layout.tile_rows)
        vectors = lax.map(chunk, keys).reshape(padded, WIDTH)
        places = jnp.arange(0, padded - 1, 100)
        vectors = vectors.at[places + 1].set(vectors[places])
        low = jnp.arange(padded, dtype=jnp.uint32) * jnp.uint32(
            0x9E3779B1
        )  # odd factor: all distinct
        return Shard(
            vectors,
            ids=jnp.stack([low % 3, low], axis=1),
            longest=jnp.full(1, 1.01, jnp.float32),
            tiles=jnp.full(1, layout.tiles_of(rows), jnp.int32),
        )

    live = jnp.asarray(pack(np.arange(padded) < rows)[None])
    queries = jax.random.normal(jax.random.key(2), (batch, WIDTH))
    queries = queries / jnp.linalg.norm(queries, axis=1, keepdims=True)
    return DeviceCorpus(build(), live), queries.at[0].set(
        0.6 * queries[0]
    )  # not all of equal length


def check(run: Run, corpus: DeviceCorpus, queries: jax.Array, rows: int) -> None:
    """Check answers and the scan's bound for a few queries against float64.

    Raises:
        AssertionError: An answer is wrong, or an error larger than its bound.
    """
    vectors, few = np.asarray(corpus.shards.vectors), queries[:4]
    probes = np.asarray(few, np.float64)
    step = 1 << 20
    exact = np.concatenate(
        [
            probes @ vectors[start : start + step].astype(np.float64).T
            for start in range(0, len(vectors), step)
        ],
        axis=1,
    )
    halves = jax.random.bits(jax.random.key(3), (len(few), corpus.live.shape[1]), jnp.uint32)
    for masks, live in (("one", corpus.live), ("each its own", corpus.live & halves)):
        params = {"rows": rows, "dtype": str(vectors.dtype), "masks": masks}
        truth = np.where(np.asarray(unpack(live)), exact, -np.inf)
        check_answers(run, corpus._replace(live=live), few, truth, params)
        check_scan(run, corpus._replace(live=live), few, truth, params)


def check_answers(
    run: Run, corpus: DeviceCorpus, queries: jax.Array, truth: Doubles, params: dict[str, Any]
) -> None:
    """Check whole searches against true scores [B, P], -inf where not eligible."""
    ids = np.asarray(corpus.shards.ids).astype(np.uint64)
    ids = ids[:, 0] << np.uint64(32) | ids[:, 1]
    k = max(run.sizes.results)
    best = -np.sort(-np.partition(truth, -k, axis=1)[:, -k:], axis=1)
    for name, layout in layouts(params["rows"]).items():
        found = search(layout, corpus, queries, k)()
        scores, places = np.asarray(found.scores), np.asarray(found.rows)
        there = np.take_along_axis(truth, places, axis=1)
        assert np.abs(there - best).max() < _TOLERANCE, f"{name}: not the best rows"
        assert np.abs(there - scores).max() < _TOLERANCE, f"{name}: wrong scores"
        ties = np.diff(scores, axis=1) == 0
        ascending = ids[places][:, 1:] > ids[places][:, :-1]
        assert (np.diff(scores, axis=1) <= 0).all(), f"{name}: scores out of order"
        assert ascending[ties].all(), f"{name}: ties out of order"
        told = params | {"k": k, "ties": int(ties.sum())}
        run.add(name, told, "widened", "1", [int(found.widened)])


def check_scan(
    run: Run, corpus: DeviceCorpus, queries: jax.Array, truth: Doubles, params: dict[str, Any]
) -> None:
    """Check maxima and their error against true scores [B, P], -inf where not eligible."""
    layout, shards = layouts(params["rows"])["kernel"], corpus.shards
    truth = truth.reshape(len(queries), -1, layout.block_rows).max(axis=-1)
    maxima = np.asarray(scan(layout, corpus, queries)(), np.float64)
    some = np.isfinite(truth)
    assert (some == np.isfinite(maxima)).all(), "the scan sees rows that are not eligible"
    error = np.abs(np.where(some, maxima, 0) - np.where(some, truth, 0)).max(axis=1)
    bound = np.asarray(rounding_error(queries, shards.vectors.dtype)) * float(shards.longest[0])
    assert (error <= bound).all(), f"the scan is off by {error}, more than {bound}"
    run.add("scan", params, "error_over_bound", "1", error / bound)


def search(
    layout: ShardedLayout, corpus: DeviceCorpus, queries: jax.Array, k: int
) -> Callable[[], TopK]:
    """Return a call of the server's search."""
    wanted = jnp.full(len(queries), k)
    return partial(jax.jit(partial(layout.top_k, k=k)), corpus.shards, corpus.live, queries, wanted)


def scan(
    layout: ShardedLayout, corpus: DeviceCorpus, queries: jax.Array, **settings: Any
) -> Callable[[], jax.Array]:
    """Return a call of the scan alone; `settings` are arguments of `block_maxima`."""
    block_rows = settings.pop("block_rows", layout.block_rows)

    @jax.jit
    def run_scan(corpus: DeviceCorpus, queries: jax.Array) -> jax.Array:
        return block_maxima(
            corpus.shards.vectors,
            of_blocks(corpus.live, block_rows),
            queries,
            block_rows=block_rows,
            interpret=layout.interpret,
            **settings,
        )

    return partial(run_scan, corpus, queries)


def top_k_of_all(corpus: DeviceCorpus, queries: jax.Array, k: int) -> Callable[[], Any]:
    """Return a call of `lax.top_k` over all scores, for as many queries at a time as fit."""
    rows = len(corpus.shards.vectors)
    at_once = max(1, min(len(queries), _CHUNK_BYTES // (4 * rows)))

    def one(vectors: jax.Array, eligible: jax.Array, queries: jax.Array) -> Any:
        scores = jnp.dot(
            queries.astype(vectors.dtype), vectors.T, preferred_element_type=jnp.float32
        )
        return lax.top_k(jnp.where(eligible, scores, -jnp.inf), k)

    compiled = jax.jit(one)
    eligible = unpack(corpus.live)

    def call() -> list[Any]:
        return [
            compiled(corpus.shards.vectors, eligible, queries[start : start + at_once])
            for start in range(0, len(queries), at_once)
        ]

    return call


def min_seconds(run: Run, corpus: DeviceCorpus, batch: int) -> float:
    """Return the lower limit of the time of a search, in seconds.

    It is the longer of reading every vector once and of multiplying it with every query.
    """
    vectors = corpus.shards.vectors
    read_s = vectors.nbytes / (run.limits["copy_bandwidth"]["value"] * 1e9)
    return max(read_s, 2 * vectors.size * batch / (run.limits["matmul"]["value"] * 1e9))


def compare(run: Run, corpus: DeviceCorpus, queries: jax.Array, rows: int) -> None:
    """Measure whole searches."""
    for batch, k in itertools.product(run.sizes.batches, run.sizes.results):
        params = {"rows": rows, "dtype": str(corpus.shards.vectors.dtype), "batch": batch, "k": k}
        if run.late(f"searches of {params}"):
            return
        some = queries[:batch]
        calls: dict[str, Callable[[], Any]] = {
            name: search(layout, corpus, some, k) for name, layout in layouts(rows).items()
        }
        calls["lax.top_k"] = top_k_of_all(corpus, some, k)
        seconds: dict[str, Doubles] = {}
        for name, call in calls.items():
            seconds[name] = measure(call, run.sizes.budget_s)
            run.add(name, params, "time", "ms", seconds[name] * 1e3)
            share = min_seconds(run, corpus, batch) / seconds[name]
            run.add(name, params, "share_of_limit", "1", share)
        ratio = np.median(seconds["lax.top_k"]) / seconds["kernel"]
        run.add("kernel", params, "times_faster", "1", ratio)
        run.add("kernel", params, "widened", "1", [int(calls["kernel"]().widened)])


def tiles_to_try() -> Iterator[dict[str, Any]]:
    """Yield settings of the scan; the default comes first."""
    yield {}
    yield {"block_rows": 16}
    for blocks, warps, stages in [(64, 4, 4), (64, 8, 2), (64, 8, 3), (128, 8, 3), (128, 8, 2)]:
        yield {"tile": Tile(blocks=blocks, warps=warps, stages=stages)}


def sweep(run: Run, corpus: DeviceCorpus, queries: jax.Array, rows: int) -> None:
    """Measure the scan alone."""
    layout = layouts(rows)["kernel"]
    parts = (2, 1) if corpus.shards.vectors.dtype == jnp.bfloat16 else (2,)
    for batch, part, settings in itertools.product(run.sizes.swept, parts, tiles_to_try()):
        told = {name: str(value) for name, value in settings.items()}
        params = {
            "rows": rows,
            "dtype": str(corpus.shards.vectors.dtype),
            "batch": batch,
            "parts": part,
        }
        if run.late(f"the scan of {params | told}"):
            return
        try:
            call = scan(layout, corpus, queries[:batch], parts=part, **settings)
            seconds = measure(call, run.sizes.budget_s / 2)
        except jax.errors.JaxRuntimeError as exc:  # a tile that does not fit into shared memory
            run.notes.append(f"{params | told}: {str(exc).splitlines()[0]}")
            continue
        run.add("scan", params | told, "time", "ms", seconds * 1e3)
        share = min_seconds(run, corpus, batch) / seconds
        run.add("scan", params | told, "share_of_limit", "1", share)


def main() -> None:
    """Check and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/bench/gpu_topk.json"))
    parser.add_argument("--quick", action="store_true", help="use small sizes")
    options = parser.parse_args()
    run = Run(out=options.out, sizes=QUICK if options.quick else Sizes())
    measure_limits(run)
    for rows, dtype in run.sizes.corpora:
        if run.late(f"{rows} rows of {dtype}"):
            continue
        corpus, queries = draw(layouts(rows)["kernel"], dtype, max(run.sizes.batches))
        for stage in (check, sweep, compare):
            stage(run, corpus, queries, rows)
            run.write()
    run.write()
    sys.stdout.write("".join(f"note: {note}\n" for note in run.notes) + f"{run.out}\n")


if __name__ == "__main__":
    main()
