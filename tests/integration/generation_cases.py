"""Cases for tests of generations: other bundles, and what an exact answer is."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from integration.wire import Stubs, open_stubs
from phoenix_export.bundle import write_bundle
from phoenix_export.checkpoint import open_checkpoint
from phoenix_retrieval.v1 import retrieval_service_pb2 as pb
from phoenix_server.config import ServeConfig
from server.cases import copied
from servers import run_server

TOP_K = 50


@contextmanager
def serve(config: ServeConfig, **options: Any) -> Generator[Stubs, None, None]:
    """Run a server as `run_server` does, and connect to it, until the block ends."""
    with run_server(config, **options) as server, open_stubs(server.address) as stubs:
        yield stubs


def write_variant(layout: Path, seed: int, out: Path) -> None:
    """Write a float32 bundle of a checkpoint whose weights are each scaled by 0.8 to 1.2.

    Args:
        layout: The checkpoint.
        seed: What the factors are drawn with.
        out: The bundle.
    """
    changed = copied(layout, out.parent / f"layout{seed}")
    path = changed / "retrieval" / "model_params.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    rng = np.random.default_rng(seed)
    for name, array in arrays.items():
        arrays[name] = (array * rng.uniform(0.8, 1.2, array.shape)).astype(array.dtype)
    np.savez(path, **arrays)
    write_bundle(open_checkpoint(changed, "float32"), out, saved_model=False)


def retrieve(stubs: Stubs, top_k: int = TOP_K, **options: Any) -> pb.RetrieveResponse:
    """Retrieve posts, with the user's representation."""
    return stubs.retrieve(top_k, return_user_representation=True, **options)


def assert_exact(stubs: Stubs, known: list[int], answer: pb.RetrieveResponse | None = None) -> None:
    """Check an answer against the vectors that the server's own towers give to all posts.

    Args:
        stubs: The server.
        known: All posts that its corpus should hold.
        answer: To `retrieve`. Default: one that is asked for now.
    """
    answer = retrieve(stubs) if answer is None else answer
    found = stubs.posts(*known)
    assert not found.missing_post_ids
    assert answer.rows_scanned == len(known)
    vectors = stubs.encode(found.post_ids, found.author_ids)
    scores = vectors @ np.array(answer.user_representation, np.float64)
    best = np.argsort(-scores, kind="stable")[:TOP_K]
    assert np.allclose(scores[best], answer.scores, rtol=0, atol=1e-5)
    by_id = dict(zip(found.post_ids, scores, strict=True))
    assert np.allclose([by_id[each] for each in answer.post_ids], scores[best], rtol=0, atol=1e-5)


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """Return the code and the text with which a call fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code(), error.details()
