"""The server of this process: signals, threads that fail, and the exit status."""

import asyncio
import logging
import os
import signal
import threading
from typing import NoReturn

from phoenix_server.config import ServeConfig
from phoenix_server.errors import FatalError
from phoenix_server.generations.sources import Source, Sources
from phoenix_server.runtime.devices import choose_devices, split_cpu
from phoenix_server.runtime.memory import limit_arenas
from phoenix_server.runtime.persistent_cache import compiled_path, use_compiled
from phoenix_server.server import Server

_log = logging.getLogger(__name__)


async def serve(config: ServeConfig, sources: Sources, first: Source) -> None:
    """Be the server of this process: serve until SIGTERM, SIGINT or SIGHUP, then shut down.

    A second signal ends the process at once.

    Args:
        config: What to serve.
        sources: Owns what has been opened.
        first: The bundle and the corpus.

    Raises:
        PhoenixServerError: As `Server.run`.
    """
    limit_arenas()
    if config.shards is not None:
        split_cpu(config.shards)
    device = choose_devices(config.shards)[0]
    use_compiled(compiled_path(config.bundle, device), first.bundle.trusted)
    server = Server(config, sources, first)
    loop = asyncio.get_running_loop()

    signals = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # `nohup` has it ignored
        signals.append(signal.SIGHUP)

    def shut_down() -> None:
        for number in signals:
            loop.remove_signal_handler(number)
        server.stop()

    def fail(ended: threading.ExceptHookArgs) -> None:
        _log.critical("a thread has failed", exc_info=ended.exc_value)
        name = ended.thread.name if ended.thread else "?"
        loop.call_soon_threadsafe(server.fail, f"thread {name}", ended.exc_type.__name__)

    for number in signals:
        loop.add_signal_handler(number, shut_down)
    threading.excepthook = fail
    began = loop.time()
    try:
        ended = await server.run(
            on_ready=lambda: _log.info(
                "SERVING on %s after %.1f s", server.address, loop.time() - began
            )
        )
    except FatalError as exc:
        _log.critical("%s", exc)
        _exit(1)
    _log.info("stopped")
    if not ended:  # a thread may be inside XLA, and Python would abort when it finalizes under it
        _exit(0)


def _exit(status: int) -> NoReturn:
    """End the process, whatever its threads do."""
    logging.shutdown()
    os._exit(status)
