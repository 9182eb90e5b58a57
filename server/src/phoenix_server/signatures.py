"""Signatures of files, and the keys that a server trusts.

A signature is an Ed25519 signature over the exact bytes of a file: 64 bytes in a file beside it.
`phoenix-export sign` makes one for a bundle's manifest, and one for each list of programs compiled
ahead. Whatever a signed list holds the SHA-256 of is covered too.
"""

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phoenix_server.errors import StartupError

_SIZE = 64  # bytes of an Ed25519 signature


@dataclass(frozen=True)
class TrustedKeys:
    """The public keys that a server trusts. True if there are any; without, nothing is checked.

    Attributes:
        keys: Ed25519 public keys, 32 bytes each.
    """

    keys: tuple[bytes, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.keys)

    def find_problem(self, signed: bytes, path: Path) -> str | None:
        """Return why a signature is not one of these keys'. None: it is, or there are no keys.

        Args:
            signed: The contents of the signed file.
            path: The file of the signature.
        """
        if not self:
            return None
        from cryptography.exceptions import InvalidSignature  # takes a while to import
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode) or status.st_size != _SIZE:
                return f"is not a signature: a file of {_SIZE} bytes"
            signature = path.read_bytes()
        except FileNotFoundError:
            return "missing: nobody signed this, and --trusted-key requires it"
        except OSError as exc:
            return f"cannot be read: {exc.strerror}"
        for key in self.keys:
            try:
                Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
            except InvalidSignature:
                continue
            return None
        return "is not the signature of these contents by a trusted key"


NO_KEYS = TrustedKeys()


def read_trusted_keys(paths: Sequence[Path]) -> TrustedKeys:
    """Read public keys, as `--trusted-key` names them: PEM files, one Ed25519 key each.

    Raises:
        StartupError: A file cannot be read, or holds no such key.
    """
    return TrustedKeys(tuple(map(_read_key, paths)))


def _read_key(path: Path) -> bytes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        contents = path.read_bytes()
    except OSError as exc:
        raise StartupError(f"--trusted-key {path}: {exc.strerror}") from exc
    try:
        key = load_pem_public_key(contents)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise StartupError(f"--trusted-key {path}: is not the PEM file of an Ed25519 public key")
    if contents.count(b"-----BEGIN") > 1:  # the others would not be trusted
        raise StartupError(f"--trusted-key {path}: holds more than one key; give each its own file")
    return key.public_bytes_raw()
