"""Serve the same engine with gRPC's threaded server, as most Python servers do; a peer.

One thread owns the device, as in our server; each call waits for it in a thread of its own.
"""

from __future__ import annotations  # gRPC's types are generic to type checkers only

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue

import grpc

from phoenix_bench.load.requests import METHOD_NAME, SERVICE
from phoenix_retrieval.v1 import retrieval_service_pb2 as pb
from phoenix_server.config import Limits
from phoenix_server.engine.engine import Engine
from phoenix_server.engine.query import Answer, Query
from phoenix_server.service.requests import read_user

_MOST_CALLS = 128  # at once, one thread each


class ThreadServer:
    """A server of `Retrieve` and nothing else.

    Attributes:
        address: Address on which it listens.
    """

    def __init__(self, engine: Engine) -> None:
        """Listen on a free port of 127.0.0.1."""
        self._engine = engine
        self._queue: SimpleQueue[tuple[Query, Future[Answer]] | None] = SimpleQueue()
        self._device = threading.Thread(target=self._run, name="device", daemon=True)
        self._device.start()
        self._server = grpc.server(ThreadPoolExecutor(_MOST_CALLS))
        retrieve = grpc.unary_unary_rpc_method_handler(
            self._retrieve,
            request_deserializer=pb.RetrieveRequest.FromString,
            response_serializer=pb.RetrieveResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {METHOD_NAME: retrieve}),)
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        """Stop listening and end the threads."""
        self._server.stop(None).wait()
        self._queue.put(None)
        self._device.join()

    def _retrieve(
        self, request: pb.RetrieveRequest, context: grpc.ServicerContext
    ) -> pb.RetrieveResponse:
        """Return the exact top k of one user."""
        sizes = self._engine.bundle.manifest.model
        user = read_user(request.user, sizes, Limits().max_history)
        future: Future[Answer] = Future()
        self._queue.put((Query(user, request.top_k), future))
        return response(future.result(), self._engine)

    def _run(self) -> None:
        while batch := self._take():
            try:
                answers = self._engine.retrieve([query for query, _ in batch])
                for (_, future), answer in zip(batch, answers, strict=True):
                    future.set_result(answer)
            except Exception as exc:
                for _, future in batch:
                    future.set_exception(exc)

    def _take(self) -> Sequence[tuple[Query, Future[Answer]]]:
        """Wait for a call, then take further waiting calls, up to a batch; empty once closed."""
        entry = self._queue.get()
        batch: list[tuple[Query, Future[Answer]]] = []
        while entry is not None:
            batch.append(entry)
            if len(batch) == self._engine.max_batch:
                break
            try:
                entry = self._queue.get_nowait()
            except Empty:
                break
        return batch


def response(answer: Answer, engine: Engine) -> pb.RetrieveResponse:
    """Return the response of our server for an answer, without the optional columns."""
    return pb.RetrieveResponse(
        generation=engine.generation,
        rows_scanned=answer.scanned,
        rows_eligible=answer.eligible,
        post_ids=answer.post_ids.tolist(),
        scores=answer.scores.tolist(),
        sequence=answer.sequence,
    )
