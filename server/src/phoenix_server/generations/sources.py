"""The bundles and corpora that a server has open.

Imports no JAX: files are opened, and their verification begins, while JAX is imported.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from phoenix_server.bundle import bundle as bundles
from phoenix_server.bundle.bundle import Bundle
from phoenix_server.corpus.disk import snapshot as snapshots
from phoenix_server.corpus.disk.store import Store
from phoenix_server.engine.pairing import check_pair
from phoenix_server.signatures import read_trusted_keys

_AT_ONCE = nullcontext()


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a generation is loaded from.

    Attributes:
        bundle: The bundle. All of its files but the tables have been verified.
        store: The corpus on the disk.
        is_shared: Whether another generation serves the same corpus, and its changes.
    """

    bundle: Bundle
    store: Store
    is_shared: bool
    _checks: Sequence[Future[None]]

    @property
    def has_own_vectors(self) -> bool:
        """Whether the snapshot's vectors are of the bundle's towers; else they are re-encoded."""
        own = self.bundle.manifest.tower_fingerprint
        return self.store.snapshot.manifest.tower_fingerprint == own

    def verify(self) -> None:
        """Wait until the contents of all files are verified.

        Raises:
            ArtifactError: A file is missing, truncated or changed.
        """
        for check in self._checks:
            check.result()


class Sources:
    """Opens bundles and corpora. Owns the stores: nobody else closes one. For any thread.

    Generations of one directory share its store, unless it is served read-only: then another server
    may write newer snapshots, and each generation begins with the newest.
    """

    def __init__(
        self,
        *,
        read_only: bool = False,
        encode_anew: bool = False,
        trusted_key: Sequence[Path] = (),
    ) -> None:
        """Begin with nothing open.

        Args:
            read_only: Take no changes of the corpora.
            encode_anew: Accept a corpus that was never served with the bundle's towers.
            trusted_key: PEM files of public keys of which one must have signed each bundle; read
                now. Default: bundles need not be signed.

        Raises:
            StartupError: A file of a key cannot be read, or holds no such key.
        """
        self._trusted = read_trusted_keys(trusted_key)
        self._read_only = read_only
        self._encode_anew = encode_anew
        self._uses: Counter[Store] = Counter()

    def open(self, bundle: Path, corpus: Path) -> Source:
        """Open a bundle and a corpus, and begin to verify the large files in threads.

        `release` the source's store when the generation is unloaded, or was not loaded.

        Args:
            bundle: The bundle's directory.
            corpus: The corpus's directory.

        Raises:
            ArtifactError: One cannot be used, or they do not belong together.
        """
        opened = bundles.open_bundle(bundle, self._trusted)
        opened.check_current(datetime.now(UTC))
        bundles.verify_programs(opened)
        tower = opened.manifest.tower_fingerprint
        same = [store for store in self._uses if store.path.resolve() == corpus.resolve()]
        is_shared = bool(same) and not self._read_only
        store = same[0] if is_shared else Store(corpus, read_only=self._read_only, tower=tower)
        self._uses[store] += 1
        try:
            if not (same or self._encode_anew or store.built.manifest.tower_fingerprint == tower):
                check_pair(opened, store.snapshot)
        except BaseException:
            self.release(store)
            raise
        # Hashing releases the GIL. This server has verified or written a shared store's snapshot.
        pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="verify")
        checks = [pool.submit(bundles.verify_tables, opened)]
        if not is_shared:
            checks.append(pool.submit(snapshots.verify, store.snapshot))
        pool.shutdown(wait=False)
        return Source(bundle=opened, store=store, is_shared=is_shared, _checks=checks)

    def release(self, store: Store, while_closing: AbstractContextManager[None] = _AT_ONCE) -> None:
        """Give up one use of a store, and close it, within a context, if it was the last."""
        self._uses[store] -= 1
        if not self._uses[store]:
            del self._uses[store]
            with while_closing:
                store.close()

    def close(self) -> None:
        """Close all stores."""
        for store in self._uses:
            store.close()
        self._uses.clear()
