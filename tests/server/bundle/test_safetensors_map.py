from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from phoenix_server.bundle.safetensors_map import map_tensors


def test_tensors_are_mapped_as_they_were_saved(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    rng = np.random.default_rng(0)
    saved = {
        "table": rng.normal(size=(7, 5)).astype(np.float32),
        "vector": rng.normal(size=11).astype(np.float32),
        "scalar": np.array(3, np.float32),
        "nothing": np.zeros((0, 5), np.float32),
    }
    save_file(saved, path)
    found = dict(map_tensors(path))
    assert found.keys() == saved.keys()
    for name, array in saved.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape
    assert not found["table"].flags.writeable


def test_a_table_of_a_bundle_is_served_from_its_file(bundle_f32: Path) -> None:
    path = bundle_f32 / "tables/user_embeddings.safetensors"
    ((_, table),) = map_tensors(path)
    placed = jax.device_put(table, jax.devices()[0], may_alias=True)
    assert placed.unsafe_buffer_pointer() == table.ctypes.data


@pytest.mark.parametrize("kept", [0, 5, 30, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "some.safetensors"
    save_file({"table": np.ones((7, 5), np.float32)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="header"):
        list(map_tensors(path))


def test_numbers_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    save_file({"table": np.ones((7, 5), np.float16)}, path)
    with pytest.raises(ValueError, match="table holds F16, not F32"):
        list(map_tensors(path))
