"""Open a bundle and a corpus, and verify their files while something else goes on."""

from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from phoenix_server import bundle as bundles
from phoenix_server.corpus import snapshot as snapshots
from phoenix_server.corpus.store import Store
from phoenix_server.generation import check_pair


class Opened:
    """A bundle and a corpus that fit together.

    Attributes:
        bundle: The bundle. All but its tables have been verified.
        store: The corpus's directory.
        snapshot: Its newest snapshot.
    """

    def __init__(self, bundle: Path, corpus: Path, *, read_only: bool = False) -> None:
        """Open both, and begin to verify the large files: hashing leaves Python to others.

        Args:
            bundle: The bundle's directory.
            corpus: The corpus's directory.
            read_only: Take no changes of the corpus.

        Raises:
            ArtifactError: One cannot be used, or they do not fit together.
        """
        self.bundle = bundles.open_bundle(bundle)
        self.bundle.check_current(datetime.now(UTC))
        self.store = Store(corpus, read_only=read_only)
        self.snapshot = self.store.snapshot
        try:
            check_pair(self.bundle, self.snapshot)
            bundles.verify_programs(self.bundle)
        except BaseException:
            self.store.close()
            raise
        pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="verify")
        self._checks: tuple[Future[None], ...] = (
            pool.submit(bundles.verify_tables, self.bundle),
            pool.submit(snapshots.verify, self.snapshot),
        )
        pool.shutdown(wait=False)  # they go on

    def verify(self) -> None:
        """Wait until all files are verified.

        Raises:
            ArtifactError: One is missing, truncated or changed.
        """
        for check in self._checks:
            check.result()
