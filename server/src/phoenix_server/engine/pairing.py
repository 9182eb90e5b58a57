"""Pairs of a bundle and a corpus: whether they fit, and the name of the pair."""

import hashlib

from phoenix_server.artifacts import MANIFEST, sha256
from phoenix_server.bundle.bundle import Bundle
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.errors import CorpusError


def check_pair(bundle: Bundle, snapshot: Snapshot) -> None:
    """Check that a corpus was built with a bundle's towers.

    Raises:
        CorpusError: It was built with other towers, or its vectors have another width.
    """
    built_with = snapshot.manifest.tower_fingerprint
    if built_with != bundle.manifest.tower_fingerprint:
        raise CorpusError(
            snapshot.path,
            f"was built with other towers ({built_with[:12]}) than {bundle.path} holds "
            f"({bundle.manifest.tower_fingerprint[:12]}); build it again with this bundle",
        )
    width, needed = snapshot.manifest.embedding_size, bundle.manifest.model.embedding_size
    if width != needed:
        what = f"has vectors of width {width}, the towers return width {needed}"
        raise CorpusError(snapshot.path, what)


def generation_name(bundle: Bundle, snapshot: Snapshot) -> str:
    """Return the name of a pair: equal wherever the same files are served, before any changes.

    Snapshots that are written while serving keep the name of the corpus they were built as.
    """
    corpus = snapshot.manifest.built_as or sha256(snapshot.path / MANIFEST)
    sums = (sha256(bundle.path / MANIFEST), corpus)
    return hashlib.sha256(" ".join(sums).encode()).hexdigest()[:16]
