"""Functions run in threads, and futures hand over their results."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from concurrent.futures import Future

import pytest

from phoenix_server.runtime.threads import run_in_thread, run_to_end, settle


def test_a_function_runs_in_a_daemon_thread_of_its_own() -> None:
    thread = run_in_thread(threading.current_thread, "load").result()
    assert thread is not threading.current_thread()
    assert (thread.name, thread.daemon) == ("load", True)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_only_a_background_thread_has_a_low_priority() -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    own = priority()
    assert run_in_thread(priority, "load").result() == own
    assert run_in_thread(priority, "load", in_background=True).result() == 10
    assert priority() == own


async def test_an_exception_of_the_thread_is_raised_where_it_is_awaited() -> None:
    def fail() -> None:
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        await asyncio.wrap_future(run_in_thread(fail, "load"))


async def test_a_caller_that_leaves_waits_until_the_function_has_ended() -> None:
    go = threading.Event()
    caller = asyncio.create_task(run_to_end(lambda: go.wait(30.0)))
    for _ in range(3):
        await asyncio.sleep(0)
        caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_a_caller_that_stays_gets_the_result_or_the_exception() -> None:
    def fail() -> None:
        raise LookupError("nothing there")

    assert await run_to_end(lambda: 5) == 5
    with pytest.raises(LookupError, match="nothing there"):
        await run_to_end(fail)


def test_a_function_that_runs_cannot_be_cancelled() -> None:
    go = threading.Event()
    future = run_in_thread(go.wait, "load")
    assert not future.cancel()
    go.set()
    assert future.result() is True


def test_a_future_gets_the_result_or_the_exception() -> None:
    done: Future[int] = Future()
    settle(done, lambda: 5)
    assert done.result() == 5
    failed: Future[None] = Future()
    settle(failed, lambda: sys.exit(3))  # whoever waits learns of it, whatever it is
    assert isinstance(failed.exception(), SystemExit)


def test_a_thread_that_cannot_start_fails_its_future(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    future = run_in_thread(int, "load")
    with pytest.raises(RuntimeError, match="start new thread"):
        future.result(timeout=60)
