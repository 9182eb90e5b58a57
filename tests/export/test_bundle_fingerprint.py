"""The fingerprint of a bundle stands for all that its vectors depend on."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.cases import Files, read_manifest
from phoenix_export.bundle import write_bundle
from phoenix_export.checkpoint import open_checkpoint


def test_another_process_and_a_saved_model_keep_the_fingerprint(
    bundle_f32: Path, bundle_with_saved_model: Path
) -> None:
    without, with_it = read_manifest(bundle_f32), read_manifest(bundle_with_saved_model)
    assert with_it.tower_fingerprint == without.tower_fingerprint
    extra = {file.path for file in with_it.files} - {file.path for file in without.files}
    assert "saved_model/saved_model.pb" in extra
    assert all(path.startswith("saved_model/") for path in extra)


def _fingerprint(files: Files, folder: Path, dtype: str = "float32") -> str:
    checkpoint = open_checkpoint(files.write(folder / "changed"), dtype)
    return write_bundle(checkpoint, folder / "1", saved_model=False).tower_fingerprint


CHANGES = ["a weight", "a table", "dtype", "a scale", "a bias", "a modulus"]


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_changes_with_every_input_of_an_embedding(
    tiny_bundle: Path, files: Files, tmp_path: Path, change: str
) -> None:
    hash_params = files.config["hash_params"]
    match change:
        case "a weight":
            files.params["phoenix_retrieval_model/proj_mat_1"][-1, -1] += 1
        case "a table":
            files.tables["user_embeddings"][-1, -1] += 1
        case "a scale":
            hash_params["author_hash_scales"][-1] += 1
        case "a bias":
            hash_params["item_biases"][0] += 1
        case "a modulus":
            hash_params["user_modulus"] -= 1
        case _:
            pass
    dtype = "bfloat16" if change == "dtype" else "float32"
    changed = _fingerprint(files, tmp_path, dtype)
    assert changed != read_manifest(tiny_bundle).tower_fingerprint
