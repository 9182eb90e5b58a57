import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from phoenix_bench.load.writers import (
    PacedStream,
    draw_batches,
    write_calls,
    write_once,
    write_streams,
)
from phoenix_retrieval.v1 import corpus_service_pb2 as pb
from phoenix_retrieval.v1 import corpus_service_pb2_grpc as services


class _Corpus(services.CorpusServiceServicer):
    """Records the changes that it receives."""

    def __init__(self) -> None:
        self.calls: list[pb.UpsertPostsRequest] = []
        self.streams = 0
        self.some = threading.Event()  # set after five changes

    def UpsertPosts(self, request: pb.UpsertPostsRequest, context: Any) -> pb.UpsertPostsResponse:
        self.calls.append(request)
        return pb.UpsertPostsResponse(sequence=len(self.calls))

    def StreamUpsertPosts(
        self, request_iterator: Iterator[pb.StreamUpsertPostsRequest], context: Any
    ) -> pb.StreamUpsertPostsResponse:
        self.streams += 1
        for message in request_iterator:
            self.calls.append(message.change)
            if len(self.calls) == 5:
                self.some.set()
        return pb.StreamUpsertPostsResponse(sequence=len(self.calls))


def _make() -> _Corpus:
    return _Corpus()  # pyright: ignore[reportAbstractUsage] - it refuses the other methods


def _nothing() -> services.CorpusServiceServicer:
    return services.CorpusServiceServicer()  # pyright: ignore[reportAbstractUsage] - it refuses all


@contextmanager
def _serve(corpus: services.CorpusServiceServicer) -> Generator[str, None, None]:
    server = grpc.server(ThreadPoolExecutor(8))
    services.add_CorpusServiceServicer_to_server(corpus, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_batches_hold_different_posts_with_unit_vectors() -> None:
    batches = draw_batches(count=3, posts=4, width=8, vectors=True)
    requests = [pb.UpsertPostsRequest.FromString(change) for change in batches.changes]
    streamed = [pb.StreamUpsertPostsRequest.FromString(each).change for each in batches.messages]
    assert streamed == requests
    assert len({post_id for request in requests for post_id in request.post_ids}) == 12
    vectors = np.array([request.vectors for request in requests]).reshape(12, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    bare = draw_batches(count=1, posts=4, width=8, vectors=False).changes[0]
    assert not pb.UpsertPostsRequest.FromString(bare).vectors


@pytest.mark.parametrize("callers", [1, 3])
def test_every_batch_is_written_once(callers: int) -> None:
    batches = draw_batches(count=7, posts=2, width=4, vectors=False)
    with _serve(corpus := _make()) as address:
        write_once(address, batches, callers=callers)
    assert sorted(call.SerializeToString() for call in corpus.calls) == sorted(batches.changes)


def test_the_rate_counts_the_posts_written() -> None:
    batches = draw_batches(count=2, posts=3, width=4, vectors=False)
    for write in (write_calls, write_streams):
        with _serve(corpus := _make()) as address:
            rate = write(address, batches, callers=2, duration_s=0.2)
        written = len(corpus.calls) * 3
        assert 0 < rate <= written / 0.2
        assert corpus.streams == (2 if write is write_streams else 0)


def test_a_stream_continues_until_it_is_ended() -> None:
    batches = draw_batches(count=2, posts=3, width=4, vectors=False)
    with _serve(corpus := _make()) as address:
        stream = PacedStream(address, batches, rate=3000)
        assert corpus.some.wait()
        stream.end()
        assert stream.rate > 0
        done = len(corpus.calls)
    assert corpus.streams == 1 and len(corpus.calls) == done


def test_a_refused_change_ends_the_writing() -> None:
    batches = draw_batches(count=2, posts=3, width=4, vectors=False)
    with _serve(_nothing()) as address:
        with pytest.raises(grpc.RpcError):
            write_once(address, batches, callers=2)
        with pytest.raises(grpc.RpcError):
            write_streams(address, batches, callers=1, duration_s=0.1)
        stream = PacedStream(address, batches, rate=100)
        with pytest.raises(grpc.RpcError):
            stream.end()
