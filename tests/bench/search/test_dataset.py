import ml_dtypes
import numpy as np
import pytest

from phoenix_bench.search.dataset import Kind, draw_dataset


def test_groups_are_equal_ascending_rows_nearest_to_their_probes() -> None:
    drawn = draw_dataset(rows=500, width=13, queries=5, group_sizes=[11, 3], dtype="float32")
    assert [len(group) for group in drawn.copies] == [11, 3]
    for probe, group in zip(drawn.probes, drawn.copies, strict=False):
        assert (np.diff(group) > 0).all()
        assert (drawn.corpus[group] == drawn.corpus[group[0]]).all()
        nearest = np.argsort(-(drawn.corpus @ probe), kind="stable")[: len(group)]
        assert set(nearest) == set(group)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vectors_have_unit_length_and_the_given_type(dtype: str) -> None:
    drawn = draw_dataset(rows=50, width=13, queries=5, group_sizes=[2], dtype=dtype)
    for vectors in (drawn.corpus, drawn.queries, drawn.probes):
        assert vectors.dtype == np.float32
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, rtol=0, atol=1e-2)
        exact = bool((vectors == vectors.astype(ml_dtypes.bfloat16).astype(np.float32)).all())
        assert exact is (dtype == "bfloat16")


@pytest.mark.parametrize("sizes", [[51], [1] * 6])
def test_groups_that_do_not_fit_are_rejected(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        draw_dataset(rows=50, width=13, queries=5, group_sizes=sizes, dtype="float32")


def test_queries_of_a_clustered_corpus_are_near_posts() -> None:
    def nearest(kind: Kind) -> float:
        drawn = draw_dataset(
            rows=5000, width=64, queries=9, group_sizes=[], dtype="float32", kind=kind
        )
        np.testing.assert_allclose(np.linalg.norm(drawn.queries, axis=1), 1, rtol=1e-6)
        return float((drawn.queries @ drawn.corpus.T).max(axis=1).min())

    assert nearest("clustered") > 0.95
    assert nearest("random") < 0.7
