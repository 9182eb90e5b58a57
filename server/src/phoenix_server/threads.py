"""Work in threads of its own, awaited on the event loop."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_thread(function: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run a function in a thread of its own, which does not keep the process alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def resolve(settle: Callable[[], None]) -> None:
        if not future.done():
            settle()

    def run() -> None:
        try:
            result = function()
        except BaseException as exc:
            error = exc
            loop.call_soon_threadsafe(resolve, lambda: future.set_exception(error))
        else:
            loop.call_soon_threadsafe(resolve, lambda: future.set_result(result))

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
