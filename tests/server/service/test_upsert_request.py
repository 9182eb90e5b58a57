"""Posts of a request are checked, and every fault names its field."""

from typing import Any

import pytest

from phoenix_retrieval.v1.corpus_service_pb2 import UpsertPostsRequest
from phoenix_server.errors import InvalidRequestError
from phoenix_server.service.upsert_request import read_posts


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
            {"vectors": [1e30] + [0.0] * 127 + [1e-30] + [0.0] * 127},
            {
                "vectors[0:128]": "has length 1e+30, not 1",
                "vectors[128:256]": "has length 1e-30, not 1",
            },
        ),
        (
            {"vectors": [float("nan")] * 128 + [1.0] + [0.0] * 127},
            {"vectors[0:128]": "is not finite"},
        ),
        ({"label_names": [""]}, {"label_names[0]": "is empty"}),
        (
            {"label_names": [""] * 10},
            {"label_names": "has 10 entries, the corpus has room for 9"},
        ),
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
            {"label_names": ["a", "x" * 257]},
            {"label_names[1]": "has 257 characters, at most 256 bytes are accepted"},
        ),
        ({"author_ids": [1, 0]}, {"author_ids[1]": "is 0, which is no id"}),
    ],
)
def test_a_fault_of_posts_names_its_field(
    changes: dict[str, Any], expected: dict[str, str]
) -> None:
    fields: dict[str, Any] = {"post_ids": [3, 4], "author_ids": [1, 2], **changes}
    request = UpsertPostsRequest(**fields)
    with pytest.raises(InvalidRequestError) as caught:
        read_posts(request, limit=4096, max_labels=9, width=128, now_ms=1_700_000_000_000)
    assert {v.field: v.description for v in caught.value.violations}.items() >= expected.items()


def test_a_label_that_a_post_has_twice_is_a_label() -> None:
    fields: dict[str, Any] = {"label_counts": [2, 0], "label_indices": [0, 0], "label_names": ["a"]}
    request = UpsertPostsRequest(post_ids=[3, 4], author_ids=[1, 2], **fields)
    posts = read_posts(request, limit=4096, max_labels=9, width=128, now_ms=1_700_000_000_000)
    assert posts.labels.names == ("a",)
    assert posts.labels.counts.tolist() == [2, 0]


def test_names_that_no_post_of_a_request_has_are_dropped() -> None:
    fields: dict[str, Any] = {
        "label_names": ["a", "b", "c"],
        "label_counts": [2, 1],
        "label_indices": [2, 0, 2],
    }
    request = UpsertPostsRequest(post_ids=[3, 4], author_ids=[1, 2], **fields)
    posts = read_posts(request, limit=4096, max_labels=9, width=128, now_ms=1_700_000_000_000)
    assert posts.labels.names == ("a", "c")
    assert posts.labels.indices.tolist() == [1, 0, 1]
    assert posts.labels.counts.tolist() == [2, 1]
