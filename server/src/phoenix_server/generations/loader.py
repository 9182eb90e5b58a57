"""Load a bundle and a corpus into memory: at start-up, and beside an active generation."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from phoenix_server.bundle.towers import Towers
from phoenix_server.config import EngineConfig, ServeConfig
from phoenix_server.corpus.disk import snapshot as snapshots
from phoenix_server.corpus.disk.compaction import prune_snapshots, write_snapshot
from phoenix_server.corpus.disk.reencode import Encoder
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.corpus.disk.store import MAX_ATTEMPTS, Store
from phoenix_server.corpus.memory.index import CorpusIndex, default_capacity
from phoenix_server.corpus.updates.replay import replay
from phoenix_server.engine.engine import Engine
from phoenix_server.engine.query import Query
from phoenix_server.errors import CorpusError, GenerationError
from phoenix_server.generations.memory_budget import check_memory
from phoenix_server.generations.sources import Source, Sources
from phoenix_server.runtime.compile_counter import CompileCounter
from phoenix_server.runtime.devices import Device, choose_devices
from phoenix_server.runtime.memory import release_unused_memory
from phoenix_server.runtime.program_cache import ProgramCache

_log = logging.getLogger(__name__)


class Loader:
    """Loads generations of one server. For any thread.

    Attributes:
        sources: The bundles and corpora that are open.
    """

    def __init__(
        self, config: ServeConfig, sources: Sources, programs: ProgramCache | None = None
    ) -> None:
        """Begin.

        Args:
            config: The sizes to compile for, and the devices.
            sources: Opens bundles and corpora.
            programs: Share compiled programs with these. Default: with none.
        """
        self.sources = sources
        self._config = config
        self._programs = ProgramCache(beside=programs)

    def check_memory(self, source: Source, loaded: CorpusIndex | None = None) -> None:
        """Check that a generation fits in the free memory; arguments as `load`.

        Raises:
            NoMemoryError: It does not.
        """
        devices = choose_devices(self._config.shards)
        check_memory(source, devices, self._sizes(source.store, loaded))

    def load(
        self,
        source: Source,
        loaded: CorpusIndex | None = None,
        *,
        throttle: Callable[[], None] = lambda: None,
        compile_all: bool = False,
        recent: Callable[[], Sequence[Query]] = tuple,
    ) -> tuple[Engine, Store]:
        """Load a generation, with all changes of its corpus.

        If the corpus has vectors of other towers, a snapshot with the bundle's is written first,
        which takes a while.

        Args:
            source: The bundle and the corpus. If this raises, its store is released.
            loaded: The same corpus in another generation; it may have grown.
            throttle: Called between two pieces of work, to let requests go first.
            compile_all: Compile the programs of all sizes, not only those that every request fits.
            recent: Returns queries that callers asked lately; they must have answers.

        Returns:
            The engine, and its store: that of the source, or one that was opened later.

        Raises:
            ArtifactError: The bundle or the corpus cannot be used, or the disk refuses.
            StartupError: There are too few devices, or the search does not work on them.
        """
        try:
            for left in reversed(range(MAX_ATTEMPTS)):
                try:
                    engine = self._load(source, loaded, throttle, compile_all, recent)
                    return engine, source.store
                except (CorpusError, OSError) as exc:
                    if not left or not source.store.is_overtaken:
                        raise
                    _log.info("opening the corpus again, another server changed it: %s", exc)
                newer = self.sources.open(source.bundle.path, source.store.path)
                self.sources.release(source.store)
                source = newer
            raise AssertionError("it is loaded at least once")
        except BaseException:
            self.sources.release(source.store)
            raise

    def _load(
        self,
        source: Source,
        loaded: CorpusIndex | None,
        throttle: Callable[[], None],
        compile_all: bool,
        recent: Callable[[], Sequence[Query]],
    ) -> Engine:
        store = source.store
        _log.info("loading %s and %s", source.bundle.path, store.path)
        engine = self._make_engine(source, self._sizes(store, loaded), throttle)
        try:
            source.verify()
            if compile_all:
                engine.compile_rest()
            replayed = replay(store, engine)
            _log.info("applied %d changes since the snapshot", replayed)
            _answer(engine, recent(), throttle)
        except BaseException:
            engine.close()
            raise
        if not (store.read_only or source.is_shared):
            store.adopt(engine.snapshot)  # or it may be pruned
            prune_snapshots(store)
        release_unused_memory()
        return engine

    def _make_engine(
        self, source: Source, sizes: EngineConfig, throttle: Callable[[], None]
    ) -> Engine:
        """Load towers and the snapshot, and compile what can serve every request."""
        devices = choose_devices(self._config.shards)
        programs = ProgramCache(beside=self._programs)
        if not source.has_own_vectors:  # all of the files are read before there is an engine
            source.verify()
        try:
            with ExitStack() as stack:
                snapshot, towers = source.store.snapshot, None
                if not source.has_own_vectors:
                    towers = _load_towers(source, devices[0], sizes, programs)
                    folder = None
                    if source.store.read_only:
                        folder = stack.enter_context(TemporaryDirectory(prefix="phoenix-corpus-"))
                    snapshot = _reencode(source.store, towers, sizes.max_labels, throttle, folder)
                return Engine(source.bundle, snapshot, devices, sizes, programs, towers)
        except BaseException:
            source.verify()  # a damaged file is the cause of any other error
            raise

    def _sizes(self, store: Store, loaded: CorpusIndex | None) -> EngineConfig:
        """Return the sizes to compile for: one capacity for all states of a corpus."""
        config = self._config.engine
        if loaded is not None:
            return replace(config, capacity=loaded.capacity, max_labels=loaded.max_labels)
        if config.capacity is not None:
            return config
        return replace(config, capacity=default_capacity(store.built.manifest.rows))


def load_engine(config: ServeConfig, *, compile_all: bool = False) -> Engine:
    """Load an engine without a server; its corpus takes no changes. Errors as `Loader.load`.

    Args:
        config: The bundle, the corpus, the devices and the sizes.
        compile_all: Compile the programs of all sizes.
    """
    with closing(
        Sources(read_only=True, encode_anew=config.encode_anew, trusted_key=config.trusted_key)
    ) as sources:
        source = sources.open(config.bundle, config.corpus)
        engine, _ = Loader(config, sources).load(source, compile_all=compile_all)
        return engine


def _answer(engine: Engine, queries: Sequence[Query], throttle: Callable[[], None]) -> None:
    """Check that queries have answers; wait for the throttle before each.

    Raises:
        GenerationError: A query has no answer that could be sent.
    """
    for query in queries:
        throttle()
        conditions = query.filter
        if conditions is not None:
            names = (*conditions.any_labels, *conditions.all_labels, *conditions.none_labels)
            if not all(map(engine.corpus.labels.knows, names)):  # the corpus is another
                conditions = None
        (answer,) = engine.retrieve([query._replace(filter=conditions)])
        if not answer.has_direction:
            raise GenerationError(
                "a recent request has no answer: the user tower gives a vector without a direction"
            )


class _ThrottledEncoder:
    """The candidate tower of a bundle, with pauses between its batches."""

    def __init__(self, towers: Towers, throttle: Callable[[], None]) -> None:
        self.tower = towers.tower
        self.encode_posts = partial(towers.encode_posts, between_batches=throttle)


def _load_towers(
    source: Source, device: Device, sizes: EngineConfig, programs: ProgramCache
) -> Towers:
    with CompileCounter.expected():
        towers = Towers(source.bundle, device, programs)
        towers.compile_candidates(sizes.candidate_batch)
        towers.self_test()
    return towers


def _reencode(
    store: Store, towers: Towers, max_labels: int, throttle: Callable[[], None], folder: str | None
) -> Snapshot:
    """Write a snapshot with the vectors of some towers, and verify it."""
    rows, tower = store.snapshot.manifest.rows, towers.tower
    _log.info("re-encoding %d posts with towers %s", rows, tower[:12])
    encoder: Encoder = _ThrottledEncoder(towers, throttle)
    parent = None if folder is None else Path(folder)
    snapshot = write_snapshot(store, encoder, parent, max_labels=max_labels)
    snapshots.verify(snapshot)  # it may have existed
    return snapshot
