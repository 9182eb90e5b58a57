import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phoenix_server.bundle.bundle import TABLES, Bundle, open_bundle, verify
from phoenix_server.errors import BundleError
from server.cases import copied, edit_manifest, flip_bit, resum, truncate

_SERVED = [
    "model.json",
    "programs/candidate_tower.jax",
    "programs/user_tower.jax",
    "selftest.npz",
    "tables/author_embeddings.safetensors",
    "tables/item_embeddings.safetensors",
    "tables/user_embeddings.safetensors",
    "weights.safetensors",
]


@pytest.fixture
def spoiled(bundle_f32: Path, tmp_path: Path) -> Path:
    """Return a bundle of one's own."""
    return copied(bundle_f32, tmp_path / "bundle")


def _error(action: Callable[[], object]) -> BundleError:
    with pytest.raises(BundleError) as caught:
        action()
    assert str(caught.value).startswith(f"{caught.value.path}: ")
    return caught.value


def _verify_error(path: Path) -> BundleError:
    return _error(lambda: verify(open_bundle(path)))


def test_a_whole_bundle_opens_and_holds_what_it_says(bundle_bf16: Path) -> None:
    bundle = open_bundle(bundle_bf16)
    verify(bundle)
    bundle.check_current(datetime.now(UTC))
    assert bundle.manifest.compute_dtype == "bfloat16"
    assert [file.path for file in bundle.serving_files()] == _SERVED
    weights = dict(bundle.load_weights())
    towers = (bundle.manifest.user_tower, bundle.manifest.candidate_tower)
    assert set(weights) == {name for tower in towers for name in tower.weights}
    assert {bundle.load_table(name).shape for name in TABLES} == {
        (1021, 128),
        (2039, 128),
        (509, 128),
    }
    for program in towers:
        assert "cuda" in bundle.load_program(program).platforms


@pytest.mark.parametrize("name", _SERVED)
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (Path.unlink, "missing"),
        (truncate, "truncated or changed: has "),
        (flip_bit, "was changed: its SHA-256 is "),
    ],
)
def test_a_spoiled_file_is_named(
    spoiled: Path, name: str, spoil: Callable[[Path], object], reason: str
) -> None:
    spoil(spoiled / name)
    error = _verify_error(spoiled)
    assert error.path == spoiled / name
    assert reason in error.reason


@pytest.mark.parametrize("name", _SERVED)
def test_a_file_that_the_manifest_does_not_list_is_named(spoiled: Path, name: str) -> None:
    edit_manifest(spoiled, lambda m: m.update(files=[f for f in m["files"] if f["path"] != name]))
    error = _verify_error(spoiled)
    assert error.path == spoiled / name
    assert "not in the manifest" in error.reason


@pytest.mark.parametrize("tolerance", ["Infinity", "NaN", -1.0, 0.0, 1.0])
def test_a_tolerance_that_anything_meets_or_nothing_is_refused(
    spoiled: Path, tolerance: float | str
) -> None:
    edit_manifest(spoiled, lambda m: m.update(selftest_tolerance=tolerance))
    error = _verify_error(spoiled)
    assert error.path == spoiled / "manifest.json"
    assert error.reason.startswith("selftest_tolerance is ")


def test_what_a_server_does_not_read_may_be_missing(spoiled: Path) -> None:
    (spoiled / "programs" / "user_tower.stablehlo.mlir").unlink()
    verify(open_bundle(spoiled))


@pytest.mark.parametrize("absolute", [True, False])
def test_a_path_that_leaves_the_bundle_is_refused(spoiled: Path, absolute: bool) -> None:
    outside = spoiled.parent / "outside.jax"
    outside.write_bytes((spoiled / "programs/user_tower.jax").read_bytes())
    path = str(outside) if absolute else "../outside.jax"

    def change(manifest: dict[str, Any]) -> None:
        (entry,) = (f for f in manifest["files"] if f["path"] == "programs/user_tower.jax")
        entry["path"] = manifest["user_tower"]["path"] = path

    edit_manifest(spoiled, change)
    error = _verify_error(spoiled)
    assert error.path == spoiled / path
    assert error.reason == "lies outside the directory that lists it"


