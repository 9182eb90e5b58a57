"""Private keys are written once, for their owner; a signature is of a whole bundle."""

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)

from phoenix_export.bundle import sha256
from phoenix_export.errors import SigningError
from phoenix_export.signing import sign_bundle
from signing_keys import KeyPair, new_keys


@pytest.fixture
def keys(tmp_path: Path) -> KeyPair:
    return new_keys(tmp_path / "key")


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """Return a bundle of one's own."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def _add_compiled(bundle: Path, kind: str) -> Path:
    """Write what `phoenix-server compile` writes for a kind of machine."""
    path = bundle / "compiled" / kind
    path.mkdir(parents=True)
    (path / "program").write_bytes(kind.encode())
    (path / "sums.json").write_text(json.dumps({"program": sha256(path / "program")}))
    return path


def _verify(keys: KeyPair, signature: Path, signed: Path) -> None:
    key = load_pem_public_key(keys.public.read_bytes())
    assert isinstance(key, Ed25519PublicKey)
    key.verify(signature.read_bytes(), signed.read_bytes())


def test_only_the_owner_may_read_a_private_key(keys: KeyPair) -> None:
    assert stat.S_IMODE(keys.private.stat().st_mode) == 0o600
    assert keys.private.read_text().startswith("-----BEGIN PRIVATE KEY-----\n")
    assert keys.public.name == "key.pub"
    assert keys.public.read_text().startswith("-----BEGIN PUBLIC KEY-----\n")


@pytest.mark.parametrize("left", ["key", "key.pub"])
def test_no_key_is_overwritten(tmp_path: Path, left: str) -> None:
    (tmp_path / left).write_text("a key")
    with pytest.raises(SigningError, match=f"{left}: exists and is never overwritten"):
        new_keys(tmp_path / "key")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(left, "a key")]


def test_keys_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(SigningError, match=r"none/key\.pub: cannot be written: No such file"):
        new_keys(tmp_path / "none" / "key")


def test_a_bundle_is_signed_over_the_bytes_of_its_manifest(bundle: Path, keys: KeyPair) -> None:
    before = {path for path in bundle.rglob("*")}
    manifest, signature = bundle / "manifest.json", bundle / "manifest.sig"
    assert sign_bundle(bundle, keys.private) == [manifest]
    assert {path for path in bundle.rglob("*")} == before | {signature}
    assert stat.S_IMODE(signature.stat().st_mode) == 0o644
    _verify(keys, signature, manifest)
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    with pytest.raises(InvalidSignature):
        _verify(keys, signature, manifest)


def test_signing_again_replaces_the_signature(bundle: Path, keys: KeyPair, tmp_path: Path) -> None:
    sign_bundle(bundle, keys.private)
    other = new_keys(tmp_path / "other")
    sign_bundle(bundle, other.private)
    _verify(other, bundle / "manifest.sig", bundle / "manifest.json")


def test_lists_of_compiled_programs_are_signed_too(bundle: Path, keys: KeyPair) -> None:
    kinds = [_add_compiled(bundle, kind) for kind in ("cpu-1", "gpu-2")]
    signed = [kind / "sums.json" for kind in kinds]
    assert sign_bundle(bundle, keys.private) == [*signed, bundle / "manifest.json"]
    for path in signed:
        _verify(keys, path.with_name("sums.sig"), path)
    sign_bundle(bundle, keys.private)  # a signature is no compiled program


@pytest.mark.parametrize("spoil", ["changed", "unlisted", "unreadable"])
def test_compiled_programs_that_are_not_those_listed_are_not_signed(
    bundle: Path, keys: KeyPair, spoil: str
) -> None:
    path = _add_compiled(bundle, "cpu-1")
    name = {"changed": "program", "unlisted": "other", "unreadable": "sums.json"}[spoil]
    (path / name).write_bytes(b"spoiled")
    with pytest.raises(SigningError, match="compiled/cpu-1"):
        sign_bundle(bundle, keys.private)
    assert not list(bundle.rglob("*.sig"))


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b"[" * 100_000, "is not JSON: is nested too deeply"),
        (b'{"program": ' + b"[" * 100_000, "is not JSON: is nested too deeply"),
        (b"{" + b" " * 1000, "is larger than 0 MiB"),
    ],
    ids=["nested", "nested in an object", "large"],
)
def test_a_list_of_compiled_programs_that_cannot_be_read_is_named(
    bundle: Path, keys: KeyPair, monkeypatch: pytest.MonkeyPatch, contents: bytes, reason: str
) -> None:
    path = _add_compiled(bundle, "cpu-1") / "sums.json"
    path.write_bytes(contents)
    if "larger" in reason:
        monkeypatch.setattr("phoenix_export.signing._MAX_SIGNED", 1000)
    with pytest.raises(SigningError) as caught:
        sign_bundle(bundle, keys.private)
    assert str(caught.value) == f"{path}: {reason}"


def test_a_manifest_that_is_too_large_is_named(
    bundle: Path, keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phoenix_export.signing._MAX_SIGNED", 1000)
    with pytest.raises(SigningError, match=r"manifest\.json: is larger than 0 MiB"):
        sign_bundle(bundle, keys.private)


def test_a_path_that_cannot_be_one_is_refused(bundle: Path, keys: KeyPair) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][0]["path"] = "weights\0"
    path.write_text(json.dumps(manifest))
    with pytest.raises(SigningError, match="weights\0: embedded null byte"):
        sign_bundle(bundle, keys.private)


def _fail_without_a_path(*arguments: object) -> NoReturn:
    """Fail as a write or a read does: unlike that of `open`, its error has no path."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_signature_that_cannot_be_written_is_named(
    bundle: Path, keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _fail_without_a_path)
    with pytest.raises(SigningError) as caught:
        sign_bundle(bundle, keys.private)
    reason = "cannot be written: No space left on device"
    assert str(caught.value) == f"{bundle / 'manifest.sig'}: {reason}"
    assert not list(bundle.rglob("*.sig*"))


