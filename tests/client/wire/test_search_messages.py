from __future__ import annotations

from typing import Any

import pytest

from phoenix_client import MalformedReplyError
from phoenix_client.types.queries import SearchQueries
from phoenix_client.wire.search_messages import search
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_k": 1}, "vectors, post_ids: give one of them"),
        ({"vectors": [[1.0]], "post_ids": [1], "top_k": 1}, "vectors, post_ids: give one of them"),
        ({"post_ids": [1], "top_k": 2**32}, "top_k: must be"),
        ({"post_ids": [1], "top_k": 1, "min_sequence": -1}, "min_sequence: must be"),
        ({"post_ids": [2**64], "top_k": 1}, "post_ids: must be"),
        (
            {"vectors": [[1.0], [0.6, 0.8]], "top_k": 1},
            r"vectors\[1\]: has 2 floats where vectors\[0\] has 1",
        ),
        ({"vectors": [[1.0], []], "top_k": 1}, r"vectors\[1\]: is empty"),
        ({"vectors": [["1"]], "top_k": 1}, r"vectors\[0\]: must be floats"),
    ],
)
def test_queries_that_cannot_be_sent_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(SearchQueries(**fields))


@pytest.mark.parametrize("fields", [{"vectors": [[0.6, 0.8], [1, 0]]}, {"post_ids": [7, 7]}])
def test_there_is_a_result_for_each_query(fields: dict[str, Any]) -> None:
    call = search(SearchQueries(top_k=1, **fields))
    reply = retrieval_pb2.SearchResponse()
    reply.results.add().response.generation = "g"
    with pytest.raises(MalformedReplyError, match="has 1 entries, not 2"):
        call.read(reply)
    reply.results.add()
    assert len(call.read(reply)) == 2
