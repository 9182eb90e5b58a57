"""Posts written and deleted over the wire, while the corpus is searched."""

import re
import threading
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from google.rpc import code_pb2

from integration.conftest import QUICK
from integration.wire import Stubs, failure, open_stubs, user, violations
from phoenix_retrieval.v1 import corpus_service_pb2 as pb
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from phoenix_server.config import ServeConfig
from server.cases import copied
from servers import run_server


@pytest.fixture(scope="module")
def shared(
    bundle_f32: Path, golden_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Stubs, None, None]:
    corpus = copied(golden_corpus, tmp_path_factory.mktemp("shared") / "corpus")
    engine = replace(QUICK, capacity=3100, max_labels=40)
    config = ServeConfig(bundle=bundle_f32, corpus=corpus, shards=2, engine=engine)
    with run_server(config) as server, open_stubs(server.address) as stubs:
        yield stubs


@pytest.fixture
def stubs(shared: Stubs) -> Generator[Stubs, None, None]:
    """Yield a server's stubs; posts of ids below 4,000 are deleted afterwards."""
    yield shared
    shared.delete(*range(1, 4000))


def test_a_post_is_found_once_it_is_written_and_no_more_once_it_is_deleted(stubs: Stubs) -> None:
    before, start = stubs.retrieve(), stubs.state().sequence
    mine = stubs.user_vector()
    written = stubs.upsert(
        *(41, 42),
        author_ids=[1, 2],
        created_at_unix_ms=[10**12, 0],
        label_names=["cats", "dogs"],
        label_counts=[1, 2],
        label_indices=[1, 0, 1],
        vectors=mine + [-x for x in mine],
    )
    assert (written.sequence, written.inserted, written.replaced) == (start + 1, 2, 0)
    answer = stubs.retrieve(
        min_sequence=start + 1, return_author_ids=True, return_labels=True, return_created_at=True
    )
    assert answer.post_ids[0] == 41
    assert answer.post_ids[1:] == before.post_ids[:4]
    assert answer.scores[0] == pytest.approx(1, abs=1e-5)
    assert (answer.author_ids[0], answer.created_at_unix_ms[0]) == (1, 10**12)
    assert answer.label_names[answer.label_indices[0]] == "dogs"
    assert (answer.rows_scanned, answer.rows_eligible) == (3002, 3002)
    assert answer.sequence == start + 1
    deleted = stubs.delete(41, 43)
    assert (deleted.sequence, deleted.deleted) == (start + 2, 1)
    after = stubs.retrieve()
    assert after.post_ids == before.post_ids
    assert (after.rows_scanned, after.sequence) == (3001, start + 2)


def test_a_written_post_replaces_the_one_with_its_id(stubs: Stubs) -> None:
    mine = stubs.user_vector()
    stubs.upsert(9, author_ids=[4], vectors=mine)
    assert stubs.retrieve().post_ids[0] == 9
    written = stubs.upsert(
        9,
        author_ids=[5],
        vectors=[-x for x in mine],
        label_names=["new"],
        label_counts=[1],
        label_indices=[0],
    )
    assert (written.inserted, written.replaced) == (0, 1)
    assert 9 not in stubs.retrieve(top_k=100).post_ids
    found = stubs.posts(9, 1, 9)
    assert (list(found.post_ids), list(found.missing_post_ids)) == ([9, 9], [1])
    assert list(found.author_ids) == [5, 5]
    assert (list(found.label_names), list(found.label_counts)) == (["new"], [1, 1])


def test_posts_without_vectors_are_encoded_by_the_candidate_tower(stubs: Stubs) -> None:
    ids = list(range(1001, 1072))
    stubs.upsert(*ids, author_ids=ids)
    vectors = stubs.encode(ids, ids)
    scored = stubs.retrieval.ScorePosts(retrieval_pb.ScorePostsRequest(user=user(), post_ids=ids))
    np.testing.assert_allclose(scored.scores, vectors @ np.array(stubs.user_vector()), atol=1e-5)


def test_a_stream_of_posts_is_written_message_by_message(stubs: Stubs) -> None:
    vector = stubs.user_vector()

    def changes(*posts: tuple[int, int]) -> Iterator[pb.StreamUpsertPostsRequest]:
        for post, author in posts:
            change = pb.UpsertPostsRequest(post_ids=[post], author_ids=[author], vectors=vector)
            yield pb.StreamUpsertPostsRequest(change=change)

    response = stubs.corpus.StreamUpsertPosts(changes((1, 1), (2, 1), (1, 1)))
    assert (response.inserted, response.replaced) == (2, 1)
    assert response.sequence == stubs.state().sequence
    bad = changes((3, 1), (4, 0), (5, 1))
    assert violations(lambda: stubs.corpus.StreamUpsertPosts(bad)) == {
        "change.author_ids[0]": "is 0, which is no id"
    }
    assert stubs.missing(1, 2, 3, 4, 5) == [4, 5]


def test_a_stream_ends_when_a_change_fails_although_no_other_comes(stubs: Stubs) -> None:
    vector, ended = stubs.user_vector(), threading.Event()

    def changes() -> Iterator[pb.StreamUpsertPostsRequest]:
        for ids in ([1], range(1, 102), [2]):
            change = pb.UpsertPostsRequest(post_ids=ids, author_ids=ids, vectors=vector * len(ids))
            yield pb.StreamUpsertPostsRequest(change=change)
        ended.wait()

    status = failure(lambda: stubs.corpus.StreamUpsertPosts(changes()))
    ended.set()
    assert status.code == code_pb2.RESOURCE_EXHAUSTED
    assert "room for 99 more posts of 3100, 100 came" in status.message
    assert stubs.missing(1, 2) == [2]  # what comes after the change that failed


def test_a_full_corpus_refuses_posts_but_replaces_those_it_has(stubs: Stubs) -> None:
    vector = stubs.user_vector()
    ids = list(range(1, 102))
    status = failure(lambda: stubs.upsert(*ids, vectors=vector * 101))
    assert status.code == code_pb2.RESOURCE_EXHAUSTED
    assert "room for 100 more posts of 3100, 101 came; a larger --capacity" in status.message
    assert not status.details
    assert stubs.upsert(*ids[:100], vectors=vector * 100).inserted == 100
    assert stubs.upsert(*ids[:100], vectors=vector * 100).replaced == 100
    state = stubs.state()
    assert (state.rows, state.capacity) == (3100, 3100)


def test_too_many_labels_are_refused(stubs: Stubs) -> None:
    """Those of no post make room; those of posts do not."""
    before = stubs.state()
    names = [f"label {n}" for n in range(40)]
    labels = {
        "label_names": names,
        "label_counts": [len(names)],
        "label_indices": range(len(names)),
    }
    vector = stubs.user_vector()
    status = failure(lambda: stubs.upsert(1, vectors=vector, **labels))
    assert status.code == code_pb2.RESOURCE_EXHAUSTED
    assert re.search(r"has [1-9]\d* of at most 40 labels, 40 more came", status.message)
    assert stubs.state() == before


def test_a_call_that_waits_for_a_change_ends_at_its_deadline(stubs: Stubs) -> None:
    request = retrieval_pb.RetrieveRequest(user=user(), top_k=1, min_sequence=10**6)
    status = failure(lambda: stubs.retrieval.Retrieve(request, timeout=0.3))
    assert status.code == code_pb2.DEADLINE_EXCEEDED
