"""Open the bundle that a command was given."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from phoenix_server.bundle.bundle import Bundle, open_bundle, verify
from phoenix_server.signatures import read_trusted_keys


def open_verified(path: Path, trusted_key: Sequence[Path]) -> Bundle:
    """Open a bundle and verify all of its files.

    Args:
        path: The bundle's directory.
        trusted_key: PEM files of public keys of which one must have signed it. Empty: it need not
            be signed.

    Raises:
        BundleError: It cannot be used, or its programs have expired.
        StartupError: A file of a key cannot be read, or holds no such key.
    """
    bundle = open_bundle(path, read_trusted_keys(trusted_key))
    bundle.check_current(datetime.now(UTC))
    verify(bundle)
    return bundle
