"""With --trusted-key, every command that opens a bundle wants it signed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import Run
from phoenix_export.signing import sign_bundle
from server.cases import copied, edit_manifest
from server.cli.cases import assert_one_line
from signing_keys import KeyPair, new_keys

_COMMANDS: dict[str, tuple[str, ...]] = {
    "serve": ("serve", "--corpus", "none", "--bundle"),
    "compile": ("compile", "--bundle"),
    "build-corpus": ("build-corpus", "none.parquet", "--out", "none", "--bundle"),
    "import-corpus": ("import-corpus", "none.npz", "--out", "none", "--bundle"),
    "inspect": ("inspect",),
}


@pytest.fixture
def keys(tmp_path: Path) -> KeyPair:
    return new_keys(tmp_path / "key")


@pytest.fixture
def bundle(bundle_f32: Path, tmp_path: Path) -> Path:
    """Return a bundle of one's own."""
    return copied(bundle_f32, tmp_path / "bundle")


def _leave_unsigned(bundle: Path, keys: KeyPair) -> str:
    return "missing: nobody signed this"


def _sign_with_another_key(bundle: Path, keys: KeyPair) -> str:
    sign_bundle(bundle, new_keys(keys.private.with_name("other")).private)
    return "is not the signature of these contents by a trusted key"


def _change_once_signed(bundle: Path, keys: KeyPair) -> str:
    sign_bundle(bundle, keys.private)
    edit_manifest(bundle, lambda manifest: manifest.update(created_at="2020-01-01T00:00:00Z"))
    return "is not the signature of these contents by a trusted key"


@pytest.mark.parametrize("command", _COMMANDS)
@pytest.mark.parametrize("spoil", [_leave_unsigned, _sign_with_another_key, _change_once_signed])
def test_a_bundle_that_no_trusted_key_signed_is_refused(
    run: Run,
    bundle: Path,
    keys: KeyPair,
    command: str,
    spoil: Callable[[Path, KeyPair], str],
) -> None:
    reason = spoil(bundle, keys)
    outcome = run(*_COMMANDS[command], bundle, "--trusted-key", keys.public)
    assert_one_line(outcome, f"{bundle}/manifest.sig: {reason}")


def test_a_signed_bundle_is_accepted_with_any_of_the_keys(
    run: Run, bundle: Path, keys: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_bundle(bundle, keys.private)
    other = new_keys(tmp_path / "other")
    options = ("--trusted-key", other.public, "--trusted-key", keys.public)
    assert "  signature     by a trusted key" in run("inspect", bundle, *options).checked().out
    monkeypatch.setenv("PHOENIX_TRUSTED_KEY", f"{other.public}:{keys.public}")
    assert "  signature     by a trusted key" in run("inspect", bundle).checked().out
    monkeypatch.setenv("PHOENIX_TRUSTED_KEY", str(other.public))
    assert_one_line(run("inspect", bundle), f"{bundle}/manifest.sig: is not the signature ")


def test_without_a_trusted_key_a_signature_is_not_checked(
    run: Run, bundle: Path, keys: KeyPair
) -> None:
    assert "signature" not in run("inspect", bundle).checked().out
    sign_bundle(bundle, keys.private)
    edit_manifest(bundle, lambda manifest: manifest.update(created_at="2020-01-01T00:00:00Z"))
    out = run("inspect", bundle).checked().out
    assert "  signature     not checked; --trusted-key checks it" in out


def test_a_corpus_need_not_be_signed(run: Run, golden_corpus: Path, keys: KeyPair) -> None:
    run("inspect", golden_corpus, "--trusted-key", keys.public).checked()


@pytest.mark.parametrize("command", _COMMANDS)
def test_a_key_that_cannot_be_read_is_refused(
    run: Run, bundle: Path, keys: KeyPair, command: str
) -> None:
    shutil.copy(keys.private, keys.public)
    outcome = run(*_COMMANDS[command], bundle, "--trusted-key", keys.public)
    expected = f"--trusted-key {keys.public}: is not the PEM file of an Ed25519 public key"
    assert_one_line(outcome, expected)


def test_no_key_at_all_is_refused(run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run("inspect", bundle, "--trusted-key")
    assert (outcome.status, outcome.out) == (2, "")
    monkeypatch.setenv("PHOENIX_TRUSTED_KEY", "")
    assert_one_line(run("inspect", bundle), "PHOENIX_TRUSTED_KEY: is empty", status=2)
