"""Changes of the corpus on the disk: kills, restarts, snapshots, and other servers."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.rpc import code_pb2

from integration.conftest import COMPILED_FOR
from integration.wire import Stubs, failure, open_stubs
from phoenix_retrieval.v1 import corpus_service_pb2 as pb
from phoenix_server.config import ServeConfig
from phoenix_server.corpus.disk.snapshot import open_snapshot, verify
from phoenix_server.engine.engine import Engine
from phoenix_server.errors import CorpusError
from phoenix_server.generations import loader
from servers import run_server, spawn_server


def test_changes_survive_a_kill(compiled_bundle: Path, corpus: Path) -> None:
    arguments = ("--bundle", compiled_bundle, "--corpus", corpus, *COMPILED_FOR)
    with spawn_server(*arguments) as server, open_stubs(server.await_ready()) as stubs:
        stubs.upsert(7, vectors=stubs.user_vector())
        server.end(signal.SIGKILL)
    with spawn_server(*arguments) as server, open_stubs(server.await_ready()) as stubs:
        assert stubs.retrieve().post_ids[0] == 7
        assert stubs.state().sequence == 1


def test_a_snapshot_has_all_changes_and_the_journal_those_after_it(
    config: ServeConfig, corpus: Path
) -> None:
    def write(stubs: Stubs, *ids: int) -> None:
        labels = {"label_names": ["a"], "label_counts": [1] * len(ids)}
        stubs.upsert(
            *ids, vectors=stubs.user_vector() * len(ids), label_indices=[0] * len(ids), **labels
        )

    with run_server(config) as server, open_stubs(server.address) as stubs:
        for n in range(5):
            write(stubs, 7, 8 + n)
        stubs.delete(8)
        first = stubs.snapshot()
        assert (first.sequence, first.rows, first.directory) == (6, 3005, "snapshots/6")
        assert stubs.snapshot() == first
        state = stubs.state()
        assert (state.snapshot_sequence, state.journal_posts) == (6, 0)
        for n in range(2):
            write(stubs, 20 + n)
            stubs.snapshot()
        write(stubs, 30)
        listed = stubs.corpus.ListSnapshots(pb.ListSnapshotsRequest()).snapshots
        assert [each.sequence for each in listed] == [0, 7, 8]
        before, state = stubs.retrieve(top_k=100, return_labels=True), stubs.state()
        assert (state.snapshot_sequence, state.journal_posts, state.sequence) == (8, 1, 9)
    verify(open_snapshot(corpus / "snapshots" / "8"))
    with run_server(config) as server, open_stubs(server.address) as stubs:
        assert stubs.retrieve(top_k=100, return_labels=True) == before
        assert stubs.state() == state


def test_only_one_server_takes_changes_and_others_read(config: ServeConfig) -> None:
    with run_server(config) as server, open_stubs(server.address) as stubs:
        other = run_server(config)
        with pytest.raises(CorpusError, match="another server writes its changes"), other:
            pass
        mine = stubs.user_vector()
        stubs.upsert(7, vectors=mine)
        read_only = replace(config, read_only=True)
        with run_server(read_only) as other, open_stubs(other.address) as reader:
            assert reader.retrieve().post_ids[0] == 7
            status = failure(lambda: reader.upsert(7, vectors=mine))
            assert status.code == code_pb2.FAILED_PRECONDITION
            assert reader.state().read_only


def test_a_server_that_starts_while_another_writes_a_snapshot_opens_the_new_one(
    config: ServeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = 0

    def make_engine(*arguments: Any) -> Engine:
        nonlocal loads
        loads += 1
        if loads == 1:
            writer.upsert(8, vectors=mine)
            writer.snapshot()
        return Engine(*arguments)

    with run_server(config) as server, open_stubs(server.address) as writer:
        mine = writer.user_vector()
        writer.upsert(7, vectors=mine)
        monkeypatch.setattr(loader, "Engine", make_engine)
        read_only = replace(config, read_only=True)
        with run_server(read_only) as other, open_stubs(other.address) as reader:
            assert list(reader.retrieve().post_ids[:2]) == [7, 8]
            assert (reader.state().sequence, reader.state().snapshot_sequence) == (2, 2)
    assert loads == 2
