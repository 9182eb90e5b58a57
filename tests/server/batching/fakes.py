"""Fakes: a device whose batches end when a test releases them, and a clock that a test sets."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from phoenix_server.batching.batcher import Batcher
from phoenix_server.batching.request import Request
from phoenix_server.batching.user_cache import UserCache
from phoenix_server.bundle.features import UserColumns
from phoenix_server.config import QueueConfig
from phoenix_server.engine.query import Answer, Query
from server.cases import random_user

PATIENCE_S = 500.0  # fails a test that hangs, before its time limit

_NO_CALLER = cast("asyncio.Future[object]", None)


def query(name: int) -> Query:
    """Return a query; its `top_k` is its name for the fake device."""
    return Query(random_user(1), name)


def query_request(
    number: int, due_s: float, *, cost_s: float = 1.0, has_deadline: bool = True
) -> Request:
    """Return the request of a query."""
    return Request(
        query(number),
        _NO_CALLER,
        arrival_s=0.0,
        cost_s=cost_s,
        due_s=due_s,
        has_deadline=has_deadline,
        number=number,
    )


def call_request(number: int, due_s: float, *, cost_s: float = 1.0, kind: str = "call") -> Request:
    """Return the request of a call."""
    return Request(
        lambda: None,
        _NO_CALLER,
        arrival_s=0.0,
        cost_s=cost_s,
        due_s=due_s,
        has_deadline=True,
        number=number,
        kind=kind,
    )


@dataclass
class Clock:
    """A clock that moves when a test sets it."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Device:
    """Answers each query with its `top_k` as norm, once a test releases its batch.

    By default it reports long batch times, so that the next batch forms when one ends. With
    `batch_s` = 0 the next batch forms as soon as a request waits.

    Attributes:
        tower: Names the tower in the keys of users.
        user_s: Reported cost of a user.
        batch_s: Reported search cost of a batch.
        batches: The batches that were launched.
        prepared: The batches that were prepared.
        threads: The threads that launched, collected or ran a call.
        failures: Errors of the next batches, one each.
        broken: A query that always fails, and the step in which it does.
    """

    max_batch = 3

    def __init__(self, user_s: float = 0.0, batch_s: float = 1e6) -> None:
        self.tower = "tower"
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

    def user_key(self, user: UserColumns) -> bytes:
        return f"{self.tower}: {user.user_id}".encode()

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
        """Return a call that is recorded like a batch and returns its name."""

        def run() -> int:
            self.batches.append([name])
            self._work()
            return name

        return run

    async def wait_entered(self) -> None:
        """Wait until the device has started one more batch or call."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=PATIENCE_S)

    async def wait_prepared(self) -> None:
        """Wait until one more batch has been prepared."""
        assert await asyncio.to_thread(self._prepared.acquire, timeout=PATIENCE_S)

    def release(self, times: int = 1) -> None:
        """Let so many batches end."""
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
    device: Device | None = None,
    clock: Clock | None = None,
    users: UserCache | None = None,
    **config: Any,
) -> AsyncGenerator[tuple[Device, Batcher], None]:
    """Run a batcher over a fake device."""
    device = device or Device()
    limits: dict[str, Any] = {"default_timeout_s": 1e9} | config
    batcher = Batcher(device, QueueConfig(**limits), users, clock=clock or time.monotonic)
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
