"""A server's life: start, serve, shut down. The only place that builds the parts."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

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
from phoenix_server.artifacts import describe_error
from phoenix_server.config import ServeConfig
from phoenix_server.engine.engine import Engine
from phoenix_server.errors import FatalError, NotReadyError, StartupError
from phoenix_server.generations.loader import Loader
from phoenix_server.generations.manager import GenerationManager
from phoenix_server.generations.sources import Source, Sources
from phoenix_server.generations.watcher import watch
from phoenix_server.runtime.address import owned_address
from phoenix_server.runtime.memory import release_freed_memory, release_unused_memory
from phoenix_server.runtime.program_cache import ProgramCache
from phoenix_server.service.corpus import CorpusServicer
from phoenix_server.service.field_count import max_fields
from phoenix_server.service.interceptor import CallInterceptor
from phoenix_server.service.listener import make_listener
from phoenix_server.service.model import ModelServicer
from phoenix_server.service.retrieval import RetrievalServicer
from phoenix_server.service.state import ServingState

_log = logging.getLogger(__name__)

SERVICES = (
    retrieval_service_pb2.DESCRIPTOR.services_by_name["RetrievalService"].full_name,
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
    corpus_service_pb2.DESCRIPTOR.services_by_name["CorpusService"].full_name,
)
_REFUSED_UNREAD = tuple(f"/{SERVICES[0]}/{method}" for method in ("Retrieve", "Search"))
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVING = health_pb2.HealthCheckResponse.SERVING
_FAREWELL_S = 0.1
_SENDING_S = 1.0  # to send the last replies


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
            read_only=config.read_only,
            encode_anew=config.encode_anew,
            trusted_key=config.trusted_key,
        )
        self._first = first
        self._manager = GenerationManager(config, Loader(config, self._sources, programs))
        self._state = ServingState(self._manager, config.limits)
        self._health = health.aio.HealthServicer()
        self._calls = CallInterceptor(
            config.calls,
            config.limits.max_request_bytes,
            self._max_fields,
            dict.fromkeys(_REFUSED_UNREAD, self._check_room),
        )
        self._stopping = asyncio.Event()
        self._failure: FatalError | None = None

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
            FatalError: A part of the server has ended.
            StartupError: The address is taken, or there are too few devices.
        """
        await self._set_health(_NOT_SERVING)
        with owned_address(self._config.listen):
            server = self._listen()
            await server.start()
            stopped = asyncio.create_task(self._stopping.wait())
            try:
                if not await self._load(stopped):
                    return False
                compiling = self._compile_rest(self._manager.active.engine)
                await self._serve(stopped, on_ready)
                ended = await self._shut_down() and not compiling.is_alive()
                await self._check_parts()
            finally:
                stopped.cancel()
                if self._failure is None:  # otherwise the process ends at once
                    await self._leave(server)
            await self._check_parts()
            return ended

    def fail(self, what: str, reason: Exception | str) -> None:
        """End `run` with an error: a part has ended that nothing replaces. From the loop's thread.

        Args:
            what: Name of the part.
            reason: Why it has ended.
        """
        if isinstance(reason, Exception):
            reason = describe_error(reason)
        self._failure = self._failure or FatalError(f"{what} has ended: {reason}")
        self._stopping.set()

    def _max_fields(self) -> int:
        """Return the maximum fields of a request. A corpus may have more labels than the option."""
        labels = self._config.engine.max_labels
        with suppress(NotReadyError):
            labels = self._manager.active.engine.corpus.max_labels
        return max_fields(self._config.limits, labels)

    def _check_room(self, timeout_s: float | None) -> None:
        """Check, before a query is received, that the queue would not refuse it."""
        self._manager.active.batcher.check_room(timeout_s)

    async def _watch(self, part: Awaitable[object], what: str) -> None:
        """Fail when a part ends that must not."""
        try:
            await part
        except Exception as exc:
            self.fail(what, exc)

    async def _load(self, stopped: asyncio.Task[bool]) -> bool:
        """Load the first generation; return whether it is active before `stop` is called."""
        first, self._first = self._first, None
        loading = asyncio.create_task(self._manager.start(first))
        await asyncio.wait({stopped, loading}, return_when=asyncio.FIRST_COMPLETED)
        await self._check_parts()
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
            bundles = watch(self._manager, directory, self._config.watch_interval_s)
            watching = asyncio.create_task(self._watch(bundles, "--watch"))
        try:
            await stopped
            await self._check_parts()
        finally:
            if watching is not None:
                watching.cancel()

    async def _check_parts(self) -> None:
        """Check that no part has failed.

        Raises:
            FatalError: One has.
        """
        if self._failure is not None:
            await self._set_health(_NOT_SERVING)
            raise self._failure

    async def _shut_down(self) -> bool:
        """Finish the calls in flight, then the threads; return whether all have ended."""
        _log.info("shutting down, in at most %g s", self._config.grace_s)
        await self._set_health(_NOT_SERVING)
        self._manager.updates.stop_waiting()
        unfinished = await self._calls.calls.stop(self._config.grace_s)
        if unfinished:
            _log.warning("%d calls did not finish in time", unfinished)
        # On a thread: the loop goes on refusing calls.
        return await asyncio.to_thread(self._end_threads, unfinished > 0)

    def _end_threads(self, calls_are_left: bool) -> bool:
        # Nobody waits for changes that are still pending.
        ended = self._manager.updates.close(timeout_s=0.1 if calls_are_left else 1.0)
        if ended and not self._manager.is_busy:  # nothing reads or writes the corpora any more
            self._sources.close()
        return not calls_are_left and ended and self._manager.close(timeout_s=1.0)

    async def _leave(self, server: grpc.aio.Server) -> None:
        """Close the connections, so that each call that still comes fails with UNAVAILABLE.

        gRPC would cancel those that reach it just then: they are held, until their clients know
        that the connection takes no others.
        """
        self._calls.hold_refusals()
        await asyncio.sleep(_FAREWELL_S)
        closing = asyncio.create_task(server.stop(_SENDING_S))
        await asyncio.sleep(_FAREWELL_S)
        await self._calls.end()
        await closing

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
        limits, calls = self._config.limits, self._config.calls
        fail = partial(self.fail, "gRPC")
        server = make_listener(self._calls, limits.max_request_bytes, calls, fail)
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
            raise StartupError(f"cannot listen on {self._config.listen}: {exc}") from exc
        host, _, given = self._config.listen.rpartition(":")
        if given == "0" and not host.startswith("unix"):
            self.address = f"{host}:{port}"
        return server

    async def _set_health(self, status: int) -> None:
        for service in ("", *SERVICES):
            await self._health.set(service, status)
