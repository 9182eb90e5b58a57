"""The one bridge between threads and the event loop: `concurrent.futures.Future`.

A thread settles a future; a coroutine awaits it with `asyncio.wrap_future`.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

_BACKGROUND_NICE = 10  # of 19


def run_in_thread(
    function: Callable[[], T], name: str, *, in_background: bool = False
) -> Future[T]:
    """Run a function in a daemon thread of its own.

    Args:
        function: The function.
        name: Name of the thread.
        in_background: Give the thread, and the threads that it starts, a low priority. Only Linux
            has priorities of threads.

    Returns:
        Its result or its exception, also one of starting the thread. It cannot be cancelled.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        if in_background and sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BACKGROUND_NICE)
        settle(future, function)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as exc:  # the system has no more threads
        future.set_exception(exc)
    return future


async def call_in_thread(function: Callable[[], T], name: str, *, in_background: bool = False) -> T:
    """Run a function as `run_in_thread` does, and wait for it on the event loop."""
    return await asyncio.wrap_future(run_in_thread(function, name, in_background=in_background))


async def run_to_end(function: Callable[[], T]) -> T:
    """Run a function in asyncio's pool, and wait until it has ended.

    A caller that is cancelled waits, too: what it holds meanwhile, such as a place among few, is
    held as long as the function runs.
    """
    running = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(running)
    finally:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({running})


def settle(future: Future[T], function: Callable[[], T]) -> None:
    """Call a function, and give a running future its result or its exception."""
    try:
        future.set_result(function())
    except BaseException as exc:
        future.set_exception(exc)