def test_files_may_be_links_as_in_model_caches(spoiled: Path) -> None:
    blobs = spoiled.parent / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(p for p in spoiled.rglob("*") if p.is_file())):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    verify(open_bundle(spoiled))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_manifest_that_is_no_file_is_refused(spoiled: Path, make: Callable[[Path], None]) -> None:
    (spoiled / "manifest.json").unlink()
    make(spoiled / "manifest.json")  # a pipe would be read for ever
    error = _error(lambda: open_bundle(spoiled))
    assert error.path == spoiled / "manifest.json"
    assert error.reason == "is not a file of at most 64 MiB"


def test_a_manifest_of_any_size_is_not_read(spoiled: Path) -> None:
    os.truncate(spoiled / "manifest.json", (64 << 20) + 1)
    assert "at most 64 MiB" in _error(lambda: open_bundle(spoiled)).reason


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    error = _error(lambda: open_bundle(tmp_path / "none"))
    assert (error.path, error.reason) == (tmp_path / "none", "no such directory")


def test_a_file_is_no_bundle(spoiled: Path) -> None:
    path = spoiled / "manifest.json"
    error = _error(lambda: open_bundle(path))
    assert (error.path, error.reason) == (path, "not a directory")


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (None, "missing; this directory is not whole"),
        (b"", "is not a BundleManifest: "),
        (b"{", "is not a BundleManifest: "),
        (b"null", "is not a BundleManifest: "),
        (b"[" * 5000, "is not a BundleManifest: "),
        (b'{"rows": 3}', "is not a BundleManifest: "),
        (b'{"files": [3]}', "is not a BundleManifest: "),
        (b'{"model": {"embedding_size": -1}}', "is not a BundleManifest: "),
        (b"\xff\xfe", "cannot be read: "),
    ],
)
def test_a_manifest_that_cannot_be_read_is_named(
    spoiled: Path, contents: bytes | None, reason: str
) -> None:
    path = spoiled / "manifest.json"
    path.unlink()
    if contents is not None:
        path.write_bytes(contents)
    error = _error(lambda: open_bundle(spoiled))
    assert error.path == path
    assert error.reason.startswith(reason)


@pytest.mark.parametrize("version", [0, 2])
def test_another_format_version_is_refused(spoiled: Path, version: int) -> None:
    edit_manifest(spoiled, lambda m: m.update(format_version=version))
    error = _error(lambda: open_bundle(spoiled))
    assert error.path == spoiled
    assert error.reason == f"has format version {version}, this server reads 1"


def test_an_expired_bundle_is_refused_from_that_second_on(bundle: Bundle) -> None:
    bundle.check_current(bundle.expires_at - timedelta(seconds=1))
    error = _error(lambda: bundle.check_current(bundle.expires_at))
    assert error.path == bundle.path
    assert f"expired on {bundle.expires_at:%Y-%m-%d}" in error.reason
    assert "export the checkpoint again" in error.reason


def test_a_bundle_that_does_not_say_when_it_expires_has(spoiled: Path) -> None:
    edit_manifest(spoiled, lambda m: m.pop("expires_at"))
    _error(lambda: open_bundle(spoiled).check_current(datetime.now(UTC)))


def test_a_fingerprint_of_other_files_is_refused(spoiled: Path) -> None:
    edit_manifest(spoiled, lambda m: m.update(tower_fingerprint="0" * 64))
    error = _error(lambda: verify(open_bundle(spoiled)))
    assert error.path == spoiled / "manifest.json"
    assert error.reason.startswith("tower_fingerprint is 000000000000, but these files have ")


def test_a_bundle_of_an_older_export_is_refused(spoiled: Path) -> None:
    edit_manifest(
        spoiled, lambda m: m.update(files=[f for f in m["files"] if f["path"] != "model.json"])
    )
    error = _verify_error(spoiled)
    assert error.path == spoiled / "model.json"
    assert error.reason.endswith("an older phoenix-export wrote it: export the checkpoint again")


