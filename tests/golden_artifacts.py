"""Bundles and corpora of the golden checkpoint, written once for all worker processes."""

import fcntl
from collections.abc import Callable
from pathlib import Path

from phoenix_export.bundle import write_bundle
from phoenix_export.checkpoint import open_checkpoint
from phoenix_server.build.import_npz import import_corpus
from phoenix_server.bundle.bundle import open_bundle


def make_once(path: Path, make: Callable[[Path], object]) -> Path:
    """Make a directory in `shared_folder` unless another worker has made it; return its path.

    Args:
        path: The directory.
        make: Writes it, all of it or nothing.
    """
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            make(path)
    return path


def write_golden_bundle(layout: Path, dtype: str, out: Path) -> Path:
    """Write a bundle of a checkpoint without a SavedModel, once; return its path."""
    return make_once(
        out, lambda path: write_bundle(open_checkpoint(layout, dtype), path, saved_model=False)
    )


def import_golden_corpus(layout: Path, bundle: Path, out: Path) -> Path:
    """Import the posts of a checkpoint with a bundle, once; return the corpus's path."""
    posts = layout / "sports_corpus.npz"
    return make_once(out, lambda path: import_corpus(posts, open_bundle(bundle), path))
