from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_retrieval.v1 import corpus_service_pb2 as corpus_pb
from phoenix_retrieval.v1 import retrieval_service_pb2 as pb
from phoenix_retrieval.v1.user_pb2 import User
from phoenix_server.config import Limits
from phoenix_server.errors import InvalidRequestError
from phoenix_server.search.eligibility import MAX_LABELS_PER_KIND
from phoenix_server.service.field_count import check_field_count, max_fields

_BATCH = pb.BatchRetrieveRequest.DESCRIPTOR
_UPSERT = corpus_pb.UpsertPostsRequest.DESCRIPTOR


def _passes(content: bytes, kind: Any, most: int) -> bool:
    try:
        check_field_count(content, kind, most)
    except InvalidRequestError:
        return False
    return True


def test_fields_of_messages_inside_count_too() -> None:
    one = pb.RetrieveRequest(user=User(user_id=1, post_ids=range(500)), top_k=300)
    one.filter.any_labels.extend("abc")
    content = pb.BatchRetrieveRequest(requests=[one, one]).SerializeToString()
    # Each: itself; user, its id and posts; top_k; filter and its three labels.
    assert _passes(content, _BATCH, 2 * 9)
    assert not _passes(content, _BATCH, 2 * 9 - 1)


@pytest.mark.parametrize("users", [256, 1000])
def test_the_largest_batch_within_all_limits_passes(users: int) -> None:
    limits = Limits(max_batch_users=users)
    names = [f"label {i}" for i in range(MAX_LABELS_PER_KIND)]
    batch = pb.BatchRetrieveRequest()
    for _ in range(users):
        user = User(user_id=1, post_ids=[1], author_ids=[1], action_masks=[1], product_surfaces=[1])
        one = batch.requests.add(user=user, top_k=5, min_sequence=1)
        for flag in ("user_representation", "author_ids", "labels", "created_at"):
            setattr(one, f"return_{flag}", True)
        for kind in (one.filter.any_labels, one.filter.all_labels, one.filter.none_labels):
            kind.extend(names)
        one.filter.excluded_post_ids.append(1)
        one.filter.excluded_author_ids.append(1)
        one.filter.created_since_unix_ms = one.filter.created_before_unix_ms = 1
        one.filter.min_score = 0.5
    content = batch.SerializeToString()
    most = max_fields(limits, max_labels=256)
    assert _passes(content, _BATCH, most)
    assert not _passes(content, _BATCH, most - 1)


def test_a_change_with_all_labels_passes() -> None:
    names = map(str, range(100_000))
    change = corpus_pb.UpsertPostsRequest(
        post_ids=[1],
        author_ids=[1],
        created_at_unix_ms=[1],
        label_names=names,
        label_counts=[1],
        label_indices=[1],
        vectors=[0.5],
    )
    content = corpus_pb.StreamUpsertPostsRequest(change=change).SerializeToString()
    kind = corpus_pb.StreamUpsertPostsRequest.DESCRIPTOR
    assert _passes(content, kind, max_fields(Limits(), max_labels=100_000))


def test_the_error_names_the_limit() -> None:
    with pytest.raises(InvalidRequestError, match="request: has more than 3 fields"):
        check_field_count(b"\x28\x01" * 4, _UPSERT, 3)


def test_packed_numbers_are_one_field() -> None:
    request = corpus_pb.UpsertPostsRequest(
        post_ids=range(1, 5000), label_counts=[300] * 5000, vectors=[0.5] * 9
    )
    assert _passes(request.SerializeToString(), _UPSERT, 3)


@pytest.mark.parametrize(
    "entry", [b"\x22\x00", b"\x28\x01", b"\x0d\0\0\0\0", b"\x09" + bytes(8), b"\xfb\x01\xfc\x01"]
)
def test_entries_that_are_not_packed_are_one_field_each(entry: bytes) -> None:
    assert _passes(entry * 10, _UPSERT, 20)
    assert not _passes(entry * 21, _UPSERT, 20)


@given(st.binary(max_size=200), st.sampled_from([_BATCH, _UPSERT]))
def test_any_bytes_are_counted_to_an_end(content: bytes, kind: Any) -> None:
    assert _passes(content, kind, 200)  # a field has at least one byte


def test_a_field_that_ends_beyond_its_message_is_left_to_the_parser() -> None:
    assert _passes(b"\x0a\xff\xff\xff\xff\x0f", _BATCH, 1)
