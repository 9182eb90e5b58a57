import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest
from jax import export

from phoenix_server.topk import DeviceCorpus, ShardedLayout, TopK

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]

WIDTH = 16
QUERIES = 3
MANY = 1999  # rows; enough that blocks are chosen on two shards
K = 9


def _layout(shards: int, tile_rows: int = 64, block_rows: int = 8) -> ShardedLayout:
    return ShardedLayout(
        devices=tuple(jax.devices()[:shards]),
        rows=MANY,
        width=WIDTH,
        tile_rows=tile_rows,
        block_rows=block_rows,
        scan="kernel",
        interpret=True,
    )


@functools.cache
def _compiled(layout: ShardedLayout) -> Callable[[DeviceCorpus, jax.Array], TopK]:
    return jax.jit(functools.partial(layout.top_k, k=K))


def _place(layout: ShardedLayout, vectors: Floats, eligible: Bools | None = None) -> DeviceCorpus:
    corpus = layout.place([vectors.astype(np.float32)])
    if eligible is None:
        return corpus
    valid = np.zeros(corpus.valid.shape, np.bool_)
    valid[layout.memory_rows(np.flatnonzero(eligible))] = True
    return corpus._replace(valid=jax.device_put(valid, layout.by_rows))


def _search(layout: ShardedLayout, corpus: DeviceCorpus, queries: Floats) -> TopK:
    placed = jax.device_put(queries.astype(np.float32), layout.replicated)
    return _compiled(layout)(corpus, placed)


def _whole_scores() -> tuple[Floats, Floats]:
    """Draw vectors and queries whose scores are whole numbers, thousands of them distinct."""
    rng = np.random.default_rng(0)
    vectors = rng.integers(-120, 121, (MANY, WIDTH)).astype(np.float64)  # exact in bfloat16 too
    vectors[rng.integers(0, MANY, 20)] = vectors[5]
    return vectors, rng.integers(-120, 121, (QUERIES, WIDTH)).astype(np.float64)


def _assert_exact(
    found: TopK, vectors: Floats, queries: Floats, eligible: Bools | None = None
) -> None:
    candidates = np.flatnonzero(np.ones(len(vectors), np.bool_) if eligible is None else eligible)
    expected = queries @ vectors[candidates].T
    order = np.argsort(-expected, axis=1, kind="stable")[:, :K]  # ties to the lower row
    count = order.shape[1]
    assert int(found.eligible) == len(candidates)
    np.testing.assert_array_equal(found.rows[:, :count], candidates[order])
    np.testing.assert_array_equal(
        found.scores[:, :count], np.take_along_axis(expected, order, axis=1)
    )
    assert np.isneginf(found.scores[:, count:]).all()


@pytest.mark.parametrize(
    ("shards", "dtype"), [(1, jnp.float32), (1, jnp.bfloat16), (2, jnp.float32)]
)
def test_the_answer_is_exact_and_proven(shards: int, dtype: Any) -> None:
    layout = _layout(shards)
    vectors, queries = _whole_scores()
    corpus = _place(layout, vectors)
    found = _search(layout, corpus._replace(vectors=corpus.vectors.astype(dtype)), queries)
    _assert_exact(found, vectors, queries)
    assert int(found.widened) == 0


def test_only_what_cannot_be_proven_is_scored_anew() -> None:
    layout = _layout(1)
    vectors, queries = _whole_scores()
    queries[1] = 0
    queries[1, 3], vectors[:, 3] = 1, 7  # to this one all rows tie
    found = _search(layout, _place(layout, vectors), queries)
    _assert_exact(found, vectors, queries)
    assert int(found.widened) == 1


def test_a_few_duplicates_at_the_last_place_need_no_second_look() -> None:
    layout = _layout(1)
    vectors, queries = _whole_scores()
    queries[0] = vectors[5] = vectors[::100] = 120  # twenty rows are the best of one query
    found = _search(layout, _place(layout, vectors), queries)
    _assert_exact(found, vectors, queries)
    assert int(found.widened) == 0