def test_a_file_that_cannot_be_read_is_named(
    bundle: Path, keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashlib, "file_digest", _fail_without_a_path)
    first = json.loads((bundle / "manifest.json").read_text())["files"][0]["path"]
    with pytest.raises(SigningError) as caught:
        sign_bundle(bundle, keys.private)
    assert str(caught.value) == f"{bundle / first}: No space left on device"


@pytest.mark.parametrize(
    "name",
    [
        "model.json",
        "weights.safetensors",
        "programs/user_tower.jax",
        "tables/item_embeddings.safetensors",
        "programs/user_tower.stablehlo.mlir",
    ],
)
@pytest.mark.parametrize("missing", [False, True])
def test_a_damaged_bundle_is_not_signed(
    bundle: Path, keys: KeyPair, name: str, missing: bool
) -> None:
    path = bundle / name
    path.unlink() if missing else path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(SigningError) as caught:
        sign_bundle(bundle, keys.private)
    reason = "No such file or directory" if missing else "was changed: has another SHA-256"
    assert str(caught.value) == f"{path}: {reason}"
    assert not list(bundle.rglob("*.sig"))


def test_a_bundle_whose_manifest_does_not_fit_is_not_signed(bundle: Path, keys: KeyPair) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"tower_fingerprint": "0" * 64}))
    with pytest.raises(SigningError, match="its tower_fingerprint is not that of these files"):
        sign_bundle(bundle, keys.private)
    path.write_text("{")
    with pytest.raises(SigningError, match=r"manifest\.json: is not a BundleManifest"):
        sign_bundle(bundle, keys.private)
    path.unlink()
    with pytest.raises(SigningError, match=r"manifest\.json: No such file"):
        sign_bundle(bundle, keys.private)


def _encrypted(path: Path) -> None:
    encryption = BestAvailableEncryption(b"password")
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))


def _of_another_kind(path: Path) -> None:
    key = generate_private_key(SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_encrypted, "is encrypted; only keys without a password are read"),
        (_of_another_kind, "is not the PEM file of an Ed25519 private key"),
        (lambda path: path.write_text("no key"), "is not the PEM file of an Ed25519 private key"),
        (Path.unlink, "No such file or directory"),
    ],
)
def test_a_key_that_cannot_sign_is_named(
    bundle: Path, keys: KeyPair, spoil: Callable[[Path], object], reason: str
) -> None:
    spoil(keys.private)
    with pytest.raises(SigningError) as caught:
        sign_bundle(bundle, keys.private)
    assert str(caught.value) == f"{keys.private}: {reason}"


def test_a_public_key_does_not_sign(bundle: Path, keys: KeyPair) -> None:
    with pytest.raises(SigningError, match="is not the PEM file of an Ed25519 private key"):
        sign_bundle(bundle, keys.public)
