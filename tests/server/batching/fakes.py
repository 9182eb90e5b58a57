"""A device that works when it is told to, and a clock that stands still."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from phoenix_server.batching.batcher import Batcher
from phoenix_server.config import QueueConfig
from phoenix_server.engine.engine import Answer, Query
from server.cases import random_user

PATIENCE_S = 500.0  # for what should come at once: less than the time limit of a test


def query(name: int) -> Query:
    """Return a query that the fake recognises by its `top_k`."""
    return Query(random_user(1), name)


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Device:
    """Answers queries with their `top_k` as norm, each batch once it is let go.

    It says that its batches take long, so that the next forms when one ends and not before; unless
    it is told to say that they take no time: then the next forms as soon as anything waits.

    Attributes:
        user_s: What it says that a user takes.
        batch_s: What it says that a batch takes besides.
        batches: The batches that were launched.
        prepared: The batches that were prepared.
        threads: The threads that launched, collected or ran a call.
        failures: Raised by coming batches, one each.
        broken: The query that fails wherever it runs, and in which step.
    """

    max_batch = 3

    def __init__(self, user_s: float = 0.0, batch_s: float = 1e6) -> None:
        self.user_s = user_s
        self.batch_s = batch_s
        self.unforeseen_compilations = 0
        self.batches: list[list[int]] = []
        self.prepared: list[list[int]] = []
        self.threads: set[threading.Thread] = set()
        self.failures: list[Exception] = []
        self.broken: tuple[int, str] | None = None
        self._entered = threading.Semaphore(0)
        self._prepared = threading.Semaphore(0)
        self._released = threading.Semaphore(0)

    def user_seconds(self, query: Query) -> float:
        return self.user_s

    def batch_seconds(self, users: int) -> float:
        return self.batch_s

    def prepare(self, queries: Sequence[Query]) -> list[int]:
        names = [query.top_k for query in queries]
        self.prepared.append(names)
        self._break("prepare", names)
        self._prepared.release()
        return names

    def launch(self, prepared: list[int]) -> list[int]:
        self.batches.append(prepared)
        self.threads.add(threading.current_thread())
        self._break("launch", prepared)
        return prepared

    def collect(self, launched: list[int]) -> list[Answer]:
        self._work()
        self._break("collect", launched)
        nothing = np.empty(0, np.float32)
        return [
            Answer(
                post_ids=nothing.astype(np.uint64),
                scores=nothing,
                author_ids=nothing.astype(np.uint64),
                created_at_unix_ms=nothing.astype(np.int64),
                labels=None,
                eligible=0,
                scanned=0,
                sequence=0,
                representation=nothing,
                norm=float(name),
            )
            for name in launched
        ]

    def call(self, name: int) -> Callable[[], int]:
        """Return a call that is noted like a batch, and returns its name."""

        def run() -> int:
            self.batches.append([name])
            self._work()
            return name

        return run

    async def wait_entered(self) -> None:
        """Wait until the device works on something more."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=PATIENCE_S)

    async def wait_prepared(self) -> None:
        """Wait until one more batch has been prepared."""
        assert await asyncio.to_thread(self._prepared.acquire, timeout=PATIENCE_S)

    def release(self, times: int = 1) -> None:
        """Let batches end."""
        self._released.release(times)

    def _work(self) -> None:
        self.threads.add(threading.current_thread())
        self._entered.release()
        assert self._released.acquire(timeout=PATIENCE_S)
        if self.failures:
            raise self.failures.pop(0)

    def _break(self, step: str, names: list[int]) -> None:
        if self.broken is not None and step == self.broken[1] and self.broken[0] in names:
            raise LookupError(f"{self.broken[0]} is broken")


@asynccontextmanager
async def running(
    device: Device | None = None, clock: Clock | None = None, **config: Any
) -> AsyncGenerator[tuple[Device, Batcher], None]:
    """Run a batcher over a fake device."""
    device = device or Device()
    limits: dict[str, Any] = {"default_timeout_s": 1e9} | config
    batcher = Batcher(device, QueueConfig(**limits), clock=clock or time.monotonic)
    try:
        yield device, batcher
    finally:
        device.release(10_000)
        await asyncio.to_thread(batcher.close)


async def start(
    batcher: Batcher, *names: int, timeout_s: float | None = None
) -> list[asyncio.Task[Answer]]:
    """Queue queries, in order."""
    tasks = [
        asyncio.create_task(batcher.retrieve(query(name), timeout_s=timeout_s)) for name in names
    ]
    await asyncio.sleep(0)  # lets each task run up to where it waits
    return tasks


async def norms(tasks: Sequence[asyncio.Task[Answer]]) -> list[float]:
    """Wait for answers."""
    async with asyncio.timeout(PATIENCE_S):
        return [answer.norm for answer in await asyncio.gather(*tasks)]