def test_queries_of_zeros_cost_no_second_look() -> None:
    layout = _layout(1)
    vectors, queries = _whole_scores()
    eligible = np.arange(MANY) % 7 == 3
    queries[2] = 0
    found = _search(layout, _place(layout, vectors, eligible), queries)
    _assert_exact(found, vectors, queries, eligible)
    assert int(found.widened) == 0


@pytest.mark.parametrize("eligible", [0, 5, 600])
@pytest.mark.parametrize("shards", [1, 2])
def test_a_masked_row_never_leaks(shards: int, eligible: int) -> None:
    layout = _layout(shards)
    vectors, queries = _whole_scores()
    mask = np.zeros(MANY, np.bool_)
    mask[400 : 400 + eligible] = True  # neighbours: few blocks, each with many valid rows
    found = _search(layout, _place(layout, vectors, mask), queries)
    _assert_exact(found, vectors, queries, mask)


def test_scores_are_bit_for_bit_those_of_all_rows_on_any_number_of_shards() -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(MANY, WIDTH)), rng.normal(size=(QUERIES, WIDTH))
    answers: list[TopK] = []
    for shards in (1, 2):
        layout = _layout(shards)
        corpus = _place(layout, vectors)
        answers.append(_search(layout, corpus, queries))
        query = jax.device_put(queries[0].astype(np.float32), layout.replicated)
        scores = np.asarray(jax.jit(layout.scores)(corpus, query))
        scores = scores[layout.memory_rows(np.arange(MANY))]
        assert scores[answers[-1].rows[0]].tobytes() == np.asarray(answers[-1].scores[0]).tobytes()
    assert np.asarray(answers[0].scores).tobytes() == np.asarray(answers[1].scores).tobytes()
    np.testing.assert_array_equal(answers[0].rows, answers[1].rows)
    exact = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :K]
    np.testing.assert_array_equal(answers[0].rows, exact)


@pytest.mark.parametrize(
    "sizes", [{"block_rows": 64}, {"block_rows": 24, "tile_rows": 192}, {"tile_rows": 8}]
)
def test_sizes_that_the_kernels_cannot_take_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"kernels take|multiple of 64"):
        _layout(1, **sizes)


def test_a_width_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="width: the kernels take 16, "):
        ShardedLayout(devices=(jax.devices()[0],), rows=5, width=13, scan="kernel")


@pytest.mark.parametrize("batch", [1, 33, 256, 300])
@pytest.mark.parametrize(
    ("dtype", "rows"),
    [(jnp.bfloat16, 10_000_000), (jnp.bfloat16, 40_000_000), (jnp.float32, 10**6)],
)
def test_the_search_lowers_to_kernels_for_cuda_at_real_sizes(
    batch: int, dtype: Any, rows: int
) -> None:
    layout = ShardedLayout(
        devices=(jax.devices()[0],),
        rows=rows,
        width=128,
        tile_rows=1 << 13,
        block_rows=32,
        scan="kernel",
    )
    spec: Any = functools.partial(jax.ShapeDtypeStruct, sharding=layout.by_rows)
    corpus = DeviceCorpus(
        spec((layout.padded_rows, 128), dtype),
        spec((layout.padded_rows,), np.bool_),
        spec((1,), np.float32),
    )
    queries = jax.ShapeDtypeStruct((batch, 128), np.float32, sharding=layout.replicated)
    kernel = export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")
    lowered = export.export(
        jax.jit(functools.partial(layout.top_k, k=1000)),
        platforms=["cuda"],
        disabled_checks=[kernel],
    )(corpus, queries).mlir_module()
    names = ("block_maxima", "kth_largest", "keep_largest", "block_scores")
    assert all(f'name = "{name}"' in lowered for name in names)
