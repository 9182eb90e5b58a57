"""`CorpusService` over a fake update worker: what is written, and how the corpus is described."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from phoenix_retrieval.v1 import corpus_service_pb2 as pb
from phoenix_retrieval.v1.manifest_pb2 import CorpusManifest, File
from phoenix_server.config import Limits
from phoenix_server.corpus.changes import Change, ChangeResult, Labels, PostColumns, Posts
from phoenix_server.errors import InvalidRequestError, ReadOnlyError
from phoenix_server.service.corpus import CorpusServicer
from phoenix_server.service.state import ServingState
from server.corpus.change_cases import id_array

_CONTEXT = cast(Any, SimpleNamespace(time_remaining=lambda: None))


class _Updates:
    """Records the changes."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.is_read_only = False

    def check_open(self) -> None:
        if self.is_read_only:
            raise ReadOnlyError("read-only")

    async def submit(self, change: Change) -> ChangeResult:
        self.changes.append(change)
        return ChangeResult(9, inserted=1, replaced=2, deleted=3, evicted=4)


class _Corpus:
    """Holds post 5."""

    layout = SimpleNamespace(width=2)
    max_labels = 9

    def look_up(self, ids: Any) -> tuple[Any, PostColumns, int]:
        labels = Labels(("a", "b"), np.array([1], np.int32), np.array([1], np.int32))
        posts = PostColumns(
            post_ids=id_array(5),
            author_ids=id_array(2**64 - 1),
            created_at_unix_ms=np.array([7]),
            labels=labels,
        )
        return ids == 5, posts, 9


@pytest.fixture
def updates() -> _Updates:
    return _Updates()


@pytest.fixture
def servicer(updates: _Updates) -> CorpusServicer:
    engine = SimpleNamespace(corpus=_Corpus(), tower="f" * 64)
    manager: Any = SimpleNamespace(active=SimpleNamespace(engine=engine), updates=updates)
    return CorpusServicer(ServingState(manager, Limits(max_candidates=3)))


def _upsert(**fields: Any) -> pb.UpsertPostsRequest:
    columns: dict[str, Any] = {"post_ids": [5, 6], "author_ids": [7, 8]}
    return pb.UpsertPostsRequest(**columns | fields)


async def test_posts_with_vectors_are_written_as_of_the_active_towers(
    updates: _Updates, servicer: CorpusServicer
) -> None:
    response = await servicer.UpsertPosts(_upsert(vectors=[1, 0, 0, 1]), _CONTEXT)
    assert response == pb.UpsertPostsResponse(sequence=9, inserted=1, replaced=2, evicted=4)
    (posts,) = updates.changes
    assert isinstance(posts, Posts)
    assert (posts.post_ids.tolist(), posts.vectors.tolist()) == ([5, 6], [[1, 0], [0, 1]])
    assert posts.tower == "f" * 64


async def test_posts_are_refused_before_they_are_encoded(
    updates: _Updates, servicer: CorpusServicer
) -> None:
    updates.is_read_only = True
    with pytest.raises(ReadOnlyError):
        await servicer.UpsertPosts(_upsert(), _CONTEXT)
    assert not updates.changes


async def test_errors_of_a_stream_name_the_field_of_the_message(servicer: CorpusServicer) -> None:
    async def requests() -> AsyncGenerator[pb.StreamUpsertPostsRequest, None]:
        yield pb.StreamUpsertPostsRequest(change=_upsert(author_ids=[7, 0], vectors=[1, 0, 0, 1]))

    with pytest.raises(InvalidRequestError) as caught:
        await servicer.StreamUpsertPosts(requests(), _CONTEXT)
    assert [violation.field for violation in caught.value.violations] == ["change.author_ids[1]"]


async def test_posts_are_deleted(updates: _Updates, servicer: CorpusServicer) -> None:
    response = await servicer.DeletePosts(pb.DeletePostsRequest(post_ids=[6, 5]), _CONTEXT)
    assert response == pb.DeletePostsResponse(sequence=9, deleted=3)
    (ids,) = updates.changes
    assert not isinstance(ids, Posts)
    assert ids.tolist() == [6, 5]
    for post_ids in ([], [5, 5], [1, 2, 3, 4]):
        with pytest.raises(InvalidRequestError, match="post_ids"):
            await servicer.DeletePosts(pb.DeletePostsRequest(post_ids=post_ids), _CONTEXT)


async def test_looked_up_posts_have_their_columns_and_the_others_are_missing(
    servicer: CorpusServicer,
) -> None:
    request = pb.GetPostsRequest(post_ids=[6, 5, 2**64 - 1])
    assert await servicer.GetPosts(request, _CONTEXT) == pb.GetPostsResponse(
        post_ids=[5],
        author_ids=[2**64 - 1],
        created_at_unix_ms=[7],
        label_names=["a", "b"],
        label_counts=[1],
        label_indices=[1],
        missing_post_ids=[6, 2**64 - 1],
        sequence=9,
    )


async def test_snapshots_are_listed_with_their_size_and_place(
    updates: Any, servicer: CorpusServicer
) -> None:
    path = Path("corpus")
    files = [File(path="a", size_bytes=100), File(path="b", size_bytes=23)]
    built = SimpleNamespace(path=path, manifest=CorpusManifest(rows=5, files=files))
    later = SimpleNamespace(
        path=path / "snapshots" / "7", manifest=CorpusManifest(sequence=7, rows=6)
    )
    updates.store = SimpleNamespace(path=path, list_snapshots=lambda: [built, later])
    response = await servicer.ListSnapshots(pb.ListSnapshotsRequest(), _CONTEXT)
    first, second = response.snapshots
    assert (first.rows, first.size_bytes, first.directory) == (5, 123, "")
    assert (second.sequence, second.rows, second.directory) == (7, 6, "snapshots/7")
