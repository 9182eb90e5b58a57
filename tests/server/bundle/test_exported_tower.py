from pathlib import Path
from typing import Any

import jax
import pytest
from safetensors.numpy import load_file, save_file

from phoenix_server.bundle.bundle import Bundle, open_bundle
from phoenix_server.bundle.towers import Towers
from phoenix_server.errors import BundleError
from server.cases import copied, edit_manifest


def _compiled(path: Path) -> Towers:
    towers = Towers(open_bundle(path), jax.devices()[0])
    towers.compile_users(2, 16)
    return towers


def test_a_missing_weight_is_refused(bundle_f32: Path, tmp_path: Path) -> None:
    path = copied(bundle_f32, tmp_path / "bundle")
    tensors = load_file(path / "weights.safetensors")
    dropped = next(name for name in tensors if name.endswith("proj_mat_1"))
    del tensors[dropped]
    save_file(tensors, path / "weights.safetensors")
    with pytest.raises(BundleError, match=f"takes '{dropped}', which the bundle") as caught:
        Towers(open_bundle(path), jax.devices()[0])
    assert caught.value.path == path / "programs/user_tower.jax"


def test_a_table_of_another_size_is_refused(bundle_f32: Path, tmp_path: Path) -> None:
    path = copied(bundle_f32, tmp_path / "bundle")
    table = path / "tables/user_embeddings.safetensors"
    save_file({"user_embeddings": load_file(table)["user_embeddings"][:-1]}, table)
    with pytest.raises(BundleError, match="does not take the arrays of this bundle") as caught:
        _compiled(path)
    assert caught.value.path == path / "programs/user_tower.jax"


def test_a_size_that_the_program_does_not_take_is_refused(bundle: Bundle) -> None:
    towers = Towers(bundle, jax.devices()[0])
    with pytest.raises(BundleError, match="does not take the arrays of this bundle") as caught:
        towers.compile_users(2, 2**32 - 1)
    assert caught.value.path == bundle.path / "programs/user_tower.jax"


@pytest.mark.parametrize("change", [{"dtype": "int31"}, {"dimensions": ["b", "x"]}])
def test_a_signature_that_cannot_be_is_refused(
    bundle_f32: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    path = copied(bundle_f32, tmp_path / "bundle")
    edit_manifest(path, lambda m: m["user_tower"]["inputs"][0].update(change))
    with pytest.raises(BundleError, match="does not take the arrays of this bundle"):
        _compiled(path)
