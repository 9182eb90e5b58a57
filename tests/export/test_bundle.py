from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jax
import numpy as np
import pytest
from google.protobuf import json_format
from safetensors.numpy import load_file

from commands import run_program
from export.cases import Files, read_manifest, tiny_files
from phoenix_export import bundle
from phoenix_export.bundle import write_bundle
from phoenix_export.checkpoint import open_checkpoint
from phoenix_retrieval.v1 import manifest_pb2


def _signature(arrays: object) -> dict[str, tuple[str, list[str]]]:
    assert isinstance(arrays, list)
    return {array.name: (array.dtype, list(array.dimensions)) for array in arrays}


def test_the_manifest_lists_every_other_file(tiny_bundle: Path) -> None:
    found = {
        path.relative_to(tiny_bundle).as_posix(): path
        for path in tiny_bundle.rglob("*")
        if path.is_file()
    }
    del found["manifest.json"]
    listed = {file.path: file for file in read_manifest(tiny_bundle).files}
    assert listed.keys() == found.keys()
    assert found.keys() == {
        "model.json",
        "programs/candidate_tower.jax",
        "programs/candidate_tower.stablehlo.mlir",
        "programs/user_tower.jax",
        "programs/user_tower.stablehlo.mlir",
        "selftest.npz",
        "tables/author_embeddings.safetensors",
        "tables/item_embeddings.safetensors",
        "tables/user_embeddings.safetensors",
        "weights.safetensors",
    }
    for name, path in found.items():
        content = path.read_bytes()
        assert listed[name].size_bytes == len(content)
        assert listed[name].sha256 == hashlib.sha256(content).hexdigest()


def test_model_json_holds_the_manifest_without_times_and_sums(tiny_bundle: Path) -> None:
    expected = read_manifest(tiny_bundle)
    assert expected.model.history_length
    for field in ("files", "tower_fingerprint", "created_at", "expires_at"):
        expected.ClearField(field)
    text = (tiny_bundle / "model.json").read_text(encoding="utf-8")
    assert json_format.Parse(text, manifest_pb2.BundleManifest()) == expected


def test_the_manifest_describes_the_model(tiny_bundle: Path, files: Files) -> None:
    manifest = read_manifest(tiny_bundle)
    assert manifest.format_version == 1
    assert manifest.model == manifest_pb2.ModelSizes(
        embedding_size=13,
        history_length=11,
        num_actions=19,
        product_surface_vocab_size=17,
        num_layers=1,
        num_query_heads=3,
        num_key_value_heads=3,
        key_size=6,
    )
    for entity in ("user", "item", "author"):
        functions = getattr(manifest, f"{entity}_hash")
        constants = files.config["hash_params"]
        assert list(functions.scales) == constants[f"{entity}_hash_scales"]
        assert list(functions.biases) == constants[f"{entity}_biases"]
        assert functions.modulus == constants[f"{entity}_modulus"]
        assert functions.vocab_size == files.config[f"{entity}_vocab_size"]
    assert manifest.compute_dtype == "float32"
    assert list(manifest.platforms) == ["cpu", "cuda", "rocm", "tpu"]
    assert manifest.jax_version == jax.__version__
    major, *rest = manifest.stablehlo_version.split(".")
    assert int(major) >= 1 and all(part.isdecimal() for part in rest)
    assert manifest.selftest_tolerance == 1e-5


def test_the_manifest_has_the_signatures_with_symbolic_sizes(tiny_bundle: Path) -> None:
    manifest = read_manifest(tiny_bundle)
    assert _signature(list(manifest.user_tower.inputs)) == {
        "user_rows": ("int32", ["b", "4"]),
        "history_post_rows": ("int32", ["b", "s", "2"]),
        "history_author_rows": ("int32", ["b", "s", "5"]),
        "history_action_words": ("uint32", ["b", "s", "2"]),
        "history_product_surfaces": ("int32", ["b", "s"]),
    }
    assert _signature(list(manifest.user_tower.outputs)) == {
        "user_representation": ("float32", ["b", "13"]),
        "user_norm": ("float32", ["b"]),
    }
    assert _signature(list(manifest.candidate_tower.inputs)) == {
        "post_rows": ("int32", ["n", "2"]),
        "author_rows": ("int32", ["n", "5"]),
    }
    assert _signature(list(manifest.candidate_tower.outputs)) == {
        "candidate_representation": ("float32", ["n", "13"])
    }
    for name in ("user_tower", "candidate_tower"):
        program = getattr(manifest, name)
        assert program.path == f"programs/{name}.jax"
        assert program.stablehlo_path == f"programs/{name}.stablehlo.mlir"


def test_weights_and_tables_are_those_of_the_checkpoint(tiny_bundle: Path, files: Files) -> None:
    weights = load_file(tiny_bundle / "weights.safetensors")
    assert weights.keys() == files.params.keys()
    for name, expected in files.params.items():
        np.testing.assert_array_equal(weights[name], expected, strict=True)
    for name, expected in files.tables.items():
        table = load_file(tiny_bundle / "tables" / f"{name}.safetensors")
        assert table.keys() == {name}
        np.testing.assert_array_equal(table[name], expected, strict=True)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, manifest_pb2.BundleManifest]:
    """Return the tiny bundle written once more, and the manifest that was returned."""
    folder = tmp_path_factory.mktemp("again")
    checkpoint = open_checkpoint(tiny_files().write(folder / "checkpoint"), "float32")
    out = folder / "deep" / "er" / "7"
    return out, write_bundle(checkpoint, out, saved_model=False)


