"""Changes of the corpus, on the wire, while it is searched and across restarts."""

import os
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2

from integration.conftest import COMPILED_FOR, SMALL
from integration.test_requests import failure, user, violations
from phoenix_retrieval.v1 import corpus_service_pb2 as pb
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from phoenix_retrieval.v1.corpus_service_pb2_grpc import CorpusServiceStub
from phoenix_retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from phoenix_server.config import EngineConfig, ServeConfig
from phoenix_server.corpus.disk.snapshot import open_snapshot, verify
from phoenix_server.engine.engine import Engine
from phoenix_server.errors import CorpusError, InvalidRequestError
from phoenix_server.generations import loader
from phoenix_server.service.upsert_request import read_posts
from running import run_server, spawn_server
from server.cases import copied

_ENGINE = EngineConfig(
    batch_sizes=(1, 4),
    history_lengths=(16,),
    result_sizes=(),
    max_top_k=100,
    capacity=3100,
    max_labels=40,
)


@dataclass(frozen=True)
class Stubs:
    """The services of one server."""

    corpus: CorpusServiceStub
    retrieval: RetrievalServiceStub

    def retrieve(self, top_k: int = 5, **options: Any) -> retrieval_pb.RetrieveResponse:
        request = retrieval_pb.RetrieveRequest(user=user(), top_k=top_k, **options)
        return self.retrieval.Retrieve(request)


@contextmanager
def _stubs(address: str) -> Generator[Stubs, None, None]:
    with grpc.insecure_channel(address) as channel:
        yield Stubs(CorpusServiceStub(channel), RetrievalServiceStub(channel))


@pytest.fixture
def corpus(golden_corpus: Path, tmp_path: Path) -> Path:
    """Return a corpus of one's own."""
    return copied(golden_corpus, tmp_path / "corpus")


@pytest.fixture
def config(bundle_f32: Path, corpus: Path) -> ServeConfig:
    engine = replace(SMALL, user_batches=(1,), batch_sizes=(1,), history_lengths=())
    return ServeConfig(bundle=bundle_f32, corpus=corpus, shards=1, engine=engine)


@pytest.fixture(scope="module")
def shared(
    bundle_f32: Path, golden_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Stubs, None, None]:
    corpus = copied(golden_corpus, tmp_path_factory.mktemp("shared") / "corpus")
    config = ServeConfig(bundle=bundle_f32, corpus=corpus, shards=2, engine=_ENGINE)
    with run_server(config) as server, _stubs(server.address) as stubs:
        yield stubs


@pytest.fixture
def stubs(shared: Stubs) -> Generator[Stubs, None, None]:
    """Yield a server's stubs; posts of ids below 4,000 are deleted afterwards."""
    yield shared
    shared.corpus.DeletePosts(pb.DeletePostsRequest(post_ids=range(1, 4000)))


def _state(stubs: Stubs) -> pb.GetCorpusResponse:
    return stubs.corpus.GetCorpus(pb.GetCorpusRequest())


def _vector_of(stubs: Stubs) -> list[float]:
    """Return the test user's own vector: no post can score higher."""
    response = stubs.retrieve(return_user_representation=True)
    return list(response.user_representation)


def test_a_post_is_found_once_it_is_written_and_no_more_once_it_is_deleted(stubs: Stubs) -> None:
    before, start = stubs.retrieve(), _state(stubs).sequence
    mine = _vector_of(stubs)
    request = pb.UpsertPostsRequest(
        post_ids=[41, 42],
        author_ids=[1, 2],
        created_at_unix_ms=[1000, 0],
        label_names=["cats", "dogs"],
        label_counts=[1, 2],
        label_indices=[1, 0, 1],
        vectors=mine + [-x for x in mine],
    )
    written = stubs.corpus.UpsertPosts(request)
    assert (written.sequence, written.inserted, written.replaced) == (start + 1, 2, 0)
    answer = stubs.retrieve(
        min_sequence=start + 1, return_author_ids=True, return_labels=True, return_created_at=True
    )
    assert answer.post_ids[0] == 41
    assert answer.post_ids[1:] == before.post_ids[:4]
    assert answer.scores[0] == pytest.approx(1, abs=1e-5)
    assert (answer.author_ids[0], answer.created_at_unix_ms[0]) == (1, 1000)
    assert answer.label_names[answer.label_indices[0]] == "dogs"
    assert (answer.rows_scanned, answer.rows_eligible) == (3002, 3002)
    assert answer.sequence == start + 1
    deleted = stubs.corpus.DeletePosts(pb.DeletePostsRequest(post_ids=[41, 43]))
    assert (deleted.sequence, deleted.deleted) == (start + 2, 1)
    after = stubs.retrieve()
    assert after.post_ids == before.post_ids
    assert (after.rows_scanned, after.sequence) == (3001, start + 2)