@pytest.mark.parametrize("contents", [b"", b"not a program", np.random.default_rng(0).bytes(5000)])
def test_a_program_that_jax_cannot_read_is_named(spoiled: Path, contents: bytes) -> None:
    path = spoiled / "programs/user_tower.jax"
    path.write_bytes(contents)
    resum(spoiled)
    bundle = open_bundle(spoiled)
    verify(bundle)
    error = _error(lambda: bundle.load_program(bundle.manifest.user_tower))
    assert error.path == path
    assert "cannot read it: " in error.reason


def test_a_program_that_was_changed_since_it_was_verified_is_not_run(spoiled: Path) -> None:
    bundle = open_bundle(spoiled)
    verify(bundle)
    path = spoiled / "programs/user_tower.jax"
    path.write_bytes((spoiled / "programs/candidate_tower.jax").read_bytes())
    error = _error(lambda: bundle.load_program(bundle.manifest.user_tower))
    assert (error.path, error.reason) == (path, "was changed since it was verified")
    path.unlink()
    error = _error(lambda: bundle.load_program(bundle.manifest.user_tower))
    assert (error.path, error.reason) == (path, "cannot be read: No such file or directory")


def test_a_file_that_is_listed_twice_is_refused(spoiled: Path) -> None:
    edit_manifest(spoiled, lambda m: m["files"].insert(0, {"path": "model.json", "sha256": "0"}))
    error = _verify_error(spoiled)
    assert (error.path, error.reason) == (spoiled / "manifest.json", "lists model.json twice")


@pytest.mark.parametrize(
    ("field", "size", "most"),
    [
        ("embedding_size", 0, 2**31 - 1),
        ("history_length", 2**32 - 1, 2**31 - 1),
        ("num_actions", 65, 64),
    ],
)
def test_a_size_that_cannot_be_is_named(spoiled: Path, field: str, size: int, most: int) -> None:
    path = spoiled / "model.json"
    model = json.loads(path.read_text())
    model["model"][field] = size
    path.write_text(json.dumps(model))
    edit_manifest(spoiled, lambda m: m["model"].update({field: size}))
    resum(spoiled)
    error = _verify_error(spoiled)
    assert error.path == spoiled / "manifest.json"
    assert error.reason == f"model.{field} is {size}, not from 1 to {most}"


@pytest.mark.parametrize("contents", [b"", b"not a tensor", bytes(100)])
def test_tables_and_weights_that_cannot_be_read_are_named(spoiled: Path, contents: bytes) -> None:
    bundle = open_bundle(spoiled)
    for name, load in (
        ("weights.safetensors", lambda: list(bundle.load_weights())),
        ("tables/user_embeddings.safetensors", lambda: bundle.load_table("user_embeddings")),
    ):
        (spoiled / name).write_bytes(contents)
        assert _error(load).path == spoiled / name


def test_a_table_under_the_name_of_another_is_named(spoiled: Path) -> None:
    table = spoiled / "tables" / "user_embeddings.safetensors"
    table.write_bytes((spoiled / "tables" / "item_embeddings.safetensors").read_bytes())
    error = _error(lambda: open_bundle(spoiled).load_table("user_embeddings"))
    assert error.path == table
    assert error.reason == "should hold user_embeddings, holds item_embeddings"


@pytest.mark.parametrize(
    ("field", "value"),
    [("modulus", "0"), ("vocab_size", "1"), ("vocab_size", str(2**64 - 1)), ("scales", ["3"])],
)
def test_hash_functions_that_cannot_be_are_named(spoiled: Path, field: str, value: Any) -> None:
    edit_manifest(spoiled, lambda m: m["item_hash"].update({field: value}))
    error = _error(lambda: open_bundle(spoiled).features)
    assert error.path == spoiled
    assert error.reason.startswith("hash functions: ")
