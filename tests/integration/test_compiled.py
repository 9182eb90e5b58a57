"""Programs compiled ahead: loaded where they fit, counted in the log, and verified."""

import re
from pathlib import Path

import jax

from integration.conftest import COMPILED_FOR
from integration.wire import connect
from phoenix_client import User
from phoenix_export.signing import sign_bundle
from phoenix_server.runtime.persistent_cache import use_compiled
from server.cases import copied, flip_bit
from servers import ServerProcess, spawn_server
from signing_keys import new_keys


def _await_counts(server: ServerProcess) -> tuple[int, int]:
    """Wait until a server has all its programs; return how many, and how many it loaded."""
    found = server.await_line(r"(\d+) programs, (\d+) of them compiled ahead")
    return int(found[1]), int(found[2])


def test_a_server_loads_all_its_programs(compiled_bundle: Path, golden_corpus: Path) -> None:
    before = sorted((compiled_bundle / "compiled").rglob("*"))
    paths = ("--bundle", compiled_bundle, "--corpus", golden_corpus)
    with spawn_server(*paths, *COMPILED_FOR) as server:
        total, loaded = _await_counts(server)
        assert loaded == total > 20
        with connect(server.await_ready()) as client:
            assert len(client.retrieve(User(user_id=7), top_k=5).candidates) == 5
    assert sorted((compiled_bundle / "compiled").rglob("*")) == before


def test_programs_that_were_not_compiled_ahead_are_compiled_and_not_kept(
    compiled_bundle: Path, golden_corpus: Path
) -> None:
    before = sorted((compiled_bundle / "compiled").rglob("*"))
    paths = ("--bundle", compiled_bundle, "--corpus", golden_corpus)
    with spawn_server(*paths, *COMPILED_FOR, "--max-labels", "40") as server:
        total, loaded = _await_counts(server)
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
    paths = ("--bundle", bundle, "--corpus", golden_corpus)
    with spawn_server(*paths, "--shards", "2") as server:
        address = server.await_ready()
        assert re.search(r"WARNING .*compiled/cpu-\w+ is not used, .*: it is damaged", server.log())
        with connect(address) as client:
            assert client.get_model().shards == 2
            assert len(client.retrieve(User(user_id=7), top_k=5).candidates) == 5


def test_with_a_trusted_key_only_signed_programs_are_run(
    compiled_bundle: Path, golden_corpus: Path, tmp_path: Path
) -> None:
    bundle = copied(compiled_bundle, tmp_path / "bundle")
    private, public = new_keys(tmp_path / "key")
    sign_bundle(bundle, private)
    (sums,) = (bundle / "compiled").glob("*/sums.sig")
    signature = sums.read_bytes()
    sums.unlink()
    paths = ("--bundle", bundle, "--corpus", golden_corpus, "--trusted-key", public)
    with spawn_server(*paths, *COMPILED_FOR) as server:
        server.await_line(r"WARNING .*compiled/cpu-\w+ is not used, .*: sums\.sig: missing: nobody")
    sums.write_bytes(signature)
    with spawn_server(*paths, *COMPILED_FOR) as server:
        total, loaded = _await_counts(server)
        assert loaded == total > 20
