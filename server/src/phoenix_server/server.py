"""A server's life: bind, load, serve, drain. The only place that builds things."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import TypeVar

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
from phoenix_server.corpus.disk.compaction import remove_old
from phoenix_server.corpus.disk.store import MOST_OPENINGS, Store
from phoenix_server.corpus.updates.replay import catch_up
from phoenix_server.corpus.updates.worker import UpdateWorker
from phoenix_server.engine.engine import Engine
from phoenix_server.errors import CorpusError, StartupError
from phoenix_server.generations.generation import Generation
from phoenix_server.generations.loader import make_engine
from phoenix_server.generations.manager import GenerationManager
from phoenix_server.generations.opening_tmp import Opened
from phoenix_server.generations.watcher import watch
from phoenix_server.runtime.devices import choose_devices, split_cpu
from phoenix_server.runtime.memory import (
    limit_arenas,
    release_freed_memory,
    release_unused_memory,
)
from phoenix_server.runtime.persistent_cache import compiled_path, use_compiled
from phoenix_server.runtime.program_cache import ProgramCache
from phoenix_server.runtime.threads import in_thread
from phoenix_server.service.corpus import CorpusServicer
from phoenix_server.service.interceptor import CallInterceptor
from phoenix_server.service.model import ModelServicer
from phoenix_server.service.retrieval import RetrievalServicer
from phoenix_server.service.state import ServingState

_log = logging.getLogger(__name__)

T = TypeVar("T")

SERVICES = (
    retrieval_service_pb2.DESCRIPTOR.services_by_name["RetrievalService"].full_name,
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
    corpus_service_pb2.DESCRIPTOR.services_by_name["CorpusService"].full_name,
)
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVING = health_pb2.HealthCheckResponse.SERVING
# gRPC itself refuses what is far beyond the limit, before it is in memory; what is a little beyond
# reaches the interceptor, whose error names the field.
_TRANSPORT_LIMIT_FACTOR = 4
_MAX_PORT = 65535
_MOST_PENDING = 1 << 20
_MAX_UNREQUESTED_S = 3600


class Server:
    """One server.

    Attributes:
        address: Where it listens, once it does.
    """

    def __init__(
        self,
        config: ServeConfig,
        opened: Opened | None = None,
        programs: ProgramCache | None = None,
    ) -> None:
        """Build the parts; nothing is loaded yet.

        Args:
            config: What to serve, and how.
            opened: The bundle and the corpus, if they are open.
            programs: Share compiled programs with these. Default: with none.
        """
        self.address = config.listen
        self._programs = programs or ProgramCache()
        self._opened = opened
        self._config = config
        self._state = ServingState(config.limits)
        self._health = health.aio.HealthServicer()
        self._calls = CallInterceptor(max_request_bytes=config.limits.max_request_bytes)
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Begin to drain; from the event loop's thread."""
        self._stop.set()

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> bool:
        """Serve until `stop`.

        Args:
            on_ready: Called when the server has begun to answer.

        Returns:
            Whether all work has ended; if not, a thread still loads or answers.

        Raises:
            ArtifactError: The bundle or the corpus cannot be used.
            StartupError: The address is taken, or there are too few devices.
        """
        await self._set_health(_NOT_SERVING)
        server = self._listen()
        await server.start()
        stopped = asyncio.create_task(self._stop.wait())
        programs = self._programs
        loading = in_thread(lambda: load(self._config, self._opened, programs), "load")
        watching: asyncio.Task[None] | None = None
        try:
            await asyncio.wait({stopped, loading}, return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                return loading.done()
            generations, live = self._begin(*loading.result(), programs)
            del loading  # what it has loaded may be dropped one day
            compiling = self._compile_rest(generations.active.engine)
            await self._set_health(_SERVING)
            on_ready()
            if (directory := self._config.watch) is not None:
                watching = asyncio.create_task(
                    watch(generations, directory, self._config.watch_interval_s)
                )
            await stopped
            _log.info("draining, for at most %g s", self._config.grace_s)
            await self._set_health(_NOT_SERVING)
            unfinished = await self._calls.drain(self._config.grace_s)
            if unfinished:
                _log.warning("%d calls did not finish in time", unfinished)
            # Nobody waits for what these may still do.
            ended = live.close(timeout_s=0.1 if unfinished else 1.0)
            if unfinished or not ended:
                return False
            return generations.close(timeout_s=1.0) and not compiling.is_alive()
        finally:
            stopped.cancel()
            if watching is not None:
                watching.cancel()
            await server.stop(None)

    def _begin(
        self, engine: Engine, store: Store, programs: ProgramCache
    ) -> tuple[GenerationManager, UpdateWorker]:
        """Let requests in."""
        first = Generation(1, engine, store, self._config.queue)
        live = UpdateWorker(
            *first.home,
            snapshot_after=self._config.snapshot_after,
            evict_oldest=self._config.evict_oldest,
        )
        generations = GenerationManager(first, live, self._config, programs)
        self._state.set_ready(generations, live)
        return generations, live

    def _compile_rest(self, engine: Engine) -> threading.Thread:
        """Compile the other sizes while the server answers."""

        def stopped() -> bool:
            release_freed_memory()  # of the last program
            return self._stop.is_set()

        def compile_rest() -> None:
            try:
                engine.compile_rest(stopped)
            except Exception:
                _log.exception("compiling failed; what is compiled serves on")
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
                ("grpc.server.max_pending_requests", _MOST_PENDING),
                ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
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


def load(
    config: ServeConfig, opened: Opened | None = None, programs: ProgramCache | None = None
) -> tuple[Engine, Store]:
    """Bring up the engine, with all changes of its corpus, and see that its files are verified.

    Args:
        config: What to serve.
        opened: The bundle and the corpus, if they were opened before.
        programs: Share programs with these. Default: with none.

    Raises:
        ArtifactError: The bundle or the corpus cannot be used.
        StartupError: There are too few devices, or the search does not work on them.

    Returns:
        The engine, and where further changes are kept.
    """
    programs = ProgramCache(beside=programs)
    for left in reversed(range(MOST_OPENINGS)):
        opened = opened or Opened(
            config.bundle, config.corpus, read_only=config.read_only, encode_anew=config.encode_anew
        )
        store = opened.store
        try:
            return _bring_up(config, opened, programs), store
        except (CorpusError, OSError) as exc:
            if not left or not store.is_overtaken:
                raise
            _log.info("opening the corpus again, which another server has written anew: %s", exc)
        opened = None
    raise AssertionError("it is opened at least once")


def _bring_up(config: ServeConfig, opened: Opened, programs: ProgramCache) -> Engine:
    store = opened.store
    _log.info("loading %s and %s", config.bundle, config.corpus)
    try:
        engine = _make_engine(config, opened, programs)
        try:
            caught_up = catch_up(store, engine)
            store.check_last(engine.corpus.sequence)
        except BaseException:
            engine.close()
            raise
        store.adopt(engine.snapshot)
        _log.info("applied %d changes since the snapshot", caught_up)
    except BaseException:
        store.close()
        raise
    if not store.read_only:
        remove_old(store)
    release_unused_memory()
    return engine


def _make_engine(config: ServeConfig, opened: Opened, programs: ProgramCache) -> Engine:
    devices = choose_devices(config.shards)
    if not opened.fit:  # all of it is read before the engine is made
        opened.verify()
    try:
        return make_engine(opened.bundle, opened.store, devices, config.engine, programs)
    finally:
        opened.verify()  # a damaged file is then the cause of any other error


async def serve(config: ServeConfig, opened: Opened | None = None) -> None:
    """Be the server of this process: serve until SIGTERM or SIGINT, then drain.

    A second signal ends the process at once.

    Args:
        config: What to serve.
        opened: The bundle and the corpus, if they were opened before.

    Raises:
        PhoenixServerError: As `Server.run`.
    """
    limit_arenas()
    if config.shards is not None:
        split_cpu(config.shards)
    if config.bundle.is_dir():
        use_compiled(compiled_path(config.bundle, choose_devices(config.shards)[0]))
    server = Server(config, opened)
    loop = asyncio.get_running_loop()

    def drain() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drain)
    began = loop.time()
    ended = await server.run(
        on_ready=lambda: _log.info(
            "SERVING on %s after %.1f s", server.address, loop.time() - began
        )
    )
    _log.info("stopped")
    if not ended:  # Python would take itself down under a thread that is inside XLA, and abort
        logging.shutdown()
        os._exit(0)
