"""Generations over fake engines."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from phoenix_server.config import QueueConfig
from phoenix_server.generations.generation import Generation
from server.batching.fakes import Device

BUNDLE, CORPUS = Path("bundle"), Path("corpus")


def fake_store(**attributes: Any) -> Any:
    """Return what a generation needs of a store."""
    return SimpleNamespace(**{"read_only": False, "path": CORPUS} | attributes)


def fake_engine(*, torn: bool = False) -> Any:
    """Return a device that is idle, with a corpus; torn: a change failed half-way."""
    engine: Any = Device()
    engine.corpus = SimpleNamespace(sequence=0, arrays=SimpleNamespace(torn=torn))
    engine.snapshot = None
    engine.close = lambda: None
    return engine


def attach(generation: Generation, store: Any = None, *, torn: bool = False) -> Device:
    """Give a generation an engine, which it returns."""
    engine = fake_engine(torn=torn)
    generation.attach(engine, store or fake_store(), QueueConfig())
    return engine


@contextmanager
def loaded(
    generation: Generation, store: Any = None, *, torn: bool = False
) -> Generator[Generation, None, None]:
    """Have a generation in memory until the block ends."""
    attach(generation, store, torn=torn)
    try:
        yield generation
    finally:
        if generation.is_loaded:
            assert generation.close()
