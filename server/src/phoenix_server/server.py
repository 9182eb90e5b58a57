"""A server's life: start, serve, shut down. The only place that builds the parts."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from phoenix_retrieval.v1 import (
    corpus_service_pb2,
    corpus_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    retrieval_service_pb2,
    retrieval_service_pb2_grpc,
)
from phoenix_server.config import ServeConfig
from phoenix_server.engine.engine import Engine
from phoenix_server.errors import StartupError
from phoenix_server.generations.loader import Loader
from phoenix_server.generations.manager import GenerationManager
from phoenix_server.generations.sources import Source, Sources
from phoenix_server.generations.watcher import watch
from phoenix_server.runtime.devices import choose_devices, split_cpu
from phoenix_server.runtime.memory import (
    limit_arenas,
    release_freed_memory,
    release_unused_memory,
)
from phoenix_server.runtime.persistent_cache import compiled_path, use_compiled
from phoenix_server.runtime.program_cache import ProgramCache
from phoenix_server.service.corpus import CorpusServicer
from phoenix_server.service.interceptor import CallInterceptor
from phoenix_server.service.model import ModelServicer
from phoenix_server.service.retrieval import RetrievalServicer
from phoenix_server.service.state import ServingState

_log = logging.getLogger(__name__)

SERVICES = (
    retrieval_service_pb2.DESCRIPTOR.services_by_name["RetrievalService"].full_name,
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
    corpus_service_pb2.DESCRIPTOR.services_by_name["CorpusService"].full_name,
)
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVING = health_pb2.HealthCheckResponse.SERVING
# gRPC refuses a request beyond four times the limit before it is in memory. A smaller one reaches
# the interceptor, whose error names the field.
_TRANSPORT_LIMIT_FACTOR = 4
_MAX_PORT = 65535
_MAX_PENDING = 1 << 20
_MAX_UNREQUESTED_S = 3600


class Server:
    """One server.

    Attributes:
        address: Where it listens, as host:port; the port is known once it listens.
    """

    def __init__(
        self,
        config: ServeConfig,
        sources: Sources | None = None,
        first: Source | None = None,
        programs: ProgramCache | None = None,
    ) -> None:
        """Build the parts; nothing is loaded yet.

        Args:
            config: What to serve, and how.
            sources: What has been opened. Default: nothing.
            first: The bundle and the corpus, if they are open.
            programs: Share compiled programs with these. Default: with none.
        """
        self.address = config.listen
        self._config = config
        self._sources = sources or Sources(
            read_only=config.read_only, encode_anew=config.encode_anew
        )
        self._first = first
        self._manager = GenerationManager(config, Loader(config, self._sources, programs))
        self._state = ServingState(self._manager, config.limits)
        self._health = health.aio.HealthServicer()
        self._calls = CallInterceptor(max_request_bytes=config.limits.max_request_bytes)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin to shut down; from the event loop's thread."""
        self._stopping.set()

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> bool:
        """Serve until `stop`.

        Args:
            on_ready: Called when the server begins to answer.

        Returns:
            Whether all work has ended; if not, a thread still loads or answers.

        Raises:
            ArtifactError: The bundle or the corpus cannot be used.
            StartupError: The address is taken, or there are too few devices.
        """
        await self._set_health(_NOT_SERVING)
        server = self._listen()
        await server.start()
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            if not await self._load(stopped):
                return False
            compiling = self._compile_rest(self._manager.active.engine)
            await self._serve(stopped, on_ready)
            return await self._shut_down() and not compiling.is_alive()
        finally:
            stopped.cancel()
            await server.stop(None)

    async def _load(self, stopped: asyncio.Task[bool]) -> bool:
        """Load the first generation; return whether it is active before `stop` is called."""
        first, self._first = self._first, None
        loading = asyncio.create_task(self._manager.start(first))
        await asyncio.wait({stopped, loading}, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            return False
        loading.result()  # raises what it raised
        return not self._stopping.is_set()

    async def _serve(self, stopped: asyncio.Task[bool], on_ready: Callable[[], None]) -> None:
        """Answer requests until `stop` is called."""
        await self._set_health(_SERVING)
        on_ready()
        watching: asyncio.Task[None] | None = None
        if (directory := self._config.watch) is not None:
            interval_s = self._config.watch_interval_s
            watching = asyncio.create_task(watch(self._manager, directory, interval_s))
        try:
            await stopped
        finally:
            if watching is not None:
                watching.cancel()

    async def _shut_down(self) -> bool:
        """Finish the calls in flight, then the threads; return whether all have ended."""
        _log.info("shutting down, in at most %g s", self._config.grace_s)
        await self._set_health(_NOT_SERVING)
        unfinished = await self._calls.drain(self._config.grace_s)
        if unfinished:
            _log.warning("%d calls did not finish in time", unfinished)
        # Nobody waits for changes that are still pending.
        ended = self._manager.updates.close(timeout_s=0.1 if unfinished else 1.0)
        if ended and not self._manager.is_busy:  # nothing reads or writes the corpora any more
            self._sources.close()
        return not unfinished and ended and self._manager.close(timeout_s=1.0)

    def _compile_rest(self, engine: Engine) -> threading.Thread:
        """Compile the other sizes while the server answers, in a thread."""

        def stopped() -> bool:
            release_freed_memory()  # of the last program
            return self._stopping.is_set()

        def compile_rest() -> None:
            try:
                engine.compile_rest(stopped)
            except Exception:
                _log.exception("compiling failed; the compiled programs go on serving")
            release_unused_memory()
            loaded, total = engine.loaded_programs
            _log.info("%d programs, %d of them compiled ahead", total, loaded)

        thread = threading.Thread(target=compile_rest, name="compile", daemon=True)
        thread.start()
        return thread

    def _listen(self) -> grpc.aio.Server:
        limit = self._config.limits.max_request_bytes
        host, colon, given = self._config.listen.rpartition(":")
        if host != "unix" and not (given.isdecimal() and int(given) <= _MAX_PORT):
            raise StartupError(  # gRPC would drop the upper bits of a larger number
                f"cannot listen on {self._config.listen}: it should be host:port, with a port of "
                f"at most {_MAX_PORT}"
            )
        server = grpc.aio.server(
            interceptors=[self._calls],
            options=[
                ("grpc.max_receive_message_length", _TRANSPORT_LIMIT_FACTOR * limit),
                ("grpc.so_reuseport", 0),  # or a second server would take half of the calls
                # Otherwise gRPC cancels calls beyond a thousand, and calls that wait for the event
                # loop for 30 s, before the server can answer RESOURCE_EXHAUSTED.
                ("grpc.server.max_pending_requests", _MAX_PENDING),
                ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING),
                ("grpc.server_max_unrequested_time_in_server", _MAX_UNREQUESTED_S),
            ],
        )
        retrieval_service_pb2_grpc.add_RetrievalServiceServicer_to_server(
            RetrievalServicer(self._state), server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelServicer(self._state, self._config.allow_load), server
        )
        corpus_service_pb2_grpc.add_CorpusServiceServicer_to_server(
            CorpusServicer(self._state), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        try:
            port = server.add_insecure_port(self._config.listen)
        except RuntimeError as exc:
            raise StartupError(
                f"cannot listen on {self._config.listen}: it is in use, or not an address of "
                "this machine; choose another with --listen"
            ) from exc
        if colon and given == "0":
            self.address = f"{host}:{port}"
        return server

    async def _set_health(self, status: int) -> None:
        for service in ("", *SERVICES):
            await self._health.set(service, status)


async def serve(config: ServeConfig, sources: Sources, first: Source) -> None:
    """Be the server of this process: serve until SIGTERM or SIGINT, then shut down.

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
    if config.bundle.is_dir():
        use_compiled(compiled_path(config.bundle, choose_devices(config.shards)[0]))
    server = Server(config, sources, first)
    loop = asyncio.get_running_loop()

    def shut_down() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, shut_down)
    began = loop.time()
    ended = await server.run(
        on_ready=lambda: _log.info(
            "SERVING on %s after %.1f s", server.address, loop.time() - began
        )
    )
    _log.info("stopped")
    if not ended:  # a thread may be inside XLA, and Python would abort when it finalizes under it
        logging.shutdown()
        os._exit(0)
