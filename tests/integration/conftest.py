"""Servers that tests of the wire share, and what starts others quickly."""

import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from phoenix_server.build.import_npz import import_corpus
from phoenix_server.bundle.bundle import open_bundle
from phoenix_server.config import EngineConfig, Limits, ServeConfig
from running import run_server
from server.cases import copied

SMALL = EngineConfig(batch_sizes=(1, 4), history_lengths=(16,), result_sizes=(32,), max_top_k=4000)

COMPILED_FOR = ("--max-top-k", "100")  # few sizes of searches: quick to compile


@pytest.fixture(scope="session")
def golden_corpus_bf16(
    golden_layout: Path, bundle_bf16: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the golden posts as a corpus of `bundle_bf16`. Read-only."""
    out = tmp_path_factory.mktemp("golden_bf16") / "corpus"
    import_corpus(golden_layout / "sports_corpus.npz", open_bundle(bundle_bf16), out)
    return out


@pytest.fixture(scope="session")
def compiled_bundle(
    bundle_f32: Path, golden_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return `bundle_f32`, compiled for the golden posts on one shard. Read-only."""
    bundle = copied(bundle_f32, tmp_path_factory.mktemp("compiled") / "bundle")
    command = [sys.executable, "-m", "phoenix_server", "compile", "--bundle", str(bundle)]
    command += COMPILED_FOR
    subprocess.run(command, check=True, capture_output=True)
    (towers,) = (bundle / "compiled").iterdir()
    first = {path.name for path in towers.iterdir()}
    subprocess.run([*command, "--corpus", str(golden_corpus)], check=True, capture_output=True)
    (both,) = (bundle / "compiled").iterdir()
    assert both == towers
    assert first < {path.name for path in both.iterdir()}
    return bundle


@pytest.fixture(scope="session")
def server_bf16(bundle_bf16: Path, golden_corpus_bf16: Path) -> Generator[str, None, None]:
    """Serve the golden checkpoint in bfloat16, one shard; return the address."""
    with run_server(
        ServeConfig(
            bundle=bundle_bf16, corpus=golden_corpus_bf16, read_only=True, shards=1, engine=SMALL
        )
    ) as server:
        yield server.address


@pytest.fixture(scope="session")
def server_f32(bundle_f32: Path, golden_corpus: Path) -> Generator[str, None, None]:
    """Serve the golden checkpoint in float32, one shard, with low limits; return the address."""
    limits = Limits(max_batch_users=8, max_candidates=64, max_request_bytes=64 << 10)
    with run_server(
        ServeConfig(
            bundle=bundle_f32,
            corpus=golden_corpus,
            read_only=True,
            shards=1,
            engine=SMALL,
            limits=limits,
        )
    ) as server:
        yield server.address


@pytest.fixture(scope="session")
def server_f32_sharded(bundle_f32: Path, golden_corpus: Path) -> Generator[str, None, None]:
    """Serve the same, over seven shards."""
    with run_server(
        ServeConfig(bundle=bundle_f32, corpus=golden_corpus, read_only=True, shards=7, engine=SMALL)
    ) as server:
        yield server.address
