"""Scores are the same bit for bit wherever a row lies."""

import numpy as np
import pytest

from phoenix_server.search.shard import Scan
from server.search.sharded_cases import (
    MANY,
    QUERIES,
    SCANS,
    WIDTH,
    K,
    all_scores,
    layout_of,
    search,
)

SHARDS = (1, 2, 4, 8)


@pytest.mark.parametrize("scan", SCANS)
def test_scores_and_order_are_bit_for_bit_the_same_in_any_shards_and_tiles(scan: Scan) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(MANY, WIDTH)), rng.normal(size=(QUERIES, WIDTH))
    vectors[rng.integers(0, MANY, 400)] = vectors[5]
    layouts = [layout_of(shards, MANY, scan) for shards in SHARDS]
    layouts += [layout_of(shards, MANY, scan, tile=512) for shards in (1, 8)]
    answers = [search(layout, vectors, queries, K) for layout in layouts]
    for scores, rows, eligible in answers:
        assert scores.tobytes() == answers[0][0].tobytes()
        np.testing.assert_array_equal(rows, answers[0][1])
        assert eligible.tolist() == [MANY]
    exact = np.sort(queries @ vectors.T, axis=1)[:, ::-1][:, :K]
    np.testing.assert_allclose(answers[0][0], exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("tile", [128, 8192])
def test_a_score_does_not_depend_on_where_the_row_lies(scan: Scan, shards: int, tile: int) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(MANY, WIDTH)), rng.normal(size=(QUERIES, WIDTH))
    moved = rng.permutation(MANY)
    layout = layout_of(shards, MANY, scan, tile=tile)
    here, there = (all_scores(layout, v, queries) for v in (vectors, vectors[moved]))
    assert here[:, moved].tobytes() == there.tobytes()
    everywhere = all_scores(layout, np.tile(vectors[3], (MANY, 1)), queries)
    assert (everywhere == here[:, 3:4]).all()


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("shards", [1, 4])
def test_top_k_gives_the_scores_that_scores_gives(scan: Scan, shards: int) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(MANY, WIDTH)), rng.normal(size=(QUERIES, WIDTH))
    layout = layout_of(shards, MANY, scan)
    scores, rows, _ = search(layout, vectors, queries, K)
    everything = all_scores(layout, vectors, queries)
    assert np.take_along_axis(everything, rows, axis=1).tobytes() == scores.tobytes()
