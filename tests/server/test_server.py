from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from phoenix_server.config import ServeConfig
from phoenix_server.errors import FatalError
from phoenix_server.generations.manager import GenerationManager
from phoenix_server.server import Server

_CONFIG = ServeConfig(bundle=Path("bundle"), corpus=Path("corpus"), listen="127.0.0.1:0")


async def _run(monkeypatch: pytest.MonkeyPatch, during: str, then: Callable[[Server], Any]) -> bool:
    """Run a server without a generation that stops at once.

    Args:
        monkeypatch: Replaces what needs a generation.
        during: Name of a step of the shutdown.
        then: Called when it has ended.
    """

    async def load(*_: object) -> bool:
        return True

    async def shut_down(*_: object) -> bool:
        return True

    monkeypatch.setattr(GenerationManager, "active", SimpleNamespace(engine=None))
    monkeypatch.setattr(Server, "_load", load)
    monkeypatch.setattr(Server, "_compile_rest", lambda *_: threading.Thread())
    monkeypatch.setattr(Server, "_shut_down", shut_down)
    step = getattr(Server, during)

    async def and_then(server: Server, *arguments: object) -> Any:
        result = await step(server, *arguments)
        then(server)
        return result

    monkeypatch.setattr(Server, during, and_then)
    listeners: list[grpc.aio.Server] = []
    listen = Server._listen  # pyright: ignore[reportPrivateUsage]

    def note_listener(server: Server) -> grpc.aio.Server:
        listeners.append(listen(server))
        return listeners[-1]

    monkeypatch.setattr(Server, "_listen", note_listener)
    server = Server(_CONFIG)
    try:
        return await asyncio.wait_for(server.run(on_ready=server.stop), 60)
    finally:
        await listeners[0].stop(None)  # a server that has failed leaves this to the process


@pytest.mark.parametrize("during", ["_shut_down", "_leave"])
async def test_a_part_that_fails_during_shutdown_is_a_failure(
    during: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FatalError, match="thread device has ended: RuntimeError"):
        await _run(monkeypatch, during, lambda server: server.fail("thread device", "RuntimeError"))


async def test_a_server_whose_parts_end_in_order_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await _run(monkeypatch, "_leave", lambda _: None)
