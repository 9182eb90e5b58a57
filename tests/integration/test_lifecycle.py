"""A server's life: loading, serving, draining, and all that keeps it from starting."""

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc

from integration.conftest import COMPILED_FOR, SMALL
from phoenix_client import CallCancelledError, PhoenixClient, UnavailableError, User
from phoenix_retrieval.v1.manifest_pb2 import BundleManifest
from phoenix_server import server as serve
from phoenix_server.config import ServeConfig
from phoenix_server.corpus.disk.store import Store
from phoenix_server.engine.batch import LaunchedBatch
from phoenix_server.engine.engine import Engine
from phoenix_server.engine.query import Answer
from phoenix_server.generations.loader import Loader
from phoenix_server.generations.sources import Source
from running import run_server, spawn_server

QUICK = replace(SMALL, batch_sizes=(1,), history_lengths=(), result_sizes=())


@pytest.fixture
def config(bundle_f32: Path, golden_corpus: Path) -> ServeConfig:
    return ServeConfig(bundle=bundle_f32, corpus=golden_corpus, shards=1, engine=QUICK)


def health(address: str, service: str = "") -> int:
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=service)).status


def test_while_it_drains_calls_in_flight_finish_and_new_ones_are_refused(
    config: ServeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, release = threading.Event(), threading.Event()
    collect = Engine.collect

    def wait_then_collect(engine: Engine, launched: LaunchedBatch) -> list[Answer]:
        entered.set()
        assert release.wait(timeout=30)
        return collect(engine, launched)

    monkeypatch.setattr(Engine, "collect", wait_then_collect)
    with (
        ThreadPoolExecutor() as pool,
        run_server(config) as server,
        PhoenixClient(server.address, timeout_s=30) as client,
    ):
        in_flight = pool.submit(client.retrieve, User(user_id=1), top_k=3)
        assert entered.wait(timeout=30)
        server.stop()
        while health(server.address) == health_pb2.HealthCheckResponse.SERVING:
            pass  # until the server's thread has taken the signal
        with pytest.raises(UnavailableError, match="drains"):
            client.get_model()
        assert not in_flight.done()
        release.set()
        assert len(in_flight.result().candidates) == 3


def test_calls_that_outlast_the_grace_are_cut_off(
    config: ServeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, release = threading.Event(), threading.Event()

    def never_answer(engine: Engine, launched: LaunchedBatch) -> list[Answer]:
        entered.set()
        assert release.wait(timeout=30)
        return []

    monkeypatch.setattr(Engine, "collect", never_answer)
    with (
        ThreadPoolExecutor() as pool,
        run_server(replace(config, grace_s=0.1)) as server,
        PhoenixClient(server.address, timeout_s=30) as client,
    ):
        in_flight = pool.submit(client.retrieve, User(user_id=1), top_k=3)
        assert entered.wait(timeout=30)
        server.stop()
        with pytest.raises((UnavailableError, CallCancelledError)):
            in_flight.result()
        release.set()


def test_while_it_loads_calls_are_unavailable_and_health_says_so(
    config: ServeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening: list[str] = []
    seen: list[object] = []
    load = Loader.load

    def look_around_then_load(loader: Loader, source: Source) -> tuple[Engine, Store]:
        (address,) = listening
        seen.append(health(address))
        with PhoenixClient(address) as client, pytest.raises(UnavailableError, match="is loading"):
            client.get_model()
        return load(loader, source)

    listen = serve.Server._listen  # pyright: ignore[reportPrivateUsage]

    def note_address(server: serve.Server) -> grpc.aio.Server:
        result = listen(server)
        listening.append(server.address)
        return result

    monkeypatch.setattr(Loader, "load", look_around_then_load)
    monkeypatch.setattr(serve.Server, "_listen", note_address)
    with run_server(config) as server:
        assert health(server.address) == health_pb2.HealthCheckResponse.SERVING
    assert seen == [health_pb2.HealthCheckResponse.NOT_SERVING]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_with_0(
    number: signal.Signals, compiled_bundle: Path, golden_corpus: Path
) -> None:
    paths = ("--bundle", str(compiled_bundle), "--corpus", str(golden_corpus))
    arguments = (*paths, *COMPILED_FOR, "--read-only")
    with spawn_server(*arguments) as (process, address):
        with PhoenixClient(address) as client:
            second = run_cli("serve", *arguments, "--listen", address)
            assert second.returncode == 1
            assert one_line(second) == (
                f"error: cannot listen on {address}: it is in use, or not an address of this "
                "machine; choose another with --listen"
            )
            assert len(client.retrieve(User(user_id=1), top_k=3).candidates) == 3
        process.send_signal(number)
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_loads_exits_with_0(
    number: signal.Signals, bundle_f32: Path, golden_corpus: Path
) -> None:
    command = [sys.executable, "-m", "phoenix_server", "serve", "--listen", "127.0.0.1:0"]
    paths = ["--bundle", str(bundle_f32), "--corpus", str(golden_corpus)]
    with subprocess.Popen([*command, *paths], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "serve: loading " not in (line := process.stderr.readline()):
            assert line, "it ended"
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 0
    assert "SERVING" not in rest
    assert rest.endswith("stopped\n")


def copied(bundle: Path, out: Path, change: Callable[[BundleManifest], None]) -> Path:
    shutil.copytree(bundle, out)
    path = out / "manifest.json"
    manifest = json_format.Parse(path.read_text(), BundleManifest())
    change(manifest)
    path.write_text(json_format.MessageToJson(manifest, preserving_proto_field_name=True))
    return out


def expire(manifest: BundleManifest) -> None:
    manifest.expires_at.FromJsonString("2024-02-29T00:00:00Z")


def change_fingerprint(manifest: BundleManifest) -> None:
    manifest.tower_fingerprint = "0" * 64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (expire, ["expired on 2024-02-29", "export the checkpoint again"]),
        (change_fingerprint, ["built with other towers", "000000000000"]),
    ],
)
def test_a_bundle_that_cannot_serve_ends_the_server_with_one_line(
    change: Callable[[BundleManifest], None],
    words: list[str],
    bundle_f32: Path,
    golden_corpus: Path,
    tmp_path: Path,
) -> None:
    bundle = copied(bundle_f32, tmp_path / "bundle", change)
    arguments = ("--bundle", str(bundle), "--corpus", str(golden_corpus))
    done = run_cli("serve", *arguments, "--listen", "127.0.0.1:0", "--log-level", "WARNING")
    assert done.returncode == 1
    assert all(word in one_line(done) for word in words)


def test_a_missing_corpus_ends_the_server_with_one_line(bundle_f32: Path, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    arguments = ("--bundle", str(bundle_f32), "--corpus", str(missing))
    done = run_cli("serve", *arguments, "--listen", "127.0.0.1:0", "--log-level", "WARNING")
    assert done.returncode == 1
    assert one_line(done) == f"error: {missing}: no such directory"


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "phoenix_server", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.stdout == ""
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error:"))
    assert "Traceback" not in done.stderr
    return line
