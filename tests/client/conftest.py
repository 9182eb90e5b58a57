from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import Outcome, Run, outcome_of, run_command
from fake_server.server import FakeServer, run_fake_server
from phoenix_client import AsyncPhoenixClient, PhoenixClient
from phoenix_client.cli.main import main


class Ask:
    """Makes a call with a fresh client: sync in one run of a test, async in the other."""

    def __init__(self, target: str, *, sync: bool) -> None:
        self._target = target
        self._sync = sync
        self.client_options: dict[str, Any] = {}

    def __call__(self, method: str, *arguments: Any, **options: Any) -> Any:
        if not self._sync:
            return asyncio.run(self._ask_async(method, *arguments, **options))
        with PhoenixClient(self._target, **self.client_options) as client:
            return getattr(client, method)(*arguments, **options)

    async def _ask_async(self, method: str, *arguments: Any, **options: Any) -> Any:
        async with AsyncPhoenixClient(self._target, **self.client_options) as client:
            return await getattr(client, method)(*arguments, **options)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with run_fake_server() as fake:
        yield fake


@pytest.fixture(params=[True, False], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest, server: FakeServer) -> Ask:
    return Ask(server.target, sync=request.param)


@pytest.fixture
def run(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Run the command line in this process, with the server as its default target."""
    monkeypatch.setenv("PHOENIX_TARGET", server.target)

    def run_main(*arguments: str | Path) -> Outcome:
        return outcome_of(lambda: main([str(argument) for argument in arguments]), capsys)

    return run_main


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a private key and its self-signed certificate for 127.0.0.1."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    options = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=phoenix"
    options += " -addext subjectAltName=IP:127.0.0.1"
    files = ("-keyout", key, "-out", certificate)
    run_command(openssl, "req", "-x509", *options.split(), *files).checked()
    return key, certificate
