"""Ties are ordered by id, and masked rows are left out, on any number of shards."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_server.search.shard import Scan
from server.search.sharded_cases import (
    FEW,
    MANY,
    QUERIES,
    SCANS,
    SHARDS_AND_K,
    K,
    assert_exact,
    layout_of,
    search,
    small_integers,
    whole_scores,
)


@settings(max_examples=80)
@given(
    scan=st.sampled_from(SCANS),
    shards_and_k=st.sampled_from(SHARDS_AND_K),
    seed=st.integers(0, 2**32 - 1),
    distinct=st.integers(1, 60),
    share=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
)
def test_ties_and_masks_are_exact(
    scan: Scan, shards_and_k: tuple[int, int], seed: int, distinct: int, share: float
) -> None:
    shards, k = shards_and_k
    vectors, queries = small_integers(FEW, seed, distinct)
    rng = np.random.default_rng(seed)
    eligible = rng.random((QUERIES, FEW) if seed % 2 else FEW) < share
    ids = rng.permutation(np.arange(FEW, dtype=np.uint64) * np.uint64(2**28) + np.uint64(5))
    assert_exact(layout_of(shards, FEW, scan), vectors, queries, k, eligible, ids)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("distinct", [1, 2, 400])
def test_ties_are_ordered_by_id_where_blocks_are_chosen(
    scan: Scan, shards: int, distinct: int
) -> None:
    vectors, queries = small_integers(4 * MANY, seed=0, distinct=distinct)
    ids = np.random.default_rng(0).permutation(4 * MANY).astype(np.uint64) << np.uint64(31)
    assert_exact(layout_of(shards, 4 * MANY, scan), vectors, queries, K, ids=ids + np.uint64(1))


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("shards", [1, 4])
def test_each_query_has_its_own_mask_where_blocks_are_chosen(scan: Scan, shards: int) -> None:
    vectors, queries = whole_scores(4 * MANY, seed=0)
    eligible = np.random.default_rng(0).random((QUERIES, 4 * MANY)) < [[0.5], [0.01], [0.001]]
    assert_exact(layout_of(shards, 4 * MANY, scan), vectors, queries, K, eligible)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize(("shards", "k"), SHARDS_AND_K)
def test_a_masked_row_never_leaks(scan: Scan, shards: int, k: int) -> None:
    vectors, queries = small_integers(FEW, seed=1)
    best = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]
    eligible = np.ones(FEW, np.bool_)
    eligible[best] = False
    eligible[150:] = False
    assert_exact(layout_of(shards, FEW, scan), vectors, queries, k, eligible)
    assert_exact(layout_of(shards, FEW, scan), vectors, queries, k, np.zeros(FEW, np.bool_))


# Within a shard, and among shards that each give less than is asked for, or more.
@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize(("shards", "k"), [(1, 40), (8, 3), (8, 40)])
def test_minus_zero_ties_with_zero(scan: Scan, shards: int, k: int) -> None:
    # Products that underflow keep their sign: -0.0 for the even rows, 0.0 for the odd ones.
    tiny = np.where(np.arange(FEW)[:, None] % 2, 1e-30, -1e-30)
    layout = layout_of(shards, FEW, scan, width=1)
    scores, rows, _ = search(layout, tiny, np.full((1, 1), 1e-30), k)
    np.testing.assert_array_equal(rows, [range(k)])
    assert not np.signbit(scores).any()
