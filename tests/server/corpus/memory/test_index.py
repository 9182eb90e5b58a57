import jax
import numpy as np
import pytest

from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.corpus.memory.device_arrays import choose_layout
from phoenix_server.engine.engine import Engine
from phoenix_server.errors import PostNotFoundError, StartupError


def test_rows_of_posts_are_found_in_any_order(engine: Engine, snapshot: Snapshot) -> None:
    post_ids = snapshot.columns().post_ids
    asked = np.random.default_rng(0).choice(post_ids, 500)
    rows = engine.corpus.rows_of(asked)
    np.testing.assert_array_equal(engine.corpus.post_ids[rows], asked)
    written = dict(zip(post_ids.tolist(), snapshot.columns().author_ids.tolist(), strict=True))
    assert engine.corpus.author_ids[rows].tolist() == [
        written[post_id] for post_id in asked.tolist()
    ]


def test_posts_that_are_missing_are_all_named(engine: Engine, snapshot: Snapshot) -> None:
    post_ids = snapshot.columns().post_ids
    missing = np.array([1, 2**64 - 1, post_ids[5] + np.uint64(1)], np.uint64)
    asked = np.concatenate([post_ids[:2], missing[:2], post_ids[2:3], missing[2:]])
    with pytest.raises(PostNotFoundError) as caught:
        engine.corpus.rows_of(asked)
    assert caught.value.post_ids == tuple(missing.tolist())
    assert str(caught.value).startswith("3 of the posts are not in the corpus: 1, ")


def test_labels_of_posts_come_in_order(engine: Engine, snapshot: Snapshot) -> None:
    columns = snapshot.columns()
    asked = columns.post_ids[[2999, 0, 7, 7]]
    labels = engine.corpus.labels.at(engine.corpus.rows_of(asked))
    assert labels.counts.tolist() == [1, 1, 1, 1]
    named = [labels.names[index] for index in labels.indices]
    expected = columns.labels.indices[[2999, 0, 7, 7]]
    assert named == [snapshot.manifest.label_names[code] for code in expected]
    assert engine.corpus.labels.at(np.zeros(0, np.int32)).counts.tolist() == []


def test_kernels_are_refused_where_they_do_not_run() -> None:
    with pytest.raises(StartupError, match="scan: the kernels need a GPU, the devices are cpu"):
        choose_layout(tuple(jax.devices()[:1]), rows=1000, width=128, scan="kernel")
