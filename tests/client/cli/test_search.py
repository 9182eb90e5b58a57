from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest

from commands import Run, run_module
from fake_server.server import GENERATION, POSTS, Failure, FakeServer
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb2

_POST = 2**64 - 1


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    file = tmp_path / "vectors.jsonl"
    file.write_text("[0.6, 0, -0.8]\n[0, 1, 0]\n")
    return file


def test_search_prints_exact_json(server: FakeServer, run: Run) -> None:
    status, out, err = run("search", "--post", _POST, "--post", 5, "--top-k", 1, "--json")
    assert (status, err, out.count("\n")) == (0, "", 1)
    results = json.loads(out)["results"]
    assert len(results) == 2
    for result in results:
        assert result["generation"] == GENERATION
        assert [each["post_id"] for each in result["candidates"]] == [POSTS[0].post_id]
    assert server.requests == [
        retrieval_pb2.SearchRequest(
            post_ids=[_POST, 5],
            top_k=1,
            return_author_ids=True,
            return_labels=True,
            return_created_at=True,
        )
    ]


def test_search_prints_a_table_for_each_vector(server: FakeServer, run: Run, vectors: Path) -> None:
    status, out, err = run("search", "--vectors", vectors, "--with-representation")
    assert (status, err) == (0, "")
    assert out.count(f"generation {GENERATION}: ") == out.count("user representation: ") == 2
    one, other = out.rstrip("\n").split("\n\n")
    assert one == other
    assert f" {POSTS[0].post_id} " in one
    (request,) = server.requests
    assert isinstance(request, retrieval_pb2.SearchRequest)
    assert request.vectors == pytest.approx([0.6, 0, -0.8, 0, 1, 0])
    assert request.return_user_representation


def test_vectors_are_read_from_standard_input(server: FakeServer, vectors: Path) -> None:
    status, out, _ = run_module(
        *("phoenix_client", "search", "--vectors", "-", "--json"),
        input=vectors.read_text(),
        env={"PHOENIX_TARGET": server.target},
    )
    assert (status, len(json.loads(out)["results"])) == (0, 2)


def test_options_reach_the_request(server: FakeServer, run: Run) -> None:
    arguments = ("--include-query-posts", "--min-sequence", 7, "--label", "news")
    assert run("search", "--post", 3, *arguments).status == 0
    (request,) = server.requests
    assert isinstance(request, retrieval_pb2.SearchRequest)
    assert request.include_query_posts
    assert request.min_sequence == 7
    assert request.filter.any_labels == ["news"]


def test_a_failed_call_and_a_failed_query_are_one_line(server: FakeServer, run: Run) -> None:
    server.failures = [Failure(grpc.StatusCode.NOT_FOUND, "no post 3")]
    outcome = run("search", "--post", 3)
    assert outcome == (1, "", "phoenix-client: NOT_FOUND: no post 3\n")
    reply = retrieval_pb2.SearchResponse()
    reply.results.add().response.generation = "g"
    reply.results.add().status.code = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    reply.results[1].status.message = "the queue is full"
    server.replies = [reply]
    outcome = run("search", "--post", 3, "--post", 4)
    assert outcome == (1, "", "phoenix-client: RESOURCE_EXHAUSTED: the queue is full\n")


def test_a_mistake_in_the_file_is_one_line(run: Run, vectors: Path) -> None:
    vectors.write_text("[1, 0]\n[1]\n")
    outcome = run("search", "--vectors", vectors)
    problem = f"{vectors}: line 2: has 1 numbers, the first vector has 2"
    assert outcome == (1, "", f"phoenix-client: {problem}\n")


@pytest.mark.parametrize("both", [False, True])
def test_either_vectors_or_posts_are_needed(
    server: FakeServer, run: Run, vectors: Path, both: bool
) -> None:
    arguments = ("--vectors", vectors, "--post", 3) if both else ()
    status, out, err = run("search", *arguments)
    assert (status, out) == (2, "")
    assert "give either --vectors or --post" in err
    assert not server.requests
