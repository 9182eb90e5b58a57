"""Programs compiled ahead: used where they fit, said so, and never trusted blindly."""

import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import jax

from integration.conftest import COMPILED_FOR
from phoenix_client import PhoenixClient, User
from phoenix_server.runtime.persistent_cache import use_compiled
from server.cases import copied, flip_bit

COUNTS = re.compile(r"(\d+) programs, (\d+) of them compiled ahead")
READY = re.compile(r"SERVING on (\S+)")


@contextmanager
def _serving(
    bundle: Path, corpus: Path, *options: str, until: re.Pattern[str] = COUNTS
) -> Generator[tuple[str, str], None, None]:
    """Serve until the block ends; yield the log until something is in it, and the address."""
    command = [sys.executable, "-m", "phoenix_server", "serve", "--listen", "127.0.0.1:0"]
    command += ["--bundle", str(bundle), "--corpus", str(corpus), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            lines: list[str] = []
            while not lines or not until.search(lines[-1]):
                lines.append(process.stderr.readline())
                assert lines[-1], "".join(lines)
            log = "".join(lines)
            found = READY.search(log)
            assert found
            yield log, found[1]
        finally:
            process.terminate()


def _counts(log: str) -> tuple[int, int]:
    found = COUNTS.search(log)
    assert found
    return int(found[1]), int(found[2])


def test_a_server_loads_all_its_programs(compiled_bundle: Path, golden_corpus: Path) -> None:
    before = sorted((compiled_bundle / "compiled").rglob("*"))
    with _serving(compiled_bundle, golden_corpus, *COMPILED_FOR) as (log, address):
        total, loaded = _counts(log)
        assert loaded == total > 20
        with PhoenixClient(address) as client:
            assert len(client.retrieve(User(user_id=7), top_k=5).candidates) == 5
    assert sorted((compiled_bundle / "compiled").rglob("*")) == before


def test_what_does_not_fit_is_compiled_and_not_kept(
    compiled_bundle: Path, golden_corpus: Path
) -> None:
    before = sorted((compiled_bundle / "compiled").rglob("*"))
    with _serving(compiled_bundle, golden_corpus, "--max-top-k", "77") as (log, _):
        total, loaded = _counts(log)
        assert 0 < loaded < total
    assert sorted((compiled_bundle / "compiled").rglob("*")) == before


def test_damaged_programs_are_not_run(
    compiled_bundle: Path, golden_corpus: Path, tmp_path: Path
) -> None:
    bundle = copied(compiled_bundle, tmp_path / "bundle")
    damaged = next((bundle / "compiled").glob("*/jit_call-*"))
    flip_bit(damaged)
    before = jax.config.values["jax_compilation_cache_dir"]
    assert not use_compiled(damaged.parent)
    assert jax.config.values["jax_compilation_cache_dir"] == before
    with _serving(bundle, golden_corpus, "--shards", "2", until=READY) as (log, address):
        assert re.search(r"WARNING .*compiled/cpu-\w+ is damaged and not used", log)
        with PhoenixClient(address) as client:
            assert client.get_model().shards == 2
            assert len(client.retrieve(User(user_id=7), top_k=5).candidates) == 5
