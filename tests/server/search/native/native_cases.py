"""Random corpora and queries for the native search, and what must be found, to the bit.

Shapes:
    N  rows        D  width        B  queries        K  results
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from phoenix_server.search.native import scan
from phoenix_server.search.native.library import variants
from phoenix_server.search.shard import RowCodes, ScanConfig, Shard
from phoenix_server.search.sharded import pack, split_ids

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

# N, D, B and K; each is compiled once. AMX is for widths of whole 64 only.
SHAPES = (
    (1024, 16, 1, 1),
    (1024, 64, 3, 1024),
    (2048, 128, 1, 100),
    (2048, 50, 2, 7),
    (3072, 128, 40, 30),
    (3072, 192, 9, 500),
    (4096, 256, 33, 64),
    (4096, 31, 12, 200),
    (8192, 64, 70, 10),
)
KINDS = ("random", "clustered", "short", "equal", "few", "ascending")


@dataclass(frozen=True)
class Case:
    """A corpus, and queries each with its own mask.

    Attributes:
        vectors: [N, D] f32.
        ids: [N] u64, distinct.
        queries: [B, D] f32.
        eligible: [B, N] or [1, N].
        k: K.
        wanted: [B] i32, the results that each query wants, from 0 to K. None: all want K.
    """

    vectors: Floats
    ids: Ids
    queries: Floats
    eligible: Bools
    k: int
    wanted: npt.NDArray[np.int32] | None = None


def draw_case(shape: tuple[int, int, int, int], kind: str, share: float, seed: int) -> Case:
    """Draw a case.

    Args:
        shape: Of `SHAPES`.
        kind: Of `KINDS`: unit vectors at random; in clusters, with queries near rows; of lengths
            between 0 and 1; all rows equal; of few distinct rows; in ascending order of their
            scores for the first query.
        share: The share of eligible rows; above 1 all queries share a mask of all rows.
        seed: Of the random numbers.
    """
    n, width, batch, k = shape
    rng = np.random.default_rng(seed)
    vectors = _unit(rng.normal(size=(n, width)))
    queries = _unit(rng.normal(size=(batch, width)))
    if kind == "clustered":
        centres = _unit(rng.normal(size=(5, width)))
        vectors = _unit(centres[rng.integers(0, 5, n)] + 0.03 * vectors)
        queries = _unit(vectors[rng.integers(0, n, batch)] + 0.01 * queries)
    elif kind == "short":
        vectors = vectors * rng.choice([0.0, 1e-37, 1e-30, 1e-12, 0.3, 1.0], (n, 1))
    elif kind == "equal":
        vectors = np.repeat(vectors[:1], n, axis=0)
    elif kind == "few":
        vectors = vectors[rng.integers(0, 7, n)]
    elif kind == "ascending":
        vectors = vectors[np.argsort(vectors @ queries[0])]
    masks = rng.random((batch, n)) < share if share <= 1 else np.ones((1, n), np.bool_)
    ids = rng.permutation(n).astype(np.uint64) * np.uint64(2**32 + 1) + np.uint64(1)
    wanted = rng.integers(0, k + 1, batch, np.int32) if rng.random() < 0.5 else None
    return Case(vectors.astype(np.float32), ids, queries.astype(np.float32), masks, k, wanted)


def find(case: Case, variant: str) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Search as a variant: the scores and rows of each query, [B, K]."""
    config = ScanConfig(tile_rows=scan.TILE_ROWS, scan="native", variant=variant)
    codes = encoder(config)(case.vectors)
    return search(case, codes, config)


