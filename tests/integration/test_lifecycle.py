"""A server's life: loading, serving, shutting down, and errors that keep it from starting."""

import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from commands import Outcome, run_module
from integration.conftest import COMPILED_FOR, QUICK
from integration.wire import PATIENCE_S, connect
from phoenix_client import CallCancelledError, PhoenixClientError, UnavailableError, User
from phoenix_server import server as serve
from phoenix_server.config import ServeConfig
from phoenix_server.corpus.disk.store import Store
from phoenix_server.engine.batch import LaunchedBatch
from phoenix_server.engine.engine import Engine
from phoenix_server.engine.query import Answer
from phoenix_server.generations.loader import Loader
from phoenix_server.generations.sources import Source
from server.cases import copied, edit_manifest
from servers import run_server, spawn_server


@pytest.fixture
def config(bundle_f32: Path, golden_corpus: Path) -> ServeConfig:
    return ServeConfig(bundle=bundle_f32, corpus=golden_corpus, shards=1, engine=QUICK)


def health(address: str, service: str = "") -> int:
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=service)).status


def test_during_shutdown_calls_in_flight_finish_and_new_calls_are_refused(
    config: ServeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, release = threading.Event(), threading.Event()
    collect = Engine.collect

    def wait_then_collect(engine: Engine, launched: LaunchedBatch) -> list[Answer]:
        entered.set()
        assert release.wait(PATIENCE_S)
        return collect(engine, launched)

    monkeypatch.setattr(Engine, "collect", wait_then_collect)
    with (
        ThreadPoolExecutor() as pool,
        run_server(config) as server,
        connect(server.address) as client,
    ):
        in_flight = pool.submit(client.retrieve, User(user_id=1), top_k=3)
        assert entered.wait(PATIENCE_S)
        server.stop()
        while health(server.address) == health_pb2.HealthCheckResponse.SERVING:
            pass  # until the server's thread has taken the signal
        with pytest.raises(UnavailableError, match="is shutting down"):
            client.get_model()
        assert not in_flight.done()
        release.set()
        assert len(in_flight.result().candidates) == 3


def test_calls_that_outlast_the_grace_period_are_cancelled(
    config: ServeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, release = threading.Event(), threading.Event()

    def never_answer(engine: Engine, launched: LaunchedBatch) -> list[Answer]:
        entered.set()
        assert release.wait(PATIENCE_S)
        return []

    monkeypatch.setattr(Engine, "collect", never_answer)
    with (
        ThreadPoolExecutor() as pool,
        run_server(replace(config, grace_s=0.1)) as server,
        connect(server.address) as client,
    ):
        in_flight = pool.submit(client.retrieve, User(user_id=1), top_k=3)
        assert entered.wait(PATIENCE_S)
        server.stop()
        with pytest.raises((UnavailableError, CallCancelledError)):
            in_flight.result()
        release.set()


def test_while_the_server_loads_calls_are_unavailable_and_health_says_so(
    config: ServeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening: list[str] = []
    seen: list[object] = []
    load = Loader.load

    def call_then_load(loader: Loader, source: Source) -> tuple[Engine, Store]:
        (address,) = listening
        seen.append(health(address))
        with connect(address) as client, pytest.raises(UnavailableError, match="is loading"):
            client.get_model()
        return load(loader, source)

    listen = serve.Server._listen  # pyright: ignore[reportPrivateUsage]

    def note_address(server: serve.Server) -> grpc.aio.Server:
        result = listen(server)
        listening.append(server.address)
        return result

    monkeypatch.setattr(Loader, "load", call_then_load)
    monkeypatch.setattr(serve.Server, "_listen", note_address)
    with run_server(config) as server:
        assert health(server.address) == health_pb2.HealthCheckResponse.SERVING
    assert seen == [health_pb2.HealthCheckResponse.NOT_SERVING]


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("transport", "gRPC has ended: RuntimeError: broken for a test"),
        ("thread", "thread device has ended: RuntimeError"),
    ],
)
def test_a_part_that_fails_ends_the_process_with_status_1(
    part: str, line: str, compiled_bundle: Path, golden_corpus: Path
) -> None:
    program = (sys.executable, Path(__file__).with_name("failing_server.py"), part)
    paths = ("--bundle", compiled_bundle, "--corpus", golden_corpus)
    with spawn_server(*paths, *COMPILED_FOR, "--read-only", program=program) as server:
        with connect(server.await_ready()) as client, pytest.raises(PhoenixClientError):
            for _ in range(2):
                client.encode_user(User(user_id=1))
        server.await_line(f"CRITICAL .*: {line}$")
        assert server.wait() == 1


@pytest.fixture
def hangups() -> Iterator[None]:
    """Let processes begin with SIGHUP as usual, also where `nohup` runs the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_shuts_the_server_down_with_status_0(
    number: signal.Signals, compiled_bundle: Path, golden_corpus: Path
) -> None:
    paths = ("--bundle", compiled_bundle, "--corpus", golden_corpus)
    arguments = (*paths, *COMPILED_FOR, "--read-only")
    with spawn_server(*arguments) as server:
        with connect(server.await_ready()) as client:
            assert len(client.retrieve(User(user_id=1), top_k=3).candidates) == 3
        assert server.end(number) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_server_loads_ends_it_with_status_0(
    number: signal.Signals, bundle_f32: Path, golden_corpus: Path
) -> None:
    with spawn_server("--bundle", bundle_f32, "--corpus", golden_corpus) as server:
        server.await_line(r": loading /")
        assert server.end(number) == 0
    assert "SERVING" not in server.log()
    assert server.log().endswith("stopped\n")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"expires_at": "2024-02-29T00:00:00Z"},
            ["expired on 2024-02-29", "export the checkpoint again"],
        ),
        ({"tower_fingerprint": "0" * 64}, ["tower_fingerprint is 000000000000"]),
    ],
)
def test_a_bundle_that_cannot_serve_ends_the_server_with_one_line(
    fields: dict[str, str],
    words: list[str],
    bundle_f32: Path,
    golden_corpus: Path,
    tmp_path: Path,
) -> None:
    bundle = copied(bundle_f32, tmp_path / "bundle")
    edit_manifest(bundle, lambda manifest: manifest.update(fields))
    line = one_line(_failed(bundle, golden_corpus))
    assert all(word in line for word in words)


def test_a_missing_corpus_ends_the_server_with_one_line(bundle_f32: Path, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    assert one_line(_failed(bundle_f32, missing)) == f"error: {missing}: no such directory"


def test_an_address_in_use_ends_the_server_with_one_line(
    server_f32: str, bundle_f32: Path, golden_corpus: Path
) -> None:
    assert one_line(_failed(bundle_f32, golden_corpus, "--read-only", listen=server_f32)) == (
        f"error: cannot listen on {server_f32}: it is in use; choose another with --listen"
    )


def _failed(bundle: Path, corpus: Path, *options: str, listen: str = "127.0.0.1:0") -> Outcome:
    """Start a server which must end with status 1."""
    paths = ("--bundle", bundle, "--corpus", corpus, "--listen", listen)
    done = run_module("phoenix_server", "serve", *paths, *options, "--log-level", "WARNING")
    assert done.status == 1
    return done


def one_line(done: Outcome) -> str:
    assert done.out == ""
    (line,) = (line for line in done.err.splitlines() if line.startswith("error:"))
    assert "Traceback" not in done.err
    return line
