"""What happens before a generation is loaded, and what tries it afterwards.

Shapes:
    R  rows of a corpus in memory        D  width of a vector        L  labels that there may be
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from phoenix_server.bundle import bundle as bundles
from phoenix_server.bundle.bundle import Bundle
from phoenix_server.config import EngineConfig, ServeConfig
from phoenix_server.corpus.disk import snapshot as snapshots
from phoenix_server.corpus.disk.store import Store
from phoenix_server.engine.engine import Engine
from phoenix_server.engine.pairing import check_pair
from phoenix_server.engine.query import Query
from phoenix_server.errors import GenerationError, NoMemoryError
from phoenix_server.generations.generation import Generation
from phoenix_server.generations.loader import make_engine, sizes_for
from phoenix_server.runtime.devices import Device, choose_devices
from phoenix_server.runtime.memory import available_bytes, available_host_bytes
from phoenix_server.runtime.program_cache import ProgramCache

_HOST_BYTES = 64  # of a row: ids, time, and where ids and authors are found
_DEVICE_BYTES = 16  # of a row: id and time
_PROGRAM_BYTES = 64 << 20  # what its programs work with


class Prepared(NamedTuple):
    """A bundle and a corpus that were verified.

    Attributes:
        bundle: The bundle.
        store: The corpus.
        devices: Where they go.
        sizes: What to compile for.
    """

    bundle: Bundle
    store: Store
    devices: tuple[Device, ...]
    sizes: EngineConfig

    def make_engine(self, programs: ProgramCache, give_way: Callable[[], None]) -> Engine:
        """Load both, and compile everything; arguments and errors as `loading.make_engine`."""
        engine = make_engine(
            self.bundle, self.store, self.devices, self.sizes, programs, give_way=give_way
        )
        engine.compile_rest()
        return engine


def prepare(
    bundle: Path, corpus: Path, kept: Sequence[Generation], config: ServeConfig
) -> Prepared:
    """Open a bundle and a corpus, and verify their files.

    Args:
        bundle: The bundle's directory.
        corpus: The corpus's directory.
        kept: GenerationManager that are loaded. If one has the same corpus, it is shared.
        config: How to load them.

    Raises:
        ArtifactError: One cannot be used, or they do not fit together.
    """
    opened = bundles.open_bundle(bundle)
    opened.check_current(datetime.now(UTC))
    bundles.verify(opened)
    devices = choose_devices(config.shards)
    same = [each for each in kept if each.store.path.resolve() == corpus.resolve()]
    for each in same:
        if not each.store.read_only:  # of such, another may write newer snapshots meanwhile
            index = each.engine.corpus  # it may have grown beyond what was asked for
            sizes = replace(config.engine, capacity=index.capacity, max_labels=index.max_labels)
            return Prepared(opened, each.store, devices, sizes)
    tower = opened.manifest.tower_fingerprint
    store = Store(corpus, read_only=config.read_only, tower=tower)
    try:
        if not same and not config.encode_anew and store.built.manifest.tower_fingerprint != tower:
            check_pair(opened, store.snapshot)
        snapshots.verify(store.snapshot)
    except BaseException:
        store.close()
        raise
    return Prepared(opened, store, devices, sizes_for(store, config.engine))


def check_memory(prepared: Prepared, *, quietly: bool = False) -> bool:
    """Return whether a generation fits in what memory is free now, by about what it needs.

    Args:
        prepared: It.
        quietly: Return False where it does not.

    Raises:
        NoMemoryError: It does not.
    """
    host, first, others = _needed_bytes(prepared)
    places: list[tuple[str, int, int | None]] = []
    for number, device in enumerate(prepared.devices):
        needed = others if number else first
        if device.platform == "cpu":  # all of them share the host's
            host += needed
        else:
            places.append((str(device), needed, available_bytes(device)))
    for place, needed, free in (("the host", host, available_host_bytes()), *places):
        if free is not None and needed > free:
            if quietly:
                return False
            raise NoMemoryError(
                f"the generation needs about {needed / 1e6:,.0f} MB of memory on {place}, "
                f"{free / 1e6:,.0f} MB are free"
            )
    return True


def replay(engine: Engine, queries: Sequence[Query], give_way: Callable[[], None]) -> None:
    """Answer some queries, as callers asked them lately.

    Args:
        engine: Answers.
        queries: The queries.
        give_way: Called before each.

    Raises:
        GenerationError: One has no answer that could be sent.
    """
    known = engine.corpus.knows_label
    for query in queries:
        give_way()
        wanted = query.filter
        if wanted is not None:
            names = (*wanted.any_labels, *wanted.all_labels, *wanted.none_labels)
            if not all(map(known, names)):  # its corpus is another
                wanted = None
        (answer,) = engine.retrieve([query._replace(filter=wanted)])
        if not (math.isfinite(answer.norm) and answer.norm > 0):
            raise GenerationError(
                "a request that was answered lately has no answer: the user tower gives a vector "
                "without a direction"
            )


def _needed_bytes(prepared: Prepared) -> tuple[int, int, int]:
    """Return about what a generation needs on the host, the first device, and each other one."""
    bundle, sizes = prepared.bundle, prepared.sizes
    snapshot = prepared.store.snapshot
    rows = max(sizes.capacity or 0, snapshot.manifest.rows)
    labels = max(sizes.max_labels, len(snapshot.manifest.label_names)) // 8
    width = bundle.manifest.model.embedding_size
    shard = -(-rows // len(prepared.devices)) * (4 * width + _DEVICE_BYTES + labels)
    towers = sum(file.size_bytes for file in bundle.serving_files())
    return rows * (_HOST_BYTES + labels), shard + towers + _PROGRAM_BYTES, shard