def test_a_post_takes_the_place_of_another_with_its_id(stubs: Stubs) -> None:
    mine = _vector_of(stubs)
    request = pb.UpsertPostsRequest(post_ids=[9], author_ids=[4], vectors=mine)
    stubs.corpus.UpsertPosts(request)
    assert stubs.retrieve().post_ids[0] == 9
    request = pb.UpsertPostsRequest(
        post_ids=[9],
        author_ids=[5],
        vectors=[-x for x in mine],
        label_names=["new"],
        label_counts=[1],
        label_indices=[0],
    )
    written = stubs.corpus.UpsertPosts(request)
    assert (written.inserted, written.replaced) == (0, 1)
    assert 9 not in stubs.retrieve(top_k=100).post_ids
    found = stubs.corpus.GetPosts(pb.GetPostsRequest(post_ids=[9, 1, 9]))
    assert (list(found.post_ids), list(found.missing_post_ids)) == ([9, 9], [1])
    assert list(found.author_ids) == [5, 5]
    assert (list(found.label_names), list(found.label_counts)) == (["new"], [1, 1])


def test_the_candidate_tower_encodes_posts_that_come_without_vectors(stubs: Stubs) -> None:
    ids = list(range(1001, 1072))
    stubs.corpus.UpsertPosts(pb.UpsertPostsRequest(post_ids=ids, author_ids=ids))
    encode = retrieval_pb.EncodeCandidatesRequest(post_ids=ids, author_ids=ids)
    response = stubs.retrieval.EncodeCandidates(encode)
    vectors = np.array(response.candidate_representations).reshape(71, -1)
    scored = stubs.retrieval.ScorePosts(retrieval_pb.ScorePostsRequest(user=user(), post_ids=ids))
    np.testing.assert_allclose(scored.scores, vectors @ np.array(_vector_of(stubs)), atol=1e-5)


def test_a_stream_of_posts_is_written_message_by_message(stubs: Stubs) -> None:
    vector = _vector_of(stubs)

    def changes(*posts: tuple[int, int]) -> Iterator[pb.StreamUpsertPostsRequest]:
        for post, author in posts:
            change = pb.UpsertPostsRequest(post_ids=[post], author_ids=[author], vectors=vector)
            yield pb.StreamUpsertPostsRequest(change=change)

    response = stubs.corpus.StreamUpsertPosts(changes((1, 1), (2, 1), (1, 1)))
    assert (response.inserted, response.replaced) == (2, 1)
    assert response.sequence == _state(stubs).sequence
    bad = changes((3, 1), (4, 0), (5, 1))
    assert violations(lambda: stubs.corpus.StreamUpsertPosts(bad)) == {
        "change.author_ids[0]": "is 0, which is no id"
    }
    found = stubs.corpus.GetPosts(pb.GetPostsRequest(post_ids=[1, 2, 3, 4, 5]))
    assert list(found.missing_post_ids) == [4, 5]


def test_a_full_corpus_refuses_posts_but_takes_others_in_place(stubs: Stubs) -> None:
    vector = _vector_of(stubs)
    ids = list(range(1, 102))
    request = pb.UpsertPostsRequest(post_ids=ids, author_ids=ids, vectors=vector * 101)
    status = failure(lambda: stubs.corpus.UpsertPosts(request))
    assert status.code == code_pb2.RESOURCE_EXHAUSTED
    assert "room for 100 more posts of 3100, 101 came; a larger --capacity" in status.message
    assert not status.details
    request = pb.UpsertPostsRequest(post_ids=ids[:100], author_ids=ids[:100], vectors=vector * 100)
    assert stubs.corpus.UpsertPosts(request).inserted == 100
    assert stubs.corpus.UpsertPosts(request).replaced == 100
    state = _state(stubs)
    assert (state.rows, state.capacity) == (3100, 3100)


