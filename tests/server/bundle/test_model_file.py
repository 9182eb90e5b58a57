"""A manifest is believed only where `model.json`, which has a sum, says the same."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor

from phoenix_retrieval.v1.manifest_pb2 import BundleManifest
from phoenix_server.bundle.bundle import open_bundle, verify
from phoenix_server.errors import BundleError
from phoenix_server.generations.sources import Sources
from server.cases import copied, edit_manifest, resum

_INTEGERS = (
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
)
_TIMES = ("created_at", "expires_at")  # no sizes


def _integers(message: Any, prefix: str = "") -> Iterator[str]:
    """Yield the integer fields of a message, and of the messages in it."""
    for field in message.fields:
        if field.message_type is not None and field.name not in _TIMES:
            yield from _integers(field.message_type, f"{prefix}{field.name}.")
        elif field.cpp_type in _INTEGERS:
            yield f"{prefix}{field.name}"


_FIELDS = [field for field in _integers(BundleManifest.DESCRIPTOR) if "." in field]


@pytest.fixture
def bundle(bundle_f32: Path, tmp_path: Path) -> Path:
    """Return a bundle of one's own."""
    return copied(bundle_f32, tmp_path / "bundle")


def _refusal(bundle: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        verify(open_bundle(bundle))
    return caught.value


def _change(manifest: dict[str, Any], field: str, value: int) -> None:
    *names, last = field.split(".")
    for name in names:
        manifest = manifest[name][0] if isinstance(manifest[name], list) else manifest[name]
    if isinstance(manifest[last], list):
        manifest[last][1] = str(value)
    else:
        manifest[last] = value


def test_all_sizes_are_among_the_fields() -> None:
    assert len(_FIELDS) == 8 + 3 * 4 + 1
    assert {"model.history_length", "item_hash.vocab_size", "files.size_bytes"} < set(_FIELDS)


@pytest.mark.parametrize("value", [1, 3_000_000])
@pytest.mark.parametrize("field", _FIELDS)
def test_every_changed_size_is_refused_and_named(bundle: Path, field: str, value: int) -> None:
    edit_manifest(bundle, lambda manifest: _change(manifest, field, value))
    error = _refusal(bundle)
    assert "\n" not in str(error)
    if field == "files.size_bytes":
        assert error.path == bundle / "model.json"  # the first of the files
        size = (bundle / "model.json").stat().st_size
        assert error.reason == f"was truncated or changed: has {size} bytes, not {value}"
        return
    assert error.path == bundle / "manifest.json"
    assert error.reason.startswith(f"{field} is ")
    assert str(value) in error.reason.split(", but model.json has ")[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"compute_dtype": "float16"}, "compute_dtype is 'float16', but model.json has 'float32'"),
        ({"selftest_tolerance": 1e9}, "selftest_tolerance is 1000000000.0, but model.json has "),
        ({"selftest_tolerance": "NaN"}, "selftest_tolerance is nan, but model.json has 1e-05"),
        ({"platforms": []}, "platforms is [], but model.json has ['cpu', 'cuda', 'rocm', 'tpu']"),
        ({"stablehlo_version": "x" * 200}, f"stablehlo_version is '{'x' * 79}..., but model.json"),
        ({"model": {}}, "model.embedding_size is 0, but model.json has 128"),
        ({"user_tower": {}}, "user_tower.path is "),
    ],
)
def test_other_fields_are_compared_too(bundle: Path, change: dict[str, Any], reason: str) -> None:
    if change == {"user_tower": {}}:
        change = {"user_tower": {"path": "programs/candidate_tower.jax"}}
    edit_manifest(bundle, lambda manifest: manifest.update(change))
    assert _refusal(bundle).reason.startswith(reason)


def test_signatures_of_programs_are_compared(bundle: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["user_tower"]["inputs"][4]["dimensions"][1] = "3000000"

    edit_manifest(bundle, change)
    reason = "user_tower.inputs[4].dimensions is ['b', '3000000'], but model.json has ['b', 's']"
    assert _refusal(bundle).reason == reason
    edit_manifest(bundle, lambda manifest: manifest["user_tower"]["inputs"].pop())
    assert _refusal(bundle).reason == "user_tower.inputs has 4 entries, but model.json has 5"


def test_the_times_of_an_export_are_not_compared(bundle: Path) -> None:
    edit_manifest(bundle, lambda manifest: manifest.update(created_at="2020-01-01T00:00:00Z"))
    verify(open_bundle(bundle))


@pytest.mark.parametrize("contents", [b"", b"{", b"\xff", b'{"odd": 1}', b"[" * 5000])
def test_a_model_file_that_cannot_be_read_is_named(bundle: Path, contents: bytes) -> None:
    (bundle / "model.json").write_bytes(contents)
    resum(bundle)
    error = _refusal(bundle)
    assert error.path == bundle / "model.json"
    assert error.reason.startswith("cannot be read: ")


def test_a_server_refuses_a_changed_size_before_it_opens_the_corpus(
    bundle: Path, tmp_path: Path
) -> None:
    edit_manifest(bundle, lambda manifest: manifest["model"].update(history_length=3_000_000))
    assert json.loads((bundle / "manifest.json").read_text())["expires_at"] > str(datetime.now(UTC))
    with pytest.raises(BundleError) as caught:
        Sources().open(bundle, tmp_path / "no corpus")
    assert caught.value.reason == "model.history_length is 3000000, but model.json has 127"
