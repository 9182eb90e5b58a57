"""Keys that tests sign bundles with."""

from pathlib import Path
from typing import NamedTuple

from phoenix_export.signing import make_key_pair


class KeyPair(NamedTuple):
    """The files of a private key and of its public key."""

    private: Path
    public: Path


def new_keys(path: Path) -> KeyPair:
    """Write a new pair of keys, the private one at a path."""
    return KeyPair(path, make_key_pair(path))