def _posts(vector: list[float], *ids: int, time_ms: int) -> pb.UpsertPostsRequest:
    return pb.UpsertPostsRequest(
        post_ids=ids,
        author_ids=ids,
        created_at_unix_ms=[time_ms] * len(ids),
        vectors=vector * len(ids),
    )


def test_the_oldest_posts_make_room_for_others(config: ServeConfig, corpus: Path) -> None:
    columns = open_snapshot(corpus).columns()
    order = np.lexsort((columns.post_ids, columns.created_at_unix_ms))
    oldest = columns.post_ids[order].tolist()
    sizes = replace(config.engine, capacity=3010)
    config = replace(config, engine=sizes, evict_oldest=True)
    now_ms = int(columns.created_at_unix_ms.max())
    with run_server(config) as server, _stubs(server.address) as stubs:
        assert _state(stubs).evict_oldest
        mine = _vector_of(stubs)
        written = stubs.corpus.UpsertPosts(_posts(mine, *range(1, 8), time_ms=now_ms))
        assert (written.sequence, written.inserted, written.evicted) == (1, 7, 0)
        written = stubs.corpus.UpsertPosts(_posts(mine, *range(6, 16), time_ms=now_ms))
        assert (written.sequence, written.inserted, written.replaced) == (3, 8, 2)
        assert written.evicted == 5
        streamed = stubs.corpus.StreamUpsertPosts(
            pb.StreamUpsertPostsRequest(change=_posts(mine, n, n + 1, time_ms=now_ms))
            for n in range(20, 60, 2)
        )
        assert (streamed.inserted, streamed.evicted, streamed.sequence) == (40, 40, 43)
        older = stubs.corpus.UpsertPosts(_posts(mine, 99, time_ms=0))  # it does not evict itself
        assert (older.inserted, older.evicted) == (1, 1)
        newer = stubs.corpus.UpsertPosts(_posts(mine, 100, time_ms=now_ms))
        assert (newer.sequence, newer.inserted, newer.evicted) == (47, 1, 1)
        gone = [*oldest[:46], 99]
        found = stubs.corpus.GetPosts(pb.GetPostsRequest(post_ids=[*gone, *oldest[46:60], 100]))
        assert list(found.missing_post_ids) == gone
        before, state = stubs.retrieve(top_k=100), _state(stubs)
        assert (state.rows, state.capacity) == (3010, 3010)
    with run_server(config) as server, _stubs(server.address) as stubs:
        assert stubs.retrieve(top_k=100) == before
        assert _state(stubs) == state
        again = stubs.corpus.UpsertPosts(_posts(mine, 101, time_ms=now_ms))
        assert (again.sequence, again.evicted) == (49, 1)
        lookup = pb.GetPostsRequest(post_ids=oldest[46:48])
        assert list(stubs.corpus.GetPosts(lookup).missing_post_ids) == oldest[46:47]


def test_a_stream_ends_when_a_change_fails_although_no_other_comes(stubs: Stubs) -> None:
    vector, ended = _vector_of(stubs), threading.Event()

    def changes() -> Iterator[pb.StreamUpsertPostsRequest]:
        for ids in ([1], range(1, 102), [2]):
            change = _posts(vector, *ids, time_ms=1)
            yield pb.StreamUpsertPostsRequest(change=change)
        ended.wait(60)

    status = failure(lambda: stubs.corpus.StreamUpsertPosts(changes(), timeout=50))
    ended.set()
    assert status.code == code_pb2.RESOURCE_EXHAUSTED
    assert "room for 99 more posts of 3100, 100 came" in status.message
    found = stubs.corpus.GetPosts(pb.GetPostsRequest(post_ids=[1, 2]))
    assert list(found.missing_post_ids) == [2]  # what comes after the one that failed


