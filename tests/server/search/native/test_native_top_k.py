"""The native search is exact to the bit, as every variant that this CPU can run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_server.search.native import scan
from phoenix_server.search.native.library import variants
from phoenix_server.search.shard import ScanConfig
from server.search.native.native_cases import (
    KINDS,
    SHAPES,
    Case,
    check,
    check_variants,
    defined_scores,
    draw_case,
    encoder,
    find,
    score_all,
    search,
    variants_for,
    writer,
)


# Each query has its own mask and is a case of its own: with 19 queries of a shape on average, these
# are more than 10,000 for every variant.
@settings(max_examples=600)
@given(
    shape=st.sampled_from(SHAPES),
    kind=st.sampled_from(KINDS),
    share=st.sampled_from([0.0, 0.01, 0.5, 2.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_variant_is_exact(
    shape: tuple[int, int, int, int], kind: str, share: float, seed: int
) -> None:
    check_variants(draw_case(shape, kind, share, seed), variants_for(shape[1]))


def test_portable_code_runs_everywhere() -> None:
    assert variants(128)[-1] == variants(13)[-1] == "portable"


@pytest.mark.parametrize("kind", KINDS)
def test_large_corpora_are_exact(kind: str) -> None:
    # Large enough that a threshold is guessed, candidates fill up, and equal rows are many.
    case = draw_case((128 * 1024, 64, 9, 1000), kind, share=2.0, seed=3)
    check(case, *find(case, variants_for(64)[0]))


@pytest.mark.parametrize("name", variants_for(64))
def test_a_guess_that_is_too_high_changes_nothing(name: str) -> None:
    case = draw_case((128 * 1024, 64, 9, 100), "random", share=2.0, seed=4)
    # The rows from which the guess is made are the only ones near the queries.
    sampled = np.arange(128 * 1024 // 512, dtype=np.uint64)
    places = (sampled + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(60)
    first = (sampled * np.uint64(16) + places).astype(np.int64) * 32
    near = case.vectors.copy()
    near[first[:3, None] + np.arange(32)] = case.queries[0]
    case = dataclasses.replace(case, vectors=near)
    check(case, *find(case, name))


@pytest.mark.parametrize("k", [1, 1000, 4096])
def test_any_number_of_results_may_be_asked_for(k: int) -> None:
    case = dataclasses.replace(draw_case((4096, 64, 9, 1), "random", 0.5, seed=5), k=k, wanted=None)
    check(case, *find(case, variants_for(64)[0]))


def test_many_queries_with_many_results_are_searched_in_turns() -> None:
    # Their candidates would take more memory than a search may have.
    case = draw_case((4096, 16, 600, 4096), "random", share=2.0, seed=6)
    check(case, *find(case, variants_for(16)[0]))


def test_queries_of_zeros_are_padding_and_others_keep_their_answers() -> None:
    case = draw_case((4096, 64, 9, 10), "random", share=0.5, seed=7)
    case = dataclasses.replace(case, wanted=None)
    scores, rows = find(case, variants_for(64)[0])
    queries = np.zeros((20, 64), np.float32)
    masks = np.zeros((20, 4096), np.bool_)
    queries[2::2], masks[2::2] = case.queries, case.eligible
    padded = Case(case.vectors, case.ids, queries, masks, case.k)
    found = find(padded, variants_for(64)[0])
    assert found[0][2::2].tobytes() == scores.tobytes()
    np.testing.assert_array_equal(found[1][2::2], rows)
    assert np.isneginf(found[0][1::2]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_query_that_is_not_finite_has_no_scores(value: float) -> None:
    case = draw_case((4096, 64, 9, 10), "random", share=2.0, seed=8)
    queries = case.queries.copy()
    queries[3, 5] = value
    case = dataclasses.replace(case, queries=queries, wanted=None)
    scores, _ = find(case, variants_for(64)[0])
    assert np.isnan(scores[3]).all()
    assert np.isfinite(np.delete(scores, 3, axis=0)).all()


@settings(max_examples=60)
@given(shape=st.sampled_from(SHAPES), kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32 - 1))
def test_rows_that_are_written_have_the_codes_of_rows_that_are_placed(
    shape: tuple[int, int, int, int], kind: str, seed: int
) -> None:
    before, after = (draw_case(shape, each, 0.5, seed) for each in ("random", kind))
    rng = np.random.default_rng(seed)
    rows = rng.permutation(shape[0])[:64].astype(np.int32)
    vectors = before.vectors.copy()
    vectors[rows] = after.vectors[rows]
    for name in variants_for(shape[1]):
        config = ScanConfig(tile_rows=scan.TILE_ROWS, scan="native", variant=name)
        encode, write = encoder(config), writer(config)
        beyond = np.append(rows[:-1], np.int32(shape[0]))  # is padding
        arrays = jnp.array(before.vectors), encode(before.vectors)
        at = [each.unsafe_buffer_pointer() for each in jax.tree.leaves(arrays)]
        written, codes = write(*arrays, beyond, after.vectors[rows])
        written, codes = write(written, codes, rows, after.vectors[rows])
        assert at == [each.unsafe_buffer_pointer() for each in jax.tree.leaves((written, codes))]
        np.testing.assert_array_equal(written, vectors)
        for part, expected in zip(codes, encode(vectors), strict=True):
            np.testing.assert_array_equal(part, expected)
        case = dataclasses.replace(after, vectors=vectors)
        check(case, *search(case, codes, config))


def test_numbers_below_the_normal_ones_are_not_taken_for_zero() -> None:
    # XLA's threads flush them, and would change the bits of scores.
    case = draw_case((4096, 64, 9, 10), "random", share=2.0, seed=10)
    case = dataclasses.replace(case, vectors=case.vectors * np.float32(1e-37))
    for name in variants_for(64):
        scores, rows = find(case, name)
        assert np.abs(scores).max() > 0
        check(case, scores, rows)


def test_all_scores_are_the_defined_ones() -> None:
    case = draw_case((3072, 50, 1, 1), "short", share=0.5, seed=9)
    for name in variants_for(50):
        config = ScanConfig(tile_rows=scan.TILE_ROWS, scan="native", variant=name)
        scores = score_all(case, config)
        assert np.isneginf(scores[~case.eligible[0]]).all()
        here = case.eligible[0]
        expected = defined_scores(case.vectors[here], case.queries[0])
        assert scores[here].tobytes() == expected.tobytes()


def test_a_variant_that_the_cpu_cannot_run_is_refused() -> None:
    case = draw_case((1024, 16, 1, 1), "random", share=2.0, seed=0)
    with pytest.raises(jax.errors.JaxRuntimeError, match="cannot run the native search as mmx"):
        find(case, "mmx")
