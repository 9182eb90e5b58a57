"""`CorpusService`: change the corpus, look posts up, and write snapshots."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path

from phoenix_retrieval.v1 import corpus_service_pb2 as pb
from phoenix_retrieval.v1 import corpus_service_pb2_grpc
from phoenix_server.corpus.changes import ChangeResult, Posts
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.corpus.post_rules import clock_ms
from phoenix_server.errors import InvalidRequestError
from phoenix_server.service.columns import read_ids
from phoenix_server.service.encode_posts import encode_posts
from phoenix_server.service.requests import read_distinct_ids
from phoenix_server.service.state import Context, ServingState
from phoenix_server.service.upsert_request import read_posts
from phoenix_server.service.upsert_stream import apply_in_order


class CorpusServicer(corpus_service_pb2_grpc.CorpusServiceServicer):
    """Serves the corpus of the active generation."""

    def __init__(self, state: ServingState) -> None:
        self._state = state

    async def UpsertPosts(
        self, request: pb.UpsertPostsRequest, context: Context
    ) -> pb.UpsertPostsResponse:
        """Write posts."""
        posts = await self._read(request, context.time_remaining())
        return pb.UpsertPostsResponse(**_written(await self._state.updates.submit(posts)))

    async def StreamUpsertPosts(
        self, request_iterator: AsyncIterator[pb.StreamUpsertPostsRequest], context: Context
    ) -> pb.StreamUpsertPostsResponse:
        """Write posts; the next message is read while earlier ones are written."""

        async def changes() -> AsyncGenerator[Posts, None]:
            async for request in request_iterator:
                try:
                    yield await self._read(request.change, context.time_remaining())
                except InvalidRequestError as exc:
                    raise exc.within("change") from exc

        done = await apply_in_order(self._state.updates, changes())
        return pb.StreamUpsertPostsResponse(**_written(done))

    async def DeletePosts(
        self, request: pb.DeletePostsRequest, context: Context
    ) -> pb.DeletePostsResponse:
        """Delete posts."""
        updates = self._state.updates
        ids = read_distinct_ids(request.post_ids, self._state.limits.max_candidates)
        done = await updates.submit(ids)
        return pb.DeletePostsResponse(sequence=done.sequence, deleted=done.deleted)

    async def GetPosts(self, request: pb.GetPostsRequest, context: Context) -> pb.GetPostsResponse:
        """Look posts up."""
        corpus = self._state.generation.engine.corpus
        ids = read_ids("post_ids", request.post_ids, self._state.limits.max_candidates)
        held, posts, sequence = corpus.look_up(ids)
        return pb.GetPostsResponse(
            post_ids=posts.post_ids.tolist(),
            author_ids=posts.author_ids.tolist(),
            created_at_unix_ms=posts.created_at_unix_ms.tolist(),
            label_names=posts.labels.names,
            label_counts=posts.labels.counts.tolist(),
            label_indices=posts.labels.indices.tolist(),
            missing_post_ids=ids[~held].tolist(),
            sequence=sequence,
        )

    async def GetCorpus(
        self, request: pb.GetCorpusRequest, context: Context
    ) -> pb.GetCorpusResponse:
        """Describe the corpus."""
        corpus, updates = self._state.generation.engine.corpus, self._state.updates
        return pb.GetCorpusResponse(
            rows=len(corpus),
            capacity=corpus.capacity,
            label_names=sorted(corpus.labels.names),
            max_labels=corpus.max_labels,
            sequence=corpus.sequence,
            snapshot_sequence=updates.store.snapshot.manifest.sequence,
            journal_posts=updates.journal_posts,
            newest_created_at_unix_ms=corpus.newest_created_at_unix_ms(),
            read_only=updates.store.read_only,
            evict_oldest=updates.evict_oldest,
        )

    async def CreateSnapshot(
        self, request: pb.CreateSnapshotRequest, context: Context
    ) -> pb.CreateSnapshotResponse:
        """Write a snapshot of the corpus."""
        updates = self._state.updates
        snapshot = await updates.snapshot()
        return pb.CreateSnapshotResponse(snapshot=_describe(snapshot, updates.store.path))

    async def ListSnapshots(
        self, request: pb.ListSnapshotsRequest, context: Context
    ) -> pb.ListSnapshotsResponse:
        """List the snapshots on the disk."""
        store = self._state.updates.store
        snapshots = await asyncio.to_thread(store.list_snapshots)
        return pb.ListSnapshotsResponse(
            snapshots=[_describe(snapshot, store.path) for snapshot in snapshots]
        )

    async def _read(self, request: pb.UpsertPostsRequest, timeout_s: float | None) -> Posts:
        """Validate posts, and encode them if they come without vectors."""
        generation = self._state.generation
        self._state.updates.check_open()  # before posts are encoded
        posts = read_posts(
            request,
            limit=self._state.limits.max_candidates,
            max_labels=generation.engine.corpus.max_labels,
            width=generation.engine.corpus.layout.width,
            now_ms=clock_ms(),
        )
        posts = replace(posts, tower=generation.engine.tower)
        if request.vectors:
            return posts
        vectors = await encode_posts(generation, posts.post_ids, posts.author_ids, timeout_s)
        return replace(posts, vectors=vectors)


def _written(done: ChangeResult) -> dict[str, int]:
    """Return the fields of a reply to posts that were written: all results but `deleted`."""
    return {name: count for name, count in done._asdict().items() if name != "deleted"}


def _describe(snapshot: Snapshot, corpus: Path) -> pb.CorpusSnapshot:
    manifest = snapshot.manifest
    inside = snapshot.path.relative_to(corpus).as_posix()
    return pb.CorpusSnapshot(
        sequence=manifest.sequence,
        rows=manifest.rows,
        size_bytes=sum(file.size_bytes for file in manifest.files),
        created_at=manifest.created_at,
        directory="" if inside == "." else inside,
    )