def test_too_many_labels_are_refused(stubs: Stubs) -> None:
    before = _state(stubs)
    known = len(before.label_names)
    names = [f"label {n}" for n in range(41 - known)]
    request = pb.UpsertPostsRequest(
        post_ids=[1],
        author_ids=[1],
        vectors=_vector_of(stubs),
        label_names=names,
        label_counts=[len(names)],
        label_indices=range(len(names)),
    )
    status = failure(lambda: stubs.corpus.UpsertPosts(request))
    assert status.code == code_pb2.RESOURCE_EXHAUSTED
    assert f"has {known} of at most 40 labels, {41 - known} more came" in status.message
    assert _state(stubs) == before


def test_a_sequence_that_does_not_come_in_time_is_waited_for_in_vain(stubs: Stubs) -> None:
    request = retrieval_pb.RetrieveRequest(user=user(), top_k=1, min_sequence=10**6)
    status = failure(lambda: stubs.retrieval.Retrieve(request, timeout=0.3))
    assert status.code == code_pb2.DEADLINE_EXCEEDED


def test_changes_survive_a_kill(compiled_bundle: Path, corpus: Path) -> None:
    arguments = ("--bundle", str(compiled_bundle), "--corpus", str(corpus), *COMPILED_FOR)
    with spawn_server(*arguments) as (process, address), _stubs(address) as stubs:
        mine = _vector_of(stubs)
        request = pb.UpsertPostsRequest(post_ids=[7], author_ids=[1], vectors=mine)
        stubs.corpus.UpsertPosts(request)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with spawn_server(*arguments) as (_, address), _stubs(address) as stubs:
        assert stubs.retrieve().post_ids[0] == 7
        assert _state(stubs).sequence == 1


def test_a_snapshot_holds_the_changes_and_the_journal_those_since(
    config: ServeConfig, corpus: Path
) -> None:
    def write(stubs: Stubs, *ids: int) -> None:
        vectors = _vector_of(stubs) * len(ids)
        request = pb.UpsertPostsRequest(
            post_ids=ids,
            author_ids=ids,
            vectors=vectors,
            label_names=["a"],
            label_counts=[1] * len(ids),
            label_indices=[0] * len(ids),
        )
        stubs.corpus.UpsertPosts(request)

    with run_server(config) as server, _stubs(server.address) as stubs:
        for n in range(5):
            write(stubs, 7, 8 + n)
        stubs.corpus.DeletePosts(pb.DeletePostsRequest(post_ids=[8]))
        first = stubs.corpus.CreateSnapshot(pb.CreateSnapshotRequest()).snapshot
        assert (first.sequence, first.rows, first.directory) == (6, 3005, "snapshots/6")
        assert stubs.corpus.CreateSnapshot(pb.CreateSnapshotRequest()).snapshot == first
        state = _state(stubs)
        assert (state.snapshot_sequence, state.journal_posts) == (6, 0)
        for n in range(2):
            write(stubs, 20 + n)
            stubs.corpus.CreateSnapshot(pb.CreateSnapshotRequest())
        write(stubs, 30)
        listed = stubs.corpus.ListSnapshots(pb.ListSnapshotsRequest()).snapshots
        assert [each.sequence for each in listed] == [0, 7, 8]
        before, state = stubs.retrieve(top_k=100, return_labels=True), _state(stubs)
        assert (state.snapshot_sequence, state.journal_posts, state.sequence) == (8, 1, 9)
    verify(open_snapshot(corpus / "snapshots" / "8"))
    with run_server(config) as server, _stubs(server.address) as stubs:
        assert stubs.retrieve(top_k=100, return_labels=True) == before
        assert _state(stubs) == state


