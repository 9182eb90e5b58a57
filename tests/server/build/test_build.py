from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from phoenix_export.checkpoint import open_checkpoint
from phoenix_model import encode_candidates, hash_ids, unflatten_params
from phoenix_server.build.build import build_corpus
from phoenix_server.bundle.bundle import Bundle, open_bundle
from phoenix_server.corpus.disk.snapshot import open_snapshot, verify
from phoenix_server.engine.engine import Engine
from phoenix_server.errors import BundleError
from server.build.cases import SMALL, built, refused, write
from server.cases import copied

_DROPPING = replace(SMALL, drop_duplicates=True)


def _model_vectors(
    layout: Path, bundle: Bundle, post_ids: npt.NDArray[Any], author_ids: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    """Encode posts with the model that the bundle was exported from."""
    checkpoint = open_checkpoint(layout, "float32")
    weights = load_file(bundle.path / "weights.safetensors")
    used = {name: array for name, array in weights.items() if "candidate_tower" in name}
    embeddings = [
        bundle.load_table(f"{entity}_embeddings")[hash_ids(ids, checkpoint.hashes[entity])]
        for entity, ids in (("item", post_ids), ("author", author_ids))
    ]
    return encode_candidates(checkpoint.model, unflatten_params(used), *embeddings)


def test_with_trusted_keys_no_cache_of_the_environment_is_used(
    posts: Path, trusting: Bundle, tmp_path: Path
) -> None:
    build_corpus([posts], trusting, tmp_path / "corpus", SMALL)
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_vectors_are_those_of_the_candidate_tower(
    golden_layout: Path, bundle: Bundle, engine: Engine, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    post_ids, author_ids = rng.integers(1, 2**64, (2, 203), np.uint64)
    parquet, reported = tmp_path / "posts.parquet", list[tuple[str, int, int, int]]()
    pq.write_table(
        pa.table({"author_id": author_ids, "other": post_ids, "post_id": post_ids}),
        parquet,
        row_group_size=50,  # 64 rows a batch: neither divides the other, nor 203
    )

    def report(done: int, total: int, /, stage: str = "", found: int = 0) -> None:
        reported.append((stage, done, total, found))

    written = build_corpus([parquet], bundle, tmp_path / "corpus", SMALL, report=report)
    assert written == 203
    assert reported == sorted(reported)
    for stage in ("checked", "encoded", "written"):
        assert max(entry for entry in reported if entry[0] == stage) == (stage, 203, 203, 0)
    snapshot = open_snapshot(tmp_path / "corpus")
    verify(snapshot)
    assert snapshot.manifest.tower_fingerprint == bundle.manifest.tower_fingerprint
    columns, vectors = snapshot.columns(), np.concatenate(list(snapshot.vectors()))
    np.testing.assert_array_equal(columns.post_ids, post_ids)
    np.testing.assert_array_equal(columns.author_ids, author_ids)
    served = engine.encode_posts(post_ids, author_ids)
    np.testing.assert_allclose(vectors, served, rtol=0, atol=1e-6)
    modelled = _model_vectors(golden_layout, bundle, post_ids, author_ids)
    np.testing.assert_allclose(vectors, modelled, rtol=0, atol=1e-6)


def test_a_bfloat16_bundle_builds_a_corpus(bundle_bf16: Path, tmp_path: Path) -> None:
    assert built(open_bundle(bundle_bf16), tmp_path).num_rows == 3


def test_duplicates_are_refused_or_dropped(bundle: Bundle, tmp_path: Path) -> None:
    ids = np.arange(1, 151, dtype=np.uint64)
    ids[[70, 149]] = [3, 100]  # in another batch than the first of each
    parquet = tmp_path / "posts.parquet"
    pq.write_table(pa.table({"post_id": ids, "author_id": np.arange(1, 151)}), parquet)
    error = refused([parquet], bundle, tmp_path / "corpus")
    assert error.path == parquet
    assert error.reason == (
        f"post_id 3 occurs more than once: in row 70, and before in row 2 of {parquet} "
        "(2 repeated rows); --drop-duplicates keeps the first of each"
    )
    assert build_corpus([parquet], bundle, tmp_path / "corpus", _DROPPING) == 148
    snapshot = open_snapshot(tmp_path / "corpus")
    verify(snapshot)
    kept = np.delete(np.arange(150), [70, 149])
    np.testing.assert_array_equal(snapshot.columns().post_ids, ids[kept])
    np.testing.assert_array_equal(snapshot.columns().author_ids, kept + 1)


def test_a_batch_without_posts_to_keep_is_skipped(bundle: Bundle, tmp_path: Path) -> None:
    ids = pa.array([1] * 200 + [2], pa.uint64())
    parquet = write(tmp_path / "posts.parquet", post_id=ids, author_id=ids)
    assert build_corpus([parquet], bundle, tmp_path / "corpus", _DROPPING) == 2
    assert open_snapshot(tmp_path / "corpus").columns().post_ids.tolist() == [1, 2]


def test_input_without_posts_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    nothing = pa.array([], pa.uint64())
    parquet = write(tmp_path / "posts.parquet", post_id=nothing, author_id=nothing)
    assert refused([parquet], bundle, tmp_path / "corpus").reason == "holds no posts"


def test_an_existing_directory_is_not_changed(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    error = refused([write(tmp_path / "posts.parquet")], bundle, tmp_path / "corpus")
    assert error.path == tmp_path / "corpus"
    assert error.reason.startswith("exists")
    assert not list((tmp_path / "corpus").iterdir())


def test_towers_that_fail_their_self_test_build_nothing(bundle_f32: Path, tmp_path: Path) -> None:
    path = copied(bundle_f32, tmp_path / "bundle")
    with np.load(path / "selftest.npz") as file:
        arrays = dict(file)
    arrays["candidate_tower/outputs/candidate_representation"][5] *= -1
    np.savez(path / "selftest.npz", **arrays)
    with pytest.raises(BundleError, match="candidate_representation differs by "):
        build_corpus([write(tmp_path / "p.parquet")], open_bundle(path), tmp_path / "corpus")
    assert {entry.name for entry in tmp_path.iterdir()} == {"bundle", "p.parquet"}
