"""A signature counts only if a trusted key made it for exactly these bytes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from phoenix_server.errors import StartupError
from phoenix_server.signatures import TrustedKeys, read_trusted_keys
from signing_keys import new_keys

_SIGNED = b"the contents"


def _trusting(*keys: Ed25519PrivateKey) -> TrustedKeys:
    return TrustedKeys(tuple(key.public_key().public_bytes_raw() for key in keys))


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def signature(key: Ed25519PrivateKey, tmp_path: Path) -> Path:
    path = tmp_path / "signature"
    path.write_bytes(key.sign(_SIGNED))
    return path


def test_a_signature_by_any_trusted_key_has_no_problem(
    key: Ed25519PrivateKey, signature: Path
) -> None:
    other = Ed25519PrivateKey.generate()
    assert _trusting(key).find_problem(_SIGNED, signature) is None
    assert _trusting(other, key).find_problem(_SIGNED, signature) is None


def test_a_signature_by_another_key_or_of_other_bytes_is_refused(
    key: Ed25519PrivateKey, signature: Path
) -> None:
    problem = "is not the signature of these contents by a trusted key"
    other = Ed25519PrivateKey.generate()
    assert _trusting(other).find_problem(_SIGNED, signature) == problem
    assert _trusting(key).find_problem(_SIGNED + b" ", signature) == problem


def _change_a_byte(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[3] ^= 1
    path.write_bytes(contents)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (Path.unlink, "missing: nobody signed this, and --trusted-key requires it"),
        (_change_a_byte, "is not the signature of these contents by a trusted key"),
        (lambda path: path.write_bytes(b""), "is not a signature: a file of 64 bytes"),
        (lambda path: path.write_bytes(bytes(65)), "is not a signature: a file of 64 bytes"),
        (lambda path: (path.unlink(), path.mkdir()), "is not a signature: a file of 64 bytes"),
        # A pipe would be read for ever.
        (lambda path: (path.unlink(), os.mkfifo(path)), "is not a signature: a file of 64 bytes"),
    ],
)
def test_a_file_that_is_no_signature_is_refused(
    key: Ed25519PrivateKey, signature: Path, spoil: Callable[[Path], object], problem: str
) -> None:
    spoil(signature)
    assert _trusting(key).find_problem(_SIGNED, signature) == problem


def test_without_keys_nothing_is_checked(tmp_path: Path) -> None:
    assert not TrustedKeys()
    assert TrustedKeys().find_problem(_SIGNED, tmp_path / "none") is None


def test_keys_are_read_from_pem_files(tmp_path: Path) -> None:
    pairs = [new_keys(tmp_path / name) for name in ("a", "b")]
    keys = read_trusted_keys([pair.public for pair in pairs])
    assert keys
    assert list(map(len, keys.keys)) == [32, 32]
    assert len(set(keys.keys)) == 2


def test_a_file_of_two_keys_is_refused(tmp_path: Path) -> None:
    both = tmp_path / "both.pub"
    both.write_bytes(b"".join(new_keys(tmp_path / name).public.read_bytes() for name in "ab"))
    with pytest.raises(StartupError) as caught:
        read_trusted_keys([both])
    assert str(caught.value) == (
        f"--trusted-key {both}: holds more than one key; give each its own file"
    )


def test_a_file_that_is_no_public_key_is_named(tmp_path: Path) -> None:
    private, _ = new_keys(tmp_path / "key")
    other = generate_private_key(SECP256R1()).public_key()
    curve, text = tmp_path / "p256.pub", tmp_path / "text"
    curve.write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    text.write_bytes(b"no key\n")
    for path in (private, curve, text):
        with pytest.raises(StartupError) as caught:
            read_trusted_keys([path])
        expected = f"--trusted-key {path}: is not the PEM file of an Ed25519 public key"
        assert str(caught.value) == expected
    with pytest.raises(StartupError, match="none: No such file or directory"):
        read_trusted_keys([tmp_path / "none"])
