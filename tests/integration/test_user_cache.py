"""Users who are asked for again, through every call that encodes one."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from integration.generation_cases import retrieve, serve
from integration.wire import Stubs, user
from phoenix_retrieval.v1 import retrieval_service_pb2 as pb
from phoenix_server.config import ServeConfig


@pytest.fixture
def served_two(config: ServeConfig) -> Iterator[Stubs]:
    """Yield a server that keeps two users."""
    with serve(replace(config, user_cache=2)) as stubs:
        yield stubs


def _counts(stubs: Stubs) -> tuple[int, int, int]:
    stats = stubs.stats()
    return stats.user_cache_hits, stats.user_cache_misses, stats.user_cache_users


def _encode(stubs: Stubs, user_id: int) -> pb.EncodeUserResponse:
    return stubs.retrieval.EncodeUser(pb.EncodeUserRequest(user=user(user_id=user_id)))


def test_every_call_for_a_user_finds_what_another_kept(served_two: Stubs) -> None:
    encoded = _encode(served_two, 7)
    assert _counts(served_two) == (0, 1, 1)
    answer = retrieve(served_two)
    assert answer.user_representation == encoded.user_representation
    request = pb.RetrieveRequest(user=user(), top_k=3, return_user_representation=True)
    batch = pb.BatchRetrieveRequest(requests=[request] * 3)
    for result in served_two.retrieval.BatchRetrieve(batch).results:
        assert result.response.user_representation == encoded.user_representation
        assert result.response.post_ids == answer.post_ids[:3]
    assert _encode(served_two, 7) == encoded
    scored = served_two.retrieval.ScorePosts(
        pb.ScorePostsRequest(user=user(), post_ids=answer.post_ids)
    )
    assert scored.scores == answer.scores
    assert _counts(served_two) == (6, 1, 1)


def test_the_cache_is_bounded(served_two: Stubs) -> None:
    for user_id in (1, 2, 1, 3, 1, 2):
        _encode(served_two, user_id)
    assert _counts(served_two) == (2, 4, 2)


def test_a_server_may_keep_no_users(config: ServeConfig) -> None:
    with serve(replace(config, user_cache=0)) as stubs:
        assert retrieve(stubs) == retrieve(stubs)
        assert _counts(stubs) == (0, 0, 0)
