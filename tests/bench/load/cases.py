"""Test doubles for load tests: a model, and servers with a given behaviour."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from phoenix_bench.load.requests import METHOD_NAME, SERVICE
from phoenix_client import Model


def a_model(
    *, history_length: int = 127, num_actions: int = 19, surfaces: int = 16, max_top_k: int = 1000
) -> Model:
    """Return the model of a server."""
    return Model(
        generation="generation",
        tower_fingerprint="fingerprint",
        embedding_size=128,
        history_length=history_length,
        num_actions=num_actions,
        product_surface_vocab_size=surfaces,
        compute_dtype="bfloat16",
        corpus_rows=1000,
        corpus_dtype="float32",
        label_names=(),
        shards=1,
        devices=("cpu",),
        max_top_k=max_top_k,
        max_batch_users=256,
        max_candidates=4096,
        max_excluded=1 << 15,
        max_history=4096,
        max_request_bytes=4 << 20,
        server_version="0",
        search="tiles",
        search_lack="",
    )


@asynccontextmanager
async def serve_bytes(
    answer: Callable[[bytes, Any], Awaitable[bytes]],
) -> AsyncGenerator[str, None]:
    """Serve `Retrieve` in bytes on a free port, and yield the address."""
    server = grpc.aio.server()
    handlers = {METHOD_NAME: grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
