"""Open the bundle that a command was given."""

from datetime import UTC, datetime
from pathlib import Path

from phoenix_server.bundle.bundle import Bundle, open_bundle, verify


def open_verified(path: Path) -> Bundle:
    """Open a bundle and verify all of its files.

    Raises:
        BundleError: It cannot be used, or its programs have expired.
    """
    bundle = open_bundle(path)
    bundle.check_current(datetime.now(UTC))
    verify(bundle)
    return bundle
