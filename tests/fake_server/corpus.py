"""The part of the small server that keeps a corpus: `CorpusService`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from google.protobuf.message import Message

from phoenix_retrieval.v1 import corpus_service_pb2 as corpus_pb2
from phoenix_retrieval.v1 import corpus_service_pb2_grpc

Context = Any  # the generated stubs want a context that is sync and async at once

CAPACITY = 2**40
MAX_LABELS = 64
BUILT_AT = datetime(2026, 5, 1, 12, 30, 0, 123_000, UTC)


class Held(NamedTuple):
    author_id: int
    created_at_unix_ms: int
    labels: tuple[str, ...]


def _as_built() -> corpus_pb2.CorpusSnapshot:
    return corpus_pb2.CorpusSnapshot(rows=2**33, size_bytes=2**40, created_at=BUILT_AT)


@dataclass
class FakeCorpus(corpus_service_pb2_grpc.CorpusServiceServicer):
    """A corpus without vectors."""

    held: dict[int, Held] = field(default_factory=dict[int, Held])
    sequence: int = 0
    read_only: bool = False
    evicted: int = 0  # by each change
    snapshots: list[corpus_pb2.CorpusSnapshot] = field(default_factory=lambda: [_as_built()])

    def _enter(self, request: Message, context: Context) -> Any:
        """Note a request; return the reply that the test wants instead of the right one, if any."""
        raise NotImplementedError

    def UpsertPosts(
        self, request: corpus_pb2.UpsertPostsRequest, context: Context
    ) -> corpus_pb2.UpsertPostsResponse:
        return self._enter(request, context) or self._upsert(request)

    def StreamUpsertPosts(
        self, request_iterator: Iterator[corpus_pb2.StreamUpsertPostsRequest], context: Context
    ) -> corpus_pb2.StreamUpsertPostsResponse:
        reply = corpus_pb2.StreamUpsertPostsResponse()
        for request in request_iterator:
            self._enter(request, context)
            done = self._upsert(request.change)
            reply.sequence = done.sequence
            reply.inserted += done.inserted
            reply.replaced += done.replaced
            reply.evicted += done.evicted
        return reply

    def DeletePosts(
        self, request: corpus_pb2.DeletePostsRequest, context: Context
    ) -> corpus_pb2.DeletePostsResponse:
        if reply := self._enter(request, context):
            return reply
        self.sequence += 1
        found = [post_id for post_id in request.post_ids if self.held.pop(post_id, None)]
        return corpus_pb2.DeletePostsResponse(sequence=self.sequence, deleted=len(found))

    def GetPosts(
        self, request: corpus_pb2.GetPostsRequest, context: Context
    ) -> corpus_pb2.GetPostsResponse:
        if reply := self._enter(request, context):
            return reply
        found = [post_id for post_id in request.post_ids if post_id in self.held]
        names = sorted({name for post_id in found for name in self.held[post_id].labels})
        return corpus_pb2.GetPostsResponse(
            post_ids=found,
            author_ids=[self.held[post_id].author_id for post_id in found],
            created_at_unix_ms=[self.held[post_id].created_at_unix_ms for post_id in found],
            label_names=names,
            label_counts=[len(self.held[post_id].labels) for post_id in found],
            label_indices=[names.index(n) for post_id in found for n in self.held[post_id].labels],
            missing_post_ids=[post_id for post_id in request.post_ids if post_id not in self.held],
            sequence=self.sequence,
        )

    def GetCorpus(
        self, request: corpus_pb2.GetCorpusRequest, context: Context
    ) -> corpus_pb2.GetCorpusResponse:
        return self._enter(request, context) or corpus_pb2.GetCorpusResponse(
            rows=len(self.held),
            capacity=CAPACITY,
            label_names=sorted({name for post in self.held.values() for name in post.labels}),
            max_labels=MAX_LABELS,
            sequence=self.sequence,
            snapshot_sequence=0,
            journal_posts=self.sequence,
            newest_created_at_unix_ms=max(
                (post.created_at_unix_ms for post in self.held.values()), default=0
            ),
            read_only=self.read_only,
            evict_oldest=self.evicted > 0,
        )

    def CreateSnapshot(
        self, request: corpus_pb2.CreateSnapshotRequest, context: Context
    ) -> corpus_pb2.CreateSnapshotResponse:
        if reply := self._enter(request, context):
            return reply
        if self.sequence != self.snapshots[-1].sequence:
            self.snapshots.append(
                corpus_pb2.CorpusSnapshot(
                    sequence=self.sequence,
                    rows=len(self.held),
                    size_bytes=2**40 + self.sequence,
                    created_at=BUILT_AT + timedelta(hours=self.sequence),
                    directory=f"snapshots/{self.sequence}",
                )
            )
        return corpus_pb2.CreateSnapshotResponse(snapshot=self.snapshots[-1])

    def ListSnapshots(
        self, request: corpus_pb2.ListSnapshotsRequest, context: Context
    ) -> corpus_pb2.ListSnapshotsResponse:
        return self._enter(request, context) or corpus_pb2.ListSnapshotsResponse(
            snapshots=self.snapshots
        )

    def _upsert(self, request: corpus_pb2.UpsertPostsRequest) -> corpus_pb2.UpsertPostsResponse:
        self.sequence += 1
        replaced = sum(post_id in self.held for post_id in request.post_ids)
        count = len(request.post_ids)
        ends = accumulate(request.label_counts or [0] * count, initial=0)
        names = [request.label_names[index] for index in request.label_indices]
        labels = [tuple(names[start:end]) for start, end in pairwise(ends)]
        times = request.created_at_unix_ms or [0] * count
        rows = zip(request.author_ids, times, labels, strict=True)
        self.held.update(zip(request.post_ids, map(Held._make, rows), strict=True))
        return corpus_pb2.UpsertPostsResponse(
            sequence=self.sequence,
            inserted=count - replaced,
            replaced=replaced,
            evicted=self.evicted,
        )