def test_the_returned_manifest_is_the_written_one(
    written: tuple[Path, manifest_pb2.BundleManifest],
) -> None:
    out, manifest = written
    assert read_manifest(out) == manifest
    text = json.loads((out / "manifest.json").read_text())
    assert text["user_hash"]["scales"] == ["3", str(-(2**63)), str(2**63 - 1), str(2**61 + 15)]


def test_programs_are_readable_for_180_days(
    written: tuple[Path, manifest_pb2.BundleManifest],
) -> None:
    _, manifest = written
    created = manifest.created_at.ToDatetime(UTC)
    assert abs(datetime.now(UTC) - created) < timedelta(hours=1)
    assert manifest.expires_at.ToDatetime(UTC) - created == timedelta(days=180)


def test_exporting_again_keeps_the_fingerprint_and_every_sum(
    tiny_bundle: Path, written: tuple[Path, manifest_pb2.BundleManifest]
) -> None:
    out, again = written
    first = read_manifest(tiny_bundle)
    assert len(first.tower_fingerprint) == 64
    assert again.tower_fingerprint == first.tower_fingerprint
    sums = {f.path: f.sha256 for f in first.files}
    assert {f.path: f.sha256 for f in again.files} == sums
    assert sorted(os.listdir(out.parent)) == ["7"]


def test_the_self_test_covers_edge_cases(tiny_bundle: Path) -> None:
    with np.load(tiny_bundle / "selftest.npz", allow_pickle=False) as archive:
        arrays = dict(archive)
    for entity, rows in (("user", 29), ("item", 31), ("author", 37)):
        ids, hashed = arrays[f"ids/{entity}"], arrays[f"rows/{entity}"]
        assert ids.dtype == np.uint64 and ids[-1] == 0 and ids.max() >= 2**63
        assert not hashed[-1].any() and hashed[:-1].min() >= 1 and hashed.max() < rows
    users = arrays["user_tower/inputs/user_rows"]
    lengths = (arrays["user_tower/inputs/history_post_rows"][..., 0] != 0).sum(axis=1)
    assert 0 in lengths and lengths.max() == 11
    assert not users[-1].any() and lengths[-1] > 0
    np.testing.assert_allclose(
        np.linalg.norm(arrays["user_tower/outputs/user_representation"], axis=-1), 1, rtol=1e-5
    )
    assert arrays["candidate_tower/outputs/candidate_representation"].shape == (8, 13)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_actions": 64, "history_seq_len": 1, "product_surface_vocab_size": 1},
        {"num_actions": 1, "user_vocab_size": 2, "item_vocab_size": 2, "author_vocab_size": 2},
    ],
)
def test_models_of_extreme_sizes_are_exported(tmp_path: Path, changes: dict[str, int]) -> None:
    checkpoint = open_checkpoint(tiny_files(**changes).write(tmp_path / "checkpoint"), "float32")
    manifest = write_bundle(checkpoint, tmp_path / "1", saved_model=False)
    assert manifest.model.num_actions == changes["num_actions"]


# Reads bundles with jax, numpy and safetensors alone, and does their self-tests.
CONSUMER = """
import json, pathlib, sys
for name in ("haiku", "tensorflow", "phoenix_model", "phoenix_export", "phoenix_retrieval"):
    sys.modules[name] = None
import jax, numpy as np
from safetensors.numpy import load_file
def selftest(path):
    manifest = json.loads((path / "manifest.json").read_text())
    weights = load_file(path / "weights.safetensors")
    arrays = np.load(path / "selftest.npz", allow_pickle=False)
    for tower in ("user_tower", "candidate_tower"):
        program = manifest[tower]
        exported = jax.export.deserialize(bytearray((path / program["path"]).read_bytes()))
        outputs = jax.jit(exported.call)(
            {name: weights[name] for name in program["weights"]},
            {n: load_file(path / f"tables/{n}.safetensors")[n] for n in program["tables"]},
            {i["name"]: arrays[f"{tower}/inputs/{i['name']}"] for i in program["inputs"]},
        )
        for output in program["outputs"]:
            name = output["name"]
            expected = arrays[f"{tower}/outputs/{name}"]
            assert outputs[name].shape == expected.shape, name
            assert outputs[name].dtype == output["dtype"], name
            scale = expected if name == "user_norm" else 1  # all else is of unit vectors
            yield name, float(np.abs((np.asarray(outputs[name]) - expected) / scale).max())
print(json.dumps([dict(selftest(pathlib.Path(path))) for path in sys.argv[1:]]))
"""


def test_bundles_need_no_model_code(bundle_f32: Path, bundle_bf16: Path) -> None:
    done = run_program(CONSUMER, bundle_f32, bundle_bf16).checked()
    of_float32, of_bfloat16 = json.loads(done.out)
    names = {"user_representation", "user_norm", "candidate_representation"}
    assert of_float32.keys() == of_bfloat16.keys() == names
    assert max(of_float32.values()) <= read_manifest(bundle_f32).selftest_tolerance
    assert max(of_bfloat16.values()) <= read_manifest(bundle_bf16).selftest_tolerance


def test_a_manifest_is_text_that_any_protobuf_reads(tiny_bundle: Path) -> None:
    text = (tiny_bundle / "manifest.json").read_text(encoding="utf-8")
    manifest = json_format.Parse(text, manifest_pb2.BundleManifest())
    assert manifest.format_version == bundle.FORMAT_VERSION
    assert text.endswith("}\n")
