from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import Run
from fake_server.server import GENERATION, POSTS, REPRESENTATION, FakeServer
from judge.index_cases import (
    ROWS,
    Make,
    assert_fails,
    grade,
    judged,
)
from phoenix_judge.measures import rank_biased_overlap
from phoenix_retrieval.v1 import model_service_pb2 as model_pb2
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb2


def test_an_exact_index_has_full_marks(
    server: FakeServer, run: Run, make: Make, users: Path
) -> None:
    report = judged(run("grade", make(), users, "--top-k", 3, "--repeat", 2, "--json"))
    (index,) = report.pop("indexes")
    (grade,) = index.pop("grades")
    assert {name: grade[name] for name in ("recall", "least_recall", "rbo", "setting")} == {
        "recall": 1.0,
        "least_recall": 1.0,
        "rbo": 1.0,
        "setting": "",
    }
    assert 0 < grade["p50_ms"] <= grade["p99_ms"]
    assert index == {"name": "index", "made_as": "Flat", "sequence": 0, "stale": False}
    for name in ("retrieve", "encode"):
        times = report.pop(name)
        assert 0 < times["p50_ms"] <= times["p99_ms"]
    assert report == {
        "generation": GENERATION,
        "rows": ROWS,
        "first_sequence": 0,
        "last_sequence": 0,
        "users": 2,
        "top_k": 3,
        "rbo_p": 0.9,
    }
    asked = [each for each in server.requests if isinstance(each, retrieval_pb2.RetrieveRequest)]
    assert [each.user.user_id for each in asked] == [7, 7, 7, 8, 8]  # the first is not timed
    assert all(each.top_k == 3 and each.return_user_representation for each in asked)


def test_what_is_missed_and_misplaced_costs(run: Run, make: Make, users: Path) -> None:
    wrong = make(believed=[0.5, 0.1, -0.9])  # the second comes first, the third never
    marks = grade(run("grade", wrong, users, "--top-k", 3, "--rbo-p", 0.5, "--json"))
    assert marks["recall"] == marks["least_recall"] == pytest.approx(2 / 3)
    expected = rank_biased_overlap([3.0, 2.0, 1.0], [2.0, 3.0, 0.0], 0.5)
    assert marks["rbo"] == pytest.approx(expected)


def test_a_post_that_ties_with_the_last_counts(run: Run, make: Make, users: Path) -> None:
    tied = make(also=[POSTS[2].score], believed=[0.1, 1 / 3, -0.9])  # it finds the other
    marks = grade(run("grade", tied, users, "--top-k", 3, "--json"))
    assert (marks["recall"], marks["rbo"]) == (1.0, pytest.approx(1.0))
    near = make("near", also=[POSTS[2].score - 1e-3], believed=[0.1, 1 / 3, -0.9])
    marks = grade(run("grade", near, users, "--top-k", 3, "--json"))
    assert marks["recall"] == pytest.approx(2 / 3)


def test_an_index_of_other_towers_is_refused_before_anything_is_asked(
    server: FakeServer, run: Run, make: Make, users: Path
) -> None:
    path = make(tower_fingerprint="beef")
    for options in ((), ("--allow-stale",)):
        outcome = run("grade", path, users, *options)
        assert_fails(outcome, f"{path}/index.json: tower_fingerprint: is beef", "is f00d")
    assert all(isinstance(each, model_pb2.GetModelRequest) for each in server.requests)


def test_another_state_of_the_corpus_is_refused_unless_allowed_and_then_said(
    server: FakeServer, run: Run, make: Make, users: Path
) -> None:
    server.sequence = 3
    path = make()
    arguments = ("grade", path, users, "--top-k", 3)
    outcome = run(*arguments)
    assert_fails(outcome, "index.json: sequence: is 0, the served corpus is at 3", "--allow-stale")
    report = judged(run(*arguments, "--allow-stale", "--json"))
    assert (report["first_sequence"], report["last_sequence"]) == (3, 3)
    assert [index["stale"] for index in report["indexes"]] == [True]
    table = run(*arguments, "--allow-stale").out
    assert "2 users, sequence 3\n" in table
    assert "index is of sequence 0, the answers are not: STALE\n" in table
    assert "index (Flat), stale" in table


def test_a_stale_index_is_graded_by_what_is_served(
    server: FakeServer, run: Run, make: Make, users: Path
) -> None:
    server.sequence = 3
    path = make(also=[0.9])  # a post that is served no more, and was the best
    ids, vectors = np.load(path / "post_ids.npy"), np.load(path / "vectors.npy")
    ids[1] = 2**50  # another in place of one that is served, which the index does not know
    vectors[1] *= 0.9
    np.save(path / "post_ids.npy", ids)
    np.save(path / "vectors.npy", vectors)
    marks = grade(run("grade", path, users, "--top-k", 3, "--allow-stale", "--json"))
    assert marks["recall"] == pytest.approx(1 / 3)


def test_an_index_may_hold_more_posts_than_are_served_by_now(
    server: FakeServer, run: Run, make: Make, users: Path
) -> None:
    server.sequence = 3
    arguments = ("--top-k", 10, "--allow-stale", "--json")  # of which the server has three
    marks = grade(run("grade", make(), users, *arguments))
    assert (marks["recall"], marks["rbo"]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda ids, vectors: ids.__setitem__(1, 77), "holds no such post"),
        (lambda ids, vectors: vectors.__setitem__(1, -vectors[1]), "holds a vector that scores"),
    ],
)
def test_an_index_of_another_corpus_is_refused(
    run: Run, make: Make, users: Path, spoil: Callable[[Any, Any], None], message: str
) -> None:
    path = make()
    ids, vectors = np.load(path / "post_ids.npy"), np.load(path / "vectors.npy")
    spoil(ids, vectors)
    np.save(path / "post_ids.npy", ids)
    np.save(path / "vectors.npy", vectors)
    outcome = run("grade", path, users, "--top-k", 3)
    assert_fails(outcome, message, f"post {POSTS[1].post_id} scored 0.333333: of another corpus")


def test_a_corpus_of_another_size_is_refused(
    server: FakeServer, run: Run, make: Make, users: Path
) -> None:
    reply = retrieval_pb2.RetrieveResponse(
        generation=GENERATION,
        rows_scanned=5,
        rows_eligible=5,
        post_ids=[POSTS[0].post_id],
        scores=[POSTS[0].score],
        user_representation=REPRESENTATION,
    )
    replies: list[Any] = [None, None, reply, *[reply, None] * 2]  # None: the right one
    server.replies = replies
    path = make()
    outcome = run("grade", path, users, "--repeat", 1)
    assert_fails(outcome, f"rows: is {ROWS}, the server scans 5: of another corpus")
