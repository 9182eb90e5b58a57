"""Sign bundles, so that a server can tell who made them.

A signature is an Ed25519 signature over the exact bytes of a file, 64 bytes in a file of its own.
The manifest has the SHA-256 of every file that a server reads of a bundle. Programs compiled ahead
are not in it: they come later, for each kind of machine. So their list of SHA-256 sums is signed
too.
"""

import json
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from google.protobuf import json_format

from phoenix_export.bundle import MANIFEST, fingerprint, sha256
from phoenix_export.errors import SigningError
from phoenix_retrieval.v1.manifest_pb2 import BundleManifest

SIGNATURE = "manifest.sig"
_SUMS, _SUMS_SIGNATURE = "sums.json", "sums.sig"
_MAX_SIGNED = 64 << 20  # bytes of a signed file; a server reads no larger manifest


def make_key_pair(path: Path) -> Path:
    """Write a new private key, which only its owner may read, and its public key.

    Args:
        path: The private key, in PEM (PKCS #8), not encrypted. The public key is at `path` with
            `.pub` added, in PEM. Neither may exist.

    Returns:
        The path of the public key.

    Raises:
        SigningError: A file exists or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    public_path = path.with_name(f"{path.name}.pub")
    files = [
        (
            public_path,
            0o644,
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        ),
        (path, 0o600, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
    ]
    for each, _, _ in files:
        if os.path.lexists(each):
            raise SigningError(f"{each}: exists and is never overwritten; choose another name")
    for each, mode, contents in files:
        with _naming(each, "cannot be written: "):
            descriptor = os.open(each, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with open(descriptor, "wb") as file:
                file.write(contents)
    return public_path


def sign_bundle(bundle: Path, key: Path) -> list[Path]:
    """Sign a bundle's manifest, and the lists of the programs that were compiled ahead for it.

    All that the signatures cover is verified first. The signature of the manifest is written last.

    Args:
        bundle: The bundle's directory.
        key: PEM file of an Ed25519 private key.

    Returns:
        The signed files.

    Raises:
        SigningError: The key cannot be used, the bundle is damaged, or it cannot be written to.
    """
    private_key = _read_key(key)
    with _naming(bundle):
        lists = sorted(bundle.glob(f"compiled/*/{_SUMS}"))
    signed = {
        **{path: _verified_sums(path) for path in lists},
        bundle / MANIFEST: _verified_manifest(bundle),
    }
    for path, contents in signed.items():
        name = SIGNATURE if path.name == MANIFEST else _SUMS_SIGNATURE
        _write(path.with_name(name), private_key.sign(contents))
    return list(signed)


def _read_key(path: Path) -> Ed25519PrivateKey:
    with _naming(path):
        contents = path.read_bytes()
    try:
        key = load_pem_private_key(contents, password=None)
    except TypeError as exc:
        raise SigningError(f"{path}: is encrypted; only keys without a password are read") from exc
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningError(f"{path}: is not the PEM file of an Ed25519 private key")
    return key


def _verified_manifest(bundle: Path) -> bytes:
    """Return the contents of a manifest, all of whose files have the sums that it lists."""
    path = bundle / MANIFEST
    contents, manifest = _read(path), BundleManifest()
    try:
        json_format.Parse(contents.decode(), manifest)
    except (json_format.ParseError, UnicodeDecodeError) as exc:
        raise SigningError(f"{path}: is not a BundleManifest: {exc}") from exc
    for file in manifest.files:
        if _sha256(bundle / file.path) != file.sha256:
            raise SigningError(f"{bundle / file.path}: was changed: has another SHA-256")
    if fingerprint(manifest) != manifest.tower_fingerprint:
        raise SigningError(f"{path}: its tower_fingerprint is not that of these files")
    return contents


def _verified_sums(path: Path) -> bytes:
    """Return the contents of a list of programs compiled ahead, which matches its directory."""
    contents = _read(path)
    try:
        listed = json.loads(contents)
    except RecursionError:
        raise SigningError(f"{path}: is not JSON: is nested too deeply") from None
    except ValueError as exc:
        raise SigningError(f"{path}: is not JSON: {exc}") from exc
    with _naming(path.parent):
        files = list(path.parent.iterdir())
    names = [each for each in files if each.name not in (_SUMS, _SUMS_SIGNATURE)]
    if {each.name: _sha256(each) for each in names} != listed:
        raise SigningError(f"{path.parent}: was changed: its files are not those of {path.name}")
    return contents


def _read(path: Path) -> bytes:
    with _naming(path), path.open("rb") as file:
        contents = file.read(_MAX_SIGNED + 1)
    if len(contents) > _MAX_SIGNED:
        raise SigningError(f"{path}: is larger than {_MAX_SIGNED >> 20} MiB")
    return contents


def _sha256(path: Path) -> str:
    with _naming(path):
        return sha256(path)


def _write(path: Path, contents: bytes) -> None:
    """Write a file under a temporary name, and rename it: a server never reads a part of it."""
    with _naming(path, "cannot be written: "):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                file.write(contents)
                file.flush()
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextmanager
def _naming(path: Path, what: str = "") -> Generator[None, None, None]:
    """Raise SigningError, with the path, for an OSError in the block: not every one has a path."""
    try:
        yield
    except OSError as exc:
        raise SigningError(f"{path}: {what}{exc.strerror or exc}") from exc
    except ValueError as exc:  # a null byte in the path
        raise SigningError(f"{path}: {what}{exc}") from exc