def test_one_server_takes_changes_and_others_only_read(config: ServeConfig) -> None:
    with run_server(config) as server, _stubs(server.address) as stubs:
        other = run_server(config)
        with pytest.raises(CorpusError, match="another server writes its changes"), other:
            pass
        mine = _vector_of(stubs)
        request = pb.UpsertPostsRequest(post_ids=[7], author_ids=[1], vectors=mine)
        stubs.corpus.UpsertPosts(request)
        with run_server(replace(config, read_only=True)) as other, _stubs(other.address) as reader:
            assert reader.retrieve().post_ids[0] == 7
            status = failure(lambda: reader.corpus.UpsertPosts(request))
            assert status.code == code_pb2.FAILED_PRECONDITION
            assert _state(reader).read_only


def test_a_snapshot_that_is_written_while_another_server_begins_is_taken_instead(
    config: ServeConfig, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = 0

    def make_engine(*arguments: Any) -> Engine:
        nonlocal loads
        loads += 1
        if loads == 1:
            request = pb.UpsertPostsRequest(post_ids=[8], author_ids=[1], vectors=mine)
            writer.corpus.UpsertPosts(request)
            writer.corpus.CreateSnapshot(pb.CreateSnapshotRequest())
        return Engine(*arguments)

    with run_server(config) as server, _stubs(server.address) as writer:
        mine = _vector_of(writer)
        writer.corpus.UpsertPosts(pb.UpsertPostsRequest(post_ids=[7], author_ids=[1], vectors=mine))
        monkeypatch.setattr(loader, "Engine", make_engine)
        with run_server(replace(config, read_only=True)) as other, _stubs(other.address) as reader:
            assert list(reader.retrieve().post_ids[:2]) == [7, 8]
            assert (_state(reader).sequence, _state(reader).snapshot_sequence) == (2, 2)
    assert loads == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"post_ids": []}, {"post_ids": "has 0 entries, must have from 1 to 4096"}),
        ({"post_ids": [1, 0]}, {"post_ids[1]": "is 0, which is no id"}),
        ({"post_ids": [3, 3]}, {"post_ids[1]": "is 3, as post_ids[0]"}),
        ({"author_ids": [1]}, {"author_ids": "has 1 entries, post_ids has 2"}),
        ({"author_ids": []}, {"author_ids": "has 0 entries, post_ids has 2"}),
        (
            {"created_at_unix_ms": [1]},
            {"created_at_unix_ms": "has 1 entries, post_ids has 2"},
        ),
        (
            {"created_at_unix_ms": [1, 2**63]},
            {
                "created_at_unix_ms[1]": "is 9223372036854775808, more than a day from now; it is "
                "in milliseconds since 1970"
            },
        ),
        (
            {"vectors": [1.0]},
            {"vectors": "has 1 entries, must have none or 128 for each of 2 posts"},
        ),
        (
            {"vectors": [1.0] + [0.0] * 127 + [0.5] + [0.0] * 127},
            {"vectors[128:256]": "has length 0.5, not 1"},
        ),
        (
            {"vectors": [float("nan")] * 128 + [1.0] + [0.0] * 127},
            {"vectors[0:128]": "is not finite"},
        ),
        ({"label_names": [""]}, {"label_names[0]": "is empty"}),
        ({"label_names": ["a", "a"]}, {"label_names": "has a name twice"}),
        ({"label_counts": [1]}, {"label_counts": "has 1 entries, post_ids has 2"}),
        (
            {"label_counts": [1, 1], "label_indices": [0], "label_names": ["a"]},
            {"label_indices": "has 1 entries, label_counts says 2"},
        ),
        (
            {"label_counts": [1, 0], "label_indices": [1], "label_names": ["a"]},
            {"label_indices[0]": "is 1, label_names has 1 entries"},
        ),
        (
            {"label_counts": [2, 0], "label_indices": [0, 0], "label_names": ["a"]},
            {"label_indices": "gives a post the same label twice"},
        ),
    ],
)
def test_a_mistake_in_posts_names_its_field(
    changes: dict[str, Any], expected: dict[str, str]
) -> None:
    fields: dict[str, Any] = {"post_ids": [3, 4], "author_ids": [1, 2], **changes}
    request = pb.UpsertPostsRequest(**fields)
    with pytest.raises(InvalidRequestError) as caught:
        read_posts(request, limit=4096, width=128, now_ms=1_700_000_000_000)
    assert {v.field: v.description for v in caught.value.violations}.items() >= expected.items()
