"""A checkpoint in the published layout gives the published answers, through all members."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import run_module
from integration.wire import connect
from phoenix_client import User, parse_sequence

USERS = range(6)


@pytest.fixture(scope="module")
def expected(golden_layout: Path) -> list[dict[str, Any]]:
    users = json.loads((golden_layout / "expected.json").read_text())["users"]
    assert len(users) == len(USERS)
    return users


@pytest.fixture(scope="module")
def vectors(golden_layout: Path) -> dict[int, np.ndarray]:
    corpus = np.load(golden_layout / "sports_corpus.npz")
    rows = corpus["candidate_representations"].astype(np.float64)
    return dict(zip(corpus["post_ids"].tolist(), rows, strict=True))


def as_user(expectation: dict[str, Any]) -> User:
    return parse_sequence(json.dumps(expectation["sequence"]), name="expected.json")


@pytest.mark.parametrize("i", USERS)
def test_command_line_reproduces_the_published_answers(
    i: int, expected: list[dict[str, Any]], server_bf16: str, tmp_path: Path
) -> None:
    wanted = expected[i]
    sequence = tmp_path / "sequence.json"
    sequence.write_text(json.dumps(wanted["sequence"]))
    options = ("--sequence", sequence, "--top-k", "200", "--json", "--with-representation")
    done = run_module("phoenix_client", "retrieve", "--target", server_bf16, *options).checked()
    answer = json.loads(done.out)
    representation = np.array(answer["user_representation"])
    np.testing.assert_allclose(representation, wanted["user_representation"], atol=5e-3, rtol=0)
    found = answer["candidates"]
    scores = np.array(wanted["scores"])
    np.testing.assert_allclose([c["score"] for c in found], scores, atol=5e-3, rtol=0)
    gaps = -np.diff(scores)
    clear = np.minimum(np.append(np.inf, gaps), np.append(gaps, 0)) > 1e-2
    for rank in np.flatnonzero(clear):
        assert found[rank]["post_id"] == wanted["post_ids"][rank]
        assert found[rank]["author_id"] == wanted["author_ids"][rank]
    # Where scores are closer, the same posts still come up: all that are clear of the cut-off.
    safe = [
        post for post, s in zip(wanted["post_ids"], scores, strict=True) if s > scores[-1] + 1e-2
    ]
    assert set(safe) <= {c["post_id"] for c in found}


@pytest.mark.parametrize("i", USERS)
def test_float32_answers_equal_a_float64_oracle(
    i: int, expected: list[dict[str, Any]], server_f32: str, vectors: dict[int, np.ndarray]
) -> None:
    user = as_user(expected[i])
    with connect(server_f32) as client:
        result = client.retrieve(user, top_k=200, with_representation=True)
        post_ids = [candidate.post_id for candidate in result.candidates]
        scored = client.score_posts(user, post_ids[:64])
    assert result.user_representation is not None
    representation = np.array(result.user_representation, np.float64)
    oracle = {post_id: float(vector @ representation) for post_id, vector in vectors.items()}
    best = sorted(oracle.values(), reverse=True)[:200]
    scores = [candidate.score for candidate in result.candidates]
    np.testing.assert_allclose(scores, best, atol=1e-6, rtol=0)
    np.testing.assert_allclose(scores, [oracle[post] for post in post_ids], atol=1e-6, rtol=0)
    assert [post.score for post in scored.posts] == scores[:64]
    assert [post.rank for post in scored.posts] == list(range(1, 65))


def test_ranks_are_exact_for_posts_far_down(
    expected: list[dict[str, Any]], server_f32: str, vectors: dict[int, np.ndarray]
) -> None:
    user = as_user(expected[2])
    with connect(server_f32) as client:
        everything = client.retrieve(user, top_k=3000)
        ranked = [candidate.post_id for candidate in everything.candidates]
        asked = ranked[::-47]
        scored = client.score_posts(user, asked)
    assert sorted(ranked) == sorted(vectors)
    assert [ranked[post.rank - 1] for post in scored.posts] == asked


@pytest.mark.parametrize("top_k", [1, 2, 199, 3000, 4000])
def test_shards_do_not_change_an_answer(
    top_k: int, expected: list[dict[str, Any]], server_f32: str, server_f32_sharded: str
) -> None:
    user = as_user(expected[4])
    with connect(server_f32) as one, connect(server_f32_sharded) as seven:
        assert one.get_model().shards == 1
        assert seven.get_model().shards == 7
        first = one.retrieve(user, top_k=top_k, with_representation=True)
        second = seven.retrieve(user, top_k=top_k, with_representation=True)
    assert list(first.candidates) == list(second.candidates)
    assert len(first.candidates) == min(top_k, 3000)
    assert first.rows_eligible == second.rows_eligible == 3000
    assert first.generation == second.generation


def test_candidate_tower_gives_the_corpus_vectors(
    golden_layout: Path, server_f32: str, vectors: dict[int, np.ndarray]
) -> None:
    corpus = np.load(golden_layout / "sports_corpus.npz")
    posts, authors = corpus["post_ids"][:50].tolist(), corpus["author_ids"][:50].tolist()
    with connect(server_f32) as client:
        encoded = client.encode_candidates(posts, authors)
    rows = np.array(encoded.values).reshape(50, -1)
    np.testing.assert_allclose(rows, [vectors[post] for post in posts], atol=2e-6, rtol=0)


def test_encoding_a_user_gives_what_retrieval_uses(
    expected: list[dict[str, Any]], server_f32: str
) -> None:
    user = as_user(expected[0])
    with connect(server_f32) as client:
        encoded = client.encode_user(user)
        result = client.retrieve(user, top_k=1, with_representation=True)
    assert list(encoded.user_representation) == list(result.user_representation or ())
    assert encoded.user_norm > 0
    np.testing.assert_allclose(np.linalg.norm(list(encoded.user_representation)), 1, atol=1e-6)
