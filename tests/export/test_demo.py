from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from export.cases import Arrays, Loaded, User, candidate_inputs, load_checkpoint, user_inputs
from phoenix_export import demo
from phoenix_export.demo import LIKED_TOPIC, TOPICS, DemoSizes, write_demo
from phoenix_export.errors import OutputError

NOW_MS = 1_767_225_600_000  # 2026-01-01
EPOCH_MS = 1_288_834_974_657  # of snowflake ids
WEEK_MS = 7 * 24 * 3600 * 1000
SIZES = DemoSizes(posts=2000, vocab=5000, history=16, layers=2, users=60)
TOP_K = 10
LIKED = 12


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "checkpoint"
    write_demo(out, SIZES, seed=3, now_ms=NOW_MS)
    return out


@pytest.fixture(scope="module")
def loaded(path: Path) -> Loaded:
    return load_checkpoint(path)


def _corpus(path: Path) -> Arrays:
    with np.load(path / "sports_corpus.npz", allow_pickle=False) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def corpus(path: Path) -> Arrays:
    return _corpus(path)


def _sums(path: Path) -> dict[str, str]:
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*")
        if file.is_file()
    }


def test_a_demo_has_the_files_of_the_published_layout(path: Path) -> None:
    assert _sums(path).keys() == {
        "retrieval/config.json",
        "retrieval/model_params.npz",
        "retrieval/embedding_tables.npz",
        "sports_corpus.npz",
        "example_sequence.json",
        "users.json",
    }
    assert os.listdir(path.parent) == [path.name]


def test_equal_arguments_give_equal_files(tmp_path: Path) -> None:
    sizes = DemoSizes(posts=50, vocab=100, history=4, layers=1)
    for name, seed, now_ms in (("a", 1, NOW_MS), ("b", 1, NOW_MS), ("c", 2, NOW_MS)):
        write_demo(tmp_path / name, sizes, seed=seed, now_ms=now_ms)
    first, second, other = (_sums(tmp_path / name) for name in "abc")
    assert first == second
    assert all(first[name] != other[name] for name in first)


def test_posts_are_distinct_and_of_the_last_week(corpus: Arrays) -> None:
    posts = corpus["post_ids"]
    assert posts.dtype == np.uint64 and len(set(posts.tolist())) == SIZES.posts
    created_ms = (posts >> np.uint64(22)).astype(np.int64) + EPOCH_MS
    assert created_ms.min() >= NOW_MS - WEEK_MS and created_ms.max() < NOW_MS
    assert created_ms.max() - created_ms.min() > WEEK_MS * 0.9
    assert (np.diff(created_ms) >= 0).all()


def test_every_author_writes_on_one_topic(corpus: Arrays) -> None:
    authors, topics = corpus["author_ids"], corpus["topics"]
    assert topics.dtype.kind == "U"
    assert set(topics.tolist()) == set(TOPICS)
    topic_of = dict(zip(authors.tolist(), topics.tolist(), strict=True))
    assert all(topic_of[a] == t for a, t in zip(authors.tolist(), topics.tolist(), strict=True))


def test_corpus_vectors_are_unit_vectors_of_the_candidate_tower(
    loaded: Loaded, corpus: Arrays
) -> None:
    vectors = corpus["candidate_representations"]
    assert vectors.shape == (SIZES.posts, 128) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, rtol=1e-5)
    _, program = loaded.programs
    inputs = candidate_inputs(corpus["post_ids"], corpus["author_ids"], loaded.hashes)
    found = loaded.call(program.export().call, program, inputs)["candidate_representation"]
    np.testing.assert_allclose(found, vectors, rtol=0, atol=2e-6)


def test_no_weight_is_all_zero(loaded: Loaded) -> None:
    assert all(np.abs(weight).max() > 0 for weight in loaded.weights.values())


def _topics_retrieved(loaded: Loaded, corpus: Arrays, users: list[User]) -> npt.NDArray[Any]:
    """Return the topics of the top posts of each user, best first."""
    program, _ = loaded.programs
    inputs = user_inputs(users, SIZES.history, loaded.hashes, SIZES.history)
    found = loaded.call(program.export().call, program, inputs)["user_representation"]
    scores = found @ corpus["candidate_representations"].T
    return corpus["topics"][np.argsort(-scores, axis=-1)[:, :TOP_K]]


def test_the_example_user_gets_posts_of_the_topic_they_like(
    path: Path, loaded: Loaded, corpus: Arrays
) -> None:
    user = json.loads((path / "example_sequence.json").read_text())
    posts = [item["post_id"] for item in user["history"]]
    assert len(posts) == LIKED and posts == sorted(posts)
    assert not set(posts) & set(corpus["post_ids"].tolist())
    assert all(item["actions"]["1"] == 1.0 for item in user["history"])
    assert (_topics_retrieved(loaded, corpus, [user]) == LIKED_TOPIC).all()


