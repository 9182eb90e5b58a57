"""Work in threads of its own, awaited on the event loop."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


_LATER = 10  # of 19; what Linux calls nice


def in_thread(
    function: Callable[[], T], name: str, *, in_background: bool = False
) -> asyncio.Future[T]:
    """Run a function in a thread of its own, which does not keep the process alive.

    Args:
        function: What to run.
        name: The thread's.
        in_background: Let other threads go before it, and before those that it starts. Only Linux
            has priorities of threads; elsewhere it is as any.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def resolve(settle: Callable[[], None]) -> None:
        if not future.done():
            settle()

    def run() -> None:
        if in_background and sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LATER)
        try:
            result = function()
        except BaseException as exc:
            error = exc
            loop.call_soon_threadsafe(resolve, lambda: future.set_exception(error))
        else:
            loop.call_soon_threadsafe(resolve, lambda: future.set_result(result))

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
