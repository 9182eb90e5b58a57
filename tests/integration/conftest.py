"""Servers that tests over the wire share, and small sizes for others."""

from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from commands import run_module
from golden_artifacts import import_golden_corpus, make_once
from integration.generation_cases import serve, write_variant
from integration.wire import PATIENCE_S, Stubs
from phoenix_server.config import EngineConfig, Limits, QueueConfig, ServeConfig
from server.cases import copied
from servers import run_server

# Programs take seconds to compile: servers of tests are of these sizes, and compile few of them.
SMALL = EngineConfig(
    user_batches=(1, 4),
    batch_sizes=(1, 4),
    history_lengths=(16,),
    result_sizes=(32,),
    max_top_k=4000,
)
SHARDED = replace(SMALL, batch_sizes=(4,))
QUICK = EngineConfig(
    user_batches=(1,), batch_sizes=(1,), history_lengths=(), result_sizes=(), max_top_k=100
)
COMPILED_FOR = ("--max-top-k", "100")


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """Let calls of `phoenix-client` take as long as a busy machine needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHOENIX_TIMEOUT_S", str(PATIENCE_S))
        yield


@pytest.fixture(scope="session")
def golden_corpus_bf16(golden_layout: Path, bundle_bf16: Path, shared_folder: Path) -> Path:
    """Return the golden posts as a corpus of `bundle_bf16`. Read-only."""
    return import_golden_corpus(golden_layout, bundle_bf16, shared_folder / "corpus_bf16")


@pytest.fixture(scope="session")
def compiled_bundle(bundle_f32: Path, golden_corpus: Path, shared_folder: Path) -> Path:
    """Return `bundle_f32`, compiled for the golden posts on one shard. Read-only."""

    def compile_copy(path: Path) -> None:
        bundle = copied(bundle_f32, path.with_name("compiling"))
        command = ("phoenix_server", "compile", "--bundle", bundle, *COMPILED_FOR)
        run_module(*command).checked()
        (towers,) = (bundle / "compiled").iterdir()
        first = {file.name for file in towers.iterdir()}
        run_module(*command, "--corpus", golden_corpus).checked()
        (both,) = (bundle / "compiled").iterdir()
        assert both == towers
        assert first < {file.name for file in both.iterdir()}
        bundle.rename(path)

    return make_once(shared_folder / "compiled_f32", compile_copy)


@pytest.fixture
def corpus(golden_corpus: Path, tmp_path: Path) -> Path:
    """Return the golden posts as a corpus that the test may change."""
    return copied(golden_corpus, tmp_path / "corpus")


@pytest.fixture(scope="session")
def others(golden_layout: Path, shared_folder: Path) -> list[Path]:
    """Return two bundles like `bundle_f32`, with other weights. Read-only."""
    return [
        make_once(shared_folder / f"other{seed}", partial(write_variant, golden_layout, seed))
        for seed in (2, 3)
    ]


@pytest.fixture
def config(bundle_f32: Path, corpus: Path, shared_folder: Path) -> ServeConfig:
    """Return how to serve that corpus on one shard, with few programs to compile.

    The server may load whatever tests have written.
    """
    return ServeConfig(
        bundle=bundle_f32, corpus=corpus, shards=1, allow_load=(shared_folder,), engine=QUICK
    )


@pytest.fixture
def served(config: ServeConfig) -> Iterator[Stubs]:
    """Yield a server of that corpus."""
    with serve(config) as stubs:
        yield stubs


@pytest.fixture(scope="session")
def posts(golden_layout: Path) -> list[int]:
    """Return the ids of the golden posts."""
    with np.load(golden_layout / "sports_corpus.npz") as file:
        return file["post_ids"].tolist()


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
            queue=QueueConfig(max_waiting=64),
        )
    ) as server:
        yield server.address


@pytest.fixture(scope="session")
def server_f32_sharded(bundle_f32: Path, golden_corpus: Path) -> Generator[str, None, None]:
    """Serve the same, over seven shards."""
    with run_server(
        ServeConfig(
            bundle=bundle_f32, corpus=golden_corpus, read_only=True, shards=7, engine=SHARDED
        )
    ) as server:
        yield server.address