def test_users_get_posts_of_the_topic_they_like(loaded: Loaded, corpus: Arrays) -> None:
    users: list[User] = []
    for number, topic in enumerate(TOPICS):
        rows = np.flatnonzero(corpus["topics"] == topic)[:LIKED]
        history = [
            {
                "post_id": int(corpus["post_ids"][row]),
                "author_id": int(corpus["author_ids"][row]),
                "actions": {"1": 1.0},
            }
            for row in rows
        ]
        users.append({"user_id": 1000 + number, "history": history})
    found = _topics_retrieved(loaded, corpus, users)
    assert found.tolist() == [[topic] * TOP_K for topic in TOPICS]


def test_users_engaged_with_posts_of_one_to_three_topics(path: Path, corpus: Arrays) -> None:
    users = json.loads((path / "users.json").read_text())
    assert len({user["user_id"] for user in users}) == len(users) == SIZES.users
    columns = (corpus["post_ids"], corpus["author_ids"], corpus["topics"])
    posts = {post: (author, topic) for post, author, topic in zip(*map(list, columns), strict=True)}
    topics, lengths = set[int](), set[int]()
    for user in users:
        liked = [item["post_id"] for item in user["history"]]
        assert liked == sorted(set(liked))
        assert [posts[item["post_id"]][0] for item in user["history"]] == [
            item["author_id"] for item in user["history"]
        ]
        assert all(item["actions"] for item in user["history"])
        topics.add(len({posts[post][1] for post in liked}))
        lengths.add(len(liked))
    assert topics == {1, 2, 3}
    assert min(lengths) == 1 and max(lengths) == SIZES.history


def test_users_get_posts_of_the_topics_they_engaged_with(
    path: Path, loaded: Loaded, corpus: Arrays
) -> None:
    users = json.loads((path / "users.json").read_text())
    topic_of = dict(zip(corpus["post_ids"].tolist(), corpus["topics"].tolist(), strict=True))
    for user, found in zip(users, _topics_retrieved(loaded, corpus, users), strict=True):
        assert set(found.tolist()) <= {topic_of[item["post_id"]] for item in user["history"]}


def test_the_transformer_changes_the_representation(loaded: Loaded, corpus: Arrays) -> None:
    history = [
        {"post_id": int(post), "author_id": int(author), "actions": {"1": 1.0}}
        for post, author in zip(corpus["post_ids"][:5], corpus["author_ids"][:5], strict=True)
    ]
    users: list[User] = [
        {"user_id": 1, "history": history},
        {"user_id": 1, "history": history[::-1]},
    ]
    program, _ = loaded.programs
    inputs = user_inputs(users, 5, loaded.hashes, SIZES.history)
    found = loaded.call(program.export().call, program, inputs)["user_representation"]
    assert np.abs(found[0] - found[1]).max() > 1e-6  # the order of a history matters


@pytest.mark.parametrize(
    "sizes",
    [
        DemoSizes(posts=1, vocab=2, history=1, layers=1),
        DemoSizes(posts=1, vocab=100, history=3, layers=1),
        DemoSizes(posts=300, vocab=2, history=1, layers=1),
    ],
)
def test_small_sizes_work(tmp_path: Path, sizes: DemoSizes) -> None:
    out = tmp_path / "demo"
    write_demo(out, sizes, now_ms=NOW_MS)
    loaded, corpus = load_checkpoint(out), _corpus(out)
    assert loaded.config.history_seq_len == sizes.history
    assert loaded.config.model.num_layers == sizes.layers
    assert all(len(table) == sizes.vocab for table in loaded.tables.values())
    assert len(corpus["post_ids"]) == len(corpus["topics"]) == sizes.posts
    np.testing.assert_allclose(
        np.linalg.norm(corpus["candidate_representations"], axis=-1), 1, rtol=1e-5
    )
    sequence = json.loads((out / "example_sequence.json").read_text())
    assert len(sequence["history"]) == min(sizes.history, LIKED)
    users = json.loads((out / "users.json").read_text())
    assert all(1 <= len(user["history"]) <= sizes.history for user in users)


@pytest.mark.parametrize(
    "sizes",
    [{"posts": 0}, {"vocab": 1}, {"history": 0}, {"layers": 0}, {"users": 0}, {"posts": -1}],
)
def test_sizes_too_small_are_refused(sizes: dict[str, int]) -> None:
    (name,) = sizes
    with pytest.raises(ValueError, match=f"{name}: must be at least"):
        DemoSizes(**sizes)


@pytest.mark.parametrize("name", ["posts", "vocab", "history", "layers", "users"])
def test_sizes_too_large_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: must be at most"):
        DemoSizes(**{name: 2**31 + 1})


def test_an_existing_directory_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mine").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        write_demo(tmp_path / "demo", SIZES)
    assert (tmp_path / "demo" / "mine").read_text() == "mine"
    assert os.listdir(tmp_path) == ["demo"]


def test_a_failure_in_the_middle_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        assert len(list(tmp_path.iterdir())) == 1
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo, "_encode", fail)
    with pytest.raises(OutputError, match="cannot be written: No space left on device"):
        write_demo(tmp_path / "demo", DemoSizes(posts=5, vocab=9, history=1, layers=1))
    assert list(tmp_path.iterdir()) == []