def search(case: Case, codes: RowCodes, config: ScanConfig) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Search with codes that are given."""
    words = pack(case.eligible).reshape(len(case.eligible), -1)
    wanted = _wanted(case)
    scores, rows = _top_k(config, case.k)(_shard(case, codes), words, case.queries, wanted)
    return np.asarray(scores), np.asarray(rows)


def score_all(case: Case, config: ScanConfig) -> Floats:
    """Return the scores of all rows for the first query: [N]."""
    score = jax.jit(functools.partial(scan.all_scores, config=config))
    codes = encoder(config)(case.vectors)
    return np.asarray(score(_shard(case, codes), pack(case.eligible[0]), case.queries[0]))


def _wanted(case: Case) -> npt.NDArray[np.int32]:
    return np.full(len(case.queries), case.k, np.int32) if case.wanted is None else case.wanted


def _shard(case: Case, codes: RowCodes) -> Shard:
    lengths = np.linalg.norm(case.vectors.astype(np.float64), axis=1)
    return Shard(
        jnp.asarray(case.vectors),
        jnp.asarray(split_ids(case.ids)),
        jnp.full(1, np.float32(1.0001 * lengths.max())),
        jnp.full(1, len(case.vectors) // scan.TILE_ROWS, jnp.int32),
        codes,
    )


def check(case: Case, scores: Floats, rows: npt.NDArray[np.int32]) -> None:
    """Compare an answer with the definition: the order, and the bits of the scores."""
    exact = case.queries.astype(np.float64) @ case.vectors.astype(np.float64).T
    lengths = np.linalg.norm(case.vectors.astype(np.float64), axis=1).max()
    error = (case.vectors.shape[1] / 16 + 8) * 2.0**-24 * 1.1 * lengths + 1e-40
    for i, (query, wanted) in enumerate(zip(case.queries, _wanted(case), strict=True)):
        eligible = np.flatnonzero(case.eligible[i % len(case.eligible)])
        count = min(int(wanted), len(eligible))
        assert np.isneginf(scores[i, count:]).all()
        if not count:
            continue
        # Only rows that may be among the best K by float64 need their defined scores.
        last = np.partition(exact[i, eligible], -count)[-count]
        near = eligible[exact[i, eligible] >= last - 2 * error]
        defined = defined_scores(case.vectors[near], query)
        np.testing.assert_allclose(defined, exact[i, near], rtol=0, atol=error)
        order = np.lexsort((case.ids[near], -defined))[:count]
        np.testing.assert_array_equal(rows[i, :count], near[order])
        assert scores[i, :count].tobytes() == defined[order].tobytes()


def check_variants(case: Case, names: Sequence[str]) -> None:
    """Search as every variant: the first is exact, and the others find the same, to the bit."""
    scores, rows = find(case, names[0])
    check(case, scores, rows)
    for name in names[1:]:
        found = find(case, name)
        np.testing.assert_array_equal(found[1], rows, err_msg=name)
        assert found[0].tobytes() == scores.tobytes(), name


def defined_scores(vectors: Floats, query: Floats) -> Floats:
    """Return the scores of [n, D] for [D], by the definition, in numpy: [n]."""
    n, width = vectors.shape
    sums = np.zeros((n, 16), np.float32)
    for start in range(0, width, 16):
        part = slice(start, start + 16)
        lanes = min(16, width - start)
        sums[:, :lanes] = _fused(vectors[:, part], query[part], sums[:, :lanes])
    for apart in (8, 4, 2, 1):
        sums = sums[:, :apart] + sums[:, apart : 2 * apart]
    return sums[:, 0] + np.float32(0)


def _fused(a: Floats, b: Floats, c: Floats) -> Floats:
    """Return a * b + c, rounded once.

    The product is exact in float64. The sum is rounded to odd there, so that rounding it again to
    float32 does not round twice.
    """
    product, addend = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = product + addend
    back = total - product
    lost = (product - (total - back)) + (addend - back)
    even = total.view(np.int64) & 1 == 0
    odd = np.where((lost != 0) & even, np.nextafter(total, np.copysign(np.inf, lost)), total)
    return odd.astype(np.float32)


def _unit(vectors: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@functools.cache
def variants_for(width: int) -> tuple[str, ...]:
    """Return the variants that this CPU can run."""
    return tuple(variants(width))


@functools.cache
def encoder(config: ScanConfig) -> Callable[..., RowCodes]:
    """Return a function from vectors to their codes."""
    return jax.jit(functools.partial(scan.encode, config=config))


@functools.cache
def writer(config: ScanConfig) -> Callable[..., tuple[jax.Array, RowCodes]]:
    """Return a function that writes rows in place."""
    return jax.jit(functools.partial(scan.write, config=config), donate_argnums=(0, 1))


@functools.cache
def _top_k(config: ScanConfig, k: int) -> Callable[..., tuple[jax.Array, jax.Array]]:
    return jax.jit(functools.partial(scan.top_k, k=k, config=config))
