from pathlib import Path

import jax
import pytest

from phoenix_server.bundle.bundle import Bundle, open_bundle
from phoenix_server.config import EngineConfig
from phoenix_server.corpus.disk.snapshot import Snapshot, open_snapshot
from phoenix_server.engine.engine import Engine


@pytest.fixture(scope="session")
def bundle(bundle_f32: Path) -> Bundle:
    return open_bundle(bundle_f32)


@pytest.fixture(scope="session")
def snapshot(golden_corpus: Path) -> Snapshot:
    return open_snapshot(golden_corpus)


@pytest.fixture(scope="session")
def engine(bundle: Bundle, snapshot: Snapshot) -> Engine:
    """Return a float32 engine on three shards and two lanes that compiles for a few sizes."""
    config = EngineConfig(
        user_batches=(1, 4),
        batch_sizes=(1, 4),
        history_lengths=(16,),
        result_sizes=(7,),
        max_top_k=250,
        candidate_batch=5,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("phoenix_server.bundle.towers.count_lanes", lambda device: 2)
        engine = Engine(bundle, snapshot, tuple(jax.devices()[:3]), config)
    engine.compile_rest()
    return engine
