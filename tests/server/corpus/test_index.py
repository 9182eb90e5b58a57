import jax
import numpy as np
import pytest

from phoenix_server.corpus.index import choose_layout
from phoenix_server.corpus.snapshot import Snapshot
from phoenix_server.engine import Engine
from phoenix_server.errors import PostNotFoundError, StartupError


def test_rows_of_posts_are_found_in_any_order(engine: Engine, snapshot: Snapshot) -> None:
    post_ids = snapshot.columns().post_ids
    rows = np.random.default_rng(0).integers(0, len(post_ids), 500)
    np.testing.assert_array_equal(engine.corpus.rows_of(post_ids[rows]), rows)


def test_posts_that_are_missing_are_all_named(engine: Engine, snapshot: Snapshot) -> None:
    post_ids = snapshot.columns().post_ids
    missing = np.array([1, 2**64 - 1, post_ids[5] + np.uint64(1)], np.uint64)
    asked = np.concatenate([post_ids[:2], missing[:2], post_ids[2:3], missing[2:]])
    with pytest.raises(PostNotFoundError) as caught:
        engine.corpus.rows_of(asked)
    assert caught.value.post_ids == tuple(missing.tolist())
    assert str(caught.value).startswith("3 of the posts are not in the corpus: 1, ")


def test_labels_of_rows_come_in_order(engine: Engine, snapshot: Snapshot) -> None:
    columns = snapshot.columns()
    rows = np.array([2999, 0, 7, 7], np.int32)
    counts, codes = engine.corpus.labels_of(rows)
    assert counts.tolist() == [1, 1, 1, 1]
    assert codes.tolist() == columns.label_codes[rows].tolist()
    counts, codes = engine.corpus.labels_of(rows[:0])
    assert (len(counts), len(codes)) == (0, 0)


def test_posts_with_no_label_and_several_are_told_apart(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = engine.corpus.columns._replace(
        label_offsets=np.array([0, 2, 2, 3, 3]), label_codes=np.array([4, 1, 9], np.int32)
    )
    monkeypatch.setattr(engine.corpus, "columns", columns)
    counts, codes = engine.corpus.labels_of(np.array([3, 2, 0, 1, 0], np.int32))
    assert counts.tolist() == [0, 1, 2, 0, 2]
    assert codes.tolist() == [9, 4, 1, 4, 1]
    counts, codes = engine.corpus.labels_of(np.array([1, 3], np.int32))
    assert (counts.tolist(), codes.tolist()) == ([0, 0], [])


def test_kernels_are_refused_where_they_do_not_run() -> None:
    with pytest.raises(StartupError, match="scan: the kernels are for GPUs, not for cpu"):
        choose_layout(tuple(jax.devices()[:1]), rows=1000, width=128, scan="kernel")
