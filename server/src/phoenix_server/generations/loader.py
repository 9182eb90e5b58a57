"""Bring up an engine over a corpus as it is now, whichever towers its vectors are of."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from phoenix_server.bundle.bundle import Bundle
from phoenix_server.bundle.towers import Towers
from phoenix_server.config import EngineConfig
from phoenix_server.corpus.changes import Ids
from phoenix_server.corpus.disk import snapshot as snapshots
from phoenix_server.corpus.disk.compaction import write_snapshot
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.memory.index import default_capacity
from phoenix_server.engine.engine import Engine
from phoenix_server.runtime.compile_counter import CompileCounter
from phoenix_server.runtime.devices import Device
from phoenix_server.runtime.program_cache import ProgramCache

_log = logging.getLogger(__name__)


class _TowerEncoder:
    """The candidate tower of a bundle, before there is an engine."""

    def __init__(
        self, bundle: Bundle, towers: Towers, size: int, give_way: Callable[[], None]
    ) -> None:
        self.tower = bundle.manifest.tower_fingerprint
        self._towers = towers
        self._size = size
        self._give_way = give_way

    def encode_posts(self, post_ids: Ids, author_ids: Ids) -> npt.NDArray[np.float32]:
        """Return the unit vectors of posts, [n, D]."""
        parts = [self._towers.encode_posts(post_ids[:0], author_ids[:0])]
        for start in range(0, len(post_ids), self._size):
            chunk = slice(start, start + self._size)
            parts.append(self._towers.encode_posts(post_ids[chunk], author_ids[chunk]))
            self._give_way()
        return np.concatenate(parts)


def sizes_for(store: Store, config: EngineConfig) -> EngineConfig:
    """Return sizes with a capacity: the same for all states of a corpus, or programs would not fit.

    Args:
        store: The corpus.
        config: The sizes as they were asked for.
    """
    if config.capacity is not None:
        return config
    return replace(config, capacity=default_capacity(store.built.manifest.rows))


def make_engine(
    bundle: Bundle,
    store: Store,
    devices: tuple[Device, ...],
    config: EngineConfig,
    programs: ProgramCache | None = None,
    *,
    give_way: Callable[[], None] = lambda: None,
) -> Engine:
    """Load a bundle and a corpus, without the changes since its snapshot; see `following.catch_up`.

    If its vectors are of other towers, a snapshot with the bundle's is written first, which takes a
    while; of a corpus that is served read-only in a temporary place.

    Args:
        bundle: The bundle; its files have been verified.
        store: The corpus; the files of its snapshot have been verified.
        devices: One a shard.
        config: The sizes to compile for.
        programs: Share programs with these. Default: with none.
        give_way: Called between two pieces of work while vectors are made anew.

    Raises:
        ArtifactError: One cannot be used, or the disk refuses.
        StartupError: The search does not work on these devices.
    """
    programs = ProgramCache(beside=programs)
    config = sizes_for(store, config)
    with ExitStack() as stack:
        snapshot, towers = store.snapshot, None
        if snapshot.manifest.tower_fingerprint != bundle.manifest.tower_fingerprint:
            with CompileCounter.expected():
                towers = Towers(bundle, devices[0], programs)
                towers.compile_candidates(config.candidate_batch)
                towers.self_test()
            folder = None
            if store.read_only:
                folder = Path(stack.enter_context(TemporaryDirectory(prefix="phoenix-corpus-")))
            encoder = _TowerEncoder(bundle, towers, config.candidate_batch, give_way)
            snapshot = _encode_anew(store, encoder, folder)
        return Engine(bundle, snapshot, devices, config, programs, towers)


def _encode_anew(store: Store, encoder: _TowerEncoder, folder: Path | None) -> Snapshot:
    rows = store.snapshot.manifest.rows
    _log.info("encoding %d posts anew with towers %s", rows, encoder.tower[:12])
    snapshot = write_snapshot(store, encoder, folder)
    snapshots.verify(snapshot)  # it may have been there
    return snapshot
