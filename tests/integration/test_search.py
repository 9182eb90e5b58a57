"""Vectors and posts as queries, over the wire."""

from collections.abc import Iterator

import pytest
from google.rpc import code_pb2, error_details_pb2

from integration.wire import Stubs, connect, failure, open_stubs, violations
from phoenix_client import AsyncPhoenixClient, Filter, NotFoundError, RetrieveResult, User
from phoenix_client.errors import PhoenixClientError
from phoenix_retrieval.v1 import retrieval_service_pb2 as pb


@pytest.fixture(scope="module", params=["server_f32", "server_f32_sharded", "server_bf16"])
def server(request: pytest.FixtureRequest) -> str:
    """Return the address of a server: with one shard, with seven, and in bfloat16."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def limited(server_f32: str) -> Iterator[Stubs]:
    """Yield the stubs of a server with low limits."""
    with open_stubs(server_f32) as stubs:
        yield stubs


def _search(stubs: Stubs, **fields: object) -> pb.SearchResponse:
    return stubs.retrieval.Search(pb.SearchRequest(**fields))  # pyright: ignore[reportArgumentType]


def _all(results: list[RetrieveResult | PhoenixClientError]) -> list[RetrieveResult]:
    return [result for result in results if isinstance(result, RetrieveResult)]


def test_representations_give_the_answers_of_their_users(server: str) -> None:
    best = Filter(min_score=0.0)
    with connect(server) as client:
        users = [User(user_id=n) for n in (1, 2, 3)]
        expected = [
            client.retrieve(each, top_k=20, filter=best, with_representation=True) for each in users
        ]
        vectors = [each.user_representation or () for each in expected]
        found = client.search(vectors=vectors, top_k=20, filter=best, with_representation=True)
    assert found == expected


async def test_posts_like_a_post_are_those_of_its_vector_without_itself(server: str) -> None:
    async with AsyncPhoenixClient(server) as client:
        some = await client.retrieve(User(user_id=1), top_k=3)
        posts = some.candidates.post_ids
        with_it = _all(
            await client.search(
                post_ids=posts, top_k=9, include_query_posts=True, with_representation=True
            )
        )
        vectors = [each.user_representation or () for each in with_it]
        by_vector = await client.search(vectors=vectors, top_k=9, with_representation=True)
        without = _all(await client.search(post_ids=posts, top_k=8))
    assert by_vector == with_it
    for post, one, other in zip(posts, with_it, without, strict=True):
        assert one.candidates.post_ids == (post, *other.candidates.post_ids)
        assert one.rows_eligible == other.rows_eligible + 1 == one.rows_scanned


def test_posts_that_the_corpus_does_not_hold_are_named(limited: Stubs) -> None:
    held = limited.retrieve(top_k=1).post_ids
    status = failure(lambda: _search(limited, post_ids=[5, *held, 2**64 - 1], top_k=1))
    assert status.code == code_pb2.NOT_FOUND
    missing = [error_details_pb2.ResourceInfo() for _ in status.details]
    for detail, resource in zip(status.details, missing, strict=True):
        assert detail.Unpack(resource)
    assert [resource.resource_name for resource in missing] == ["5", str(2**64 - 1)]


@pytest.mark.parametrize(
    ("fields", "field", "description"),
    [
        ({}, "vectors", "has 0 entries, must have 128 for each of 1 to 8 vectors"),
        ({"vectors": [1.0] * 129}, "vectors", "has 129 entries"),
        ({"vectors": [1.0] * 1152}, "vectors", "has 1152 entries"),
        ({"vectors": [0.0] * 128}, "vectors[0:128]", "vector 0 has length 0, not 1"),
        (
            {"vectors": [1.0] + [0.0] * 127 + [float("nan")] * 128},
            "vectors[128:256]",
            "vector 1 is not finite",
        ),
        ({"post_ids": [1] * 9}, "post_ids", "has 9 entries, must have from 1 to 8"),
        ({"post_ids": [0]}, "post_ids[0]", "is 0, which is no id"),
        ({"post_ids": [1], "vectors": [1.0]}, "post_ids", "vectors are given too"),
        ({"post_ids": [1], "top_k": 4001}, "top_k", "is 4001, must be from 1 to 4000"),
        (
            {"post_ids": [1], "filter": pb.Filter(excluded_author_ids=[0])},
            "filter.excluded_author_ids[0]",
            "is 0, which is no id",
        ),
    ],
)
def test_an_invalid_field_is_named(
    fields: dict[str, object], field: str, description: str, limited: Stubs
) -> None:
    found = violations(lambda: _search(limited, **{"top_k": 1, **fields}))
    assert list(found) == [field]
    assert description in found[field]


def test_a_post_is_searched_by_as_it_was_written(served: Stubs) -> None:
    mine = served.user_vector()
    written = served.upsert(41, vectors=[-x for x in mine])
    options = {"post_ids": [41], "top_k": 3, "min_sequence": written.sequence}
    (found,) = _search(served, **options, return_user_representation=True).results
    assert found.response.user_representation == [-x for x in mine]
    assert 41 not in found.response.post_ids
    assert found.response.sequence == written.sequence
    written = served.upsert(41, vectors=mine)
    (found,) = _search(served, **options, include_query_posts=True).results
    assert found.response.post_ids[0] == 41
    assert found.response.post_ids == served.retrieve(top_k=3).post_ids
    served.delete(41)
    assert failure(lambda: _search(served, **options)).code == code_pb2.NOT_FOUND
    assert served.stats().compilations_after_ready == 0


def test_a_search_waits_for_a_change_until_its_deadline(served: Stubs) -> None:
    request = pb.SearchRequest(post_ids=[5], top_k=1, min_sequence=10**6)
    status = failure(lambda: served.retrieval.Search(request, timeout=0.3))
    assert status.code == code_pb2.DEADLINE_EXCEEDED


def test_not_found_lists_the_posts_to_the_client(server_f32: str) -> None:
    with connect(server_f32) as client, pytest.raises(NotFoundError) as caught:
        client.search(post_ids=[5, 6], top_k=1)
    assert caught.value.missing_post_ids == (5, 6)
