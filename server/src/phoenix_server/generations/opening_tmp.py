"""Open a bundle and a corpus, and verify their files while something else goes on."""

from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from phoenix_server.bundle import bundle as bundles
from phoenix_server.corpus.disk import snapshot as snapshots
from phoenix_server.corpus.disk.store import Store
from phoenix_server.engine.pairing import check_pair


class Opened:
    """A bundle and a corpus that fit together, or are made to.

    Attributes:
        bundle: The bundle. All but its tables have been verified.
        store: The corpus's directory.
        fit: Whether the corpus's vectors are the bundle's. If not, they are to be made anew.
    """

    def __init__(
        self, bundle: Path, corpus: Path, *, read_only: bool = False, encode_anew: bool = False
    ) -> None:
        """Open both, and begin to verify the large files: hashing leaves Python to others.

        Args:
            bundle: The bundle's directory.
            corpus: The corpus's directory.
            read_only: Take no changes of the corpus.
            encode_anew: Take a corpus of other towers, too.

        Raises:
            ArtifactError: One cannot be used, or they do not fit together.
        """
        self.bundle = bundles.open_bundle(bundle)
        self.bundle.check_current(datetime.now(UTC))
        tower = self.bundle.manifest.tower_fingerprint
        self.store = Store(corpus, read_only=read_only, tower=tower)
        snapshot = self.store.snapshot
        self.fit = snapshot.manifest.tower_fingerprint == tower
        try:
            if not encode_anew and self.store.built.manifest.tower_fingerprint != tower:
                check_pair(self.bundle, snapshot)
            bundles.verify_programs(self.bundle)
        except BaseException:
            self.store.close()
            raise
        pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="verify")
        self._checks: tuple[Future[None], ...] = (
            pool.submit(bundles.verify_tables, self.bundle),
            pool.submit(snapshots.verify, snapshot),
        )
        pool.shutdown(wait=False)  # they go on

    def verify(self) -> None:
        """Wait until all files are verified.

        Raises:
            ArtifactError: One is missing, truncated or changed.
        """
        for check in self._checks:
            check.result()
