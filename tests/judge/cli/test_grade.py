"""The command `grade` against a small server, and indexes made for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from commands import Outcome, Run
from fake_server.server import GENERATION, POSTS, REPRESENTATION, FakeServer
from phoenix_judge.measures import rank_biased_overlap
from phoenix_retrieval.v1 import model_service_pb2 as model_pb2
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb2

ROWS = 1234  # as the server says that it scans
WIDTH = 3
USER = {"user_id": 7, "history": []}
MANIFEST: dict[str, Any] = {
    "format_version": 1,
    "format": "faiss",
    "tower_fingerprint": "f00d",
    "sequence": 0,
    "rows": ROWS,
    "embedding_size": WIDTH,
    "factory": "Flat",
}
Make = Callable[..., Path]


def vectors_of(scores: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return vectors that score so for the user: [n, 3]."""
    vectors = np.outer(scores, REPRESENTATION)
    vectors[:, 1] = np.linspace(-1, 1, len(scores))  # where the user's is 0
    return vectors.astype(np.float32)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write an index of the server's posts and of others that score less.

    `also` are scores of further posts. `believed` are what the index takes the first posts' scores
    for, where it errs.
    """

    def write(
        name: str = "index",
        *,
        also: Sequence[float] = (),
        believed: Sequence[float] = (),
        **changes: object,
    ) -> Path:
        path = tmp_path / name
        path.mkdir()
        scores = [*(post.score for post in POSTS), *also]
        scores += [-0.5] * (ROWS - len(scores))
        post_ids = [post.post_id for post in POSTS] + list(range(1, ROWS - len(POSTS) + 1))
        np.save(path / "vectors.npy", vectors_of(scores))
        np.save(path / "post_ids.npy", np.array(post_ids, np.uint64))
        index = faiss.IndexFlatIP(WIDTH)
        index.add(vectors_of([*believed, *scores[len(believed) :]]))
        faiss.write_index(index, str(path / "index.faiss"))
        (path / "index.json").write_text(json.dumps(MANIFEST | changes))
        return path

    return write


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users.json"
    path.write_text(json.dumps([USER, USER | {"user_id": 8}]))
    return path


def judged(outcome: Outcome) -> dict[str, Any]:
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.count("\n") == 1
    return json.loads(outcome.out)


def grade(outcome: Outcome) -> dict[str, Any]:
    ((grade,),) = (index["grades"] for index in judged(outcome)["indexes"])
    return grade


def assert_fails(outcome: Outcome, *parts: object) -> None:
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith("phoenix-judge: ") and outcome.err.count("\n") == 1
    for part in parts:
        assert str(part) in outcome.err


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


def test_the_table_names_what_was_measured(run: Run, make: Make, users: Path) -> None:
    status, out, err = run("grade", make("a"), make("b"), users, "--top-k", 3)
    assert (status, err) == (0, "")
    heading, columns, _, *rows = out.splitlines()
    assert heading == f"generation {GENERATION}: 1,234 posts, 2 users"
    assert columns.split() == [
        *("search", "setting", "recall@3", "least", "RBO", "p=0.9", "p50", "ms", "p99", "ms"),
    ]
    assert [row.split("  ")[0].strip() for row in rows] == [
        "served, exact",
        "",
        "a (Flat)",
        "b (Flat)",
    ]
    assert "EncodeUser alone" in rows[1]
    assert rows[2].split()[2:5] == ["1.0000"] * 3


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


def test_a_server_that_changes_meanwhile_is_noticed(
    server: FakeServer, run: Run, make: Make, users: Path
) -> None:
    other = model_pb2.GetModelResponse(generation="another")
    other.bundle.tower_fingerprint = "f00d"
    server.replies = [other]
    outcome = run("grade", make(), users)
    assert_fails(outcome, f"generation: is {GENERATION}, was another before; judge again")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "npy"}, "format: is npy: vectors without an index, nothing to search"),
        ({"format": "annoy"}, 'format: must be faiss or scann, is "annoy"'),
        ({"format_version": 2}, "format_version: must be 1, is 2"),
        ({"rows": 0}, "rows: must be an integer from 1"),
        ({"rows": ROWS + 1}, "vectors.npy: should be of <f4 (1235, 3)"),
        ({"sequence": "x"}, "sequence: must be an integer from 0"),
        ({"factory": 3}, "factory: must be a string, is 3"),
        ({"tower_fingerprint": None}, "tower_fingerprint: must be a string, is null"),
    ],
)
def test_a_manifest_at_fault_is_named(
    run: Run, make: Make, users: Path, changes: dict[str, object], message: str
) -> None:
    assert_fails(run("grade", make(**changes), users), message)


def _remove(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize("spoil", [_remove, _cut])
@pytest.mark.parametrize("name", ["index.json", "vectors.npy", "post_ids.npy", "index.faiss"])
def test_a_file_that_is_missing_or_damaged_is_named(
    run: Run, make: Make, users: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    path = make()
    spoil(path / name)
    assert_fails(run("grade", path, users), f"phoenix-judge: {path / name}: ")


def test_an_index_of_other_rows_than_its_vectors_is_refused(
    run: Run, make: Make, users: Path
) -> None:
    path = make()
    faiss.write_index(faiss.IndexFlatIP(WIDTH), str(path / "index.faiss"))
    assert_fails(run("grade", path, users), "its index is of (0, 3), its vectors are of (1234, 3)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--search", "efSearch"), "must be as in efSearch=16,32,64, is 'efSearch'"),
        (("--search", "nprobe=1,2"), "nprobe is no parameter of Flat"),
        (("--search", "nprobe=0"), "values must be from 1"),
        (("--rbo-p", "1"), "is not in the range 0<x<1"),
        (("--rbo-p", "0"), "is not in the range 0<x<1"),
        (("--repeat", "0"), "--repeat"),
        (("--top-k", "0"), "--top-k"),
        (("--plot", "plot.gif"), "must end in .png, .svg, .pdf"),
        (("--plot", "nowhere/plot.png"), "there is no directory nowhere"),
    ],
)
def test_wrong_usage_has_status_2(
    server: FakeServer, run: Run, make: Make, users: Path, options: tuple[str, ...], message: str
) -> None:
    status, out, err = run("grade", make(), users, *options)
    assert (status, out) == (2, "")
    assert message in " ".join(err.split())
    assert not server.requests


def test_a_user_that_the_server_refuses_is_named(
    server: FakeServer, run: Run, make: Make, users: Path
) -> None:
    path = make()
    users.write_text(json.dumps([USER, {"user_id": -1, "history": []}]))
    assert_fails(run("grade", path, users), f"{users}: [1].user_id: must be an integer from 0")
    users.write_text("[]")
    assert_fails(run("grade", path, users), f"{users}: holds no users")
    users.write_text(json.dumps(USER))
    assert_fails(run("grade", path, users), f"{users}: must be an array, is an object")
    assert_fails(run("grade", path, users.with_name("none")), "none: No such file or directory")


def test_a_plot_is_drawn(run: Run, make: Make, users: Path, tmp_path: Path) -> None:
    for suffix, begins in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        plot = tmp_path / f"plot{suffix}"
        assert run("grade", make(suffix), users, "--top-k", 3, "--plot", plot).status == 0
        assert plot.read_bytes().startswith(begins)


@pytest.mark.parametrize(("package", "extra"), [("faiss", "faiss"), ("matplotlib", "plot")])
def test_without_its_packages_the_error_names_the_extra(
    make: Make, users: Path, package: str, extra: str
) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None; from phoenix_judge.cli.main import main;"
        f"main(['grade', {str(make())!r}, {str(users)!r}, '--plot', 'plot.png'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    expected = f"phoenix-judge: grade needs {package}: install phoenix-judge[{extra}]\n"
    assert done.stderr == expected


def test_the_commands_load_libraries_only_to_use_them() -> None:
    program = (
        "import sys, phoenix_judge.cli.main;"
        "print({'jax', 'faiss', 'matplotlib', 'scann'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
