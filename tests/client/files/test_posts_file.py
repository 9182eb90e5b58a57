from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_client import Post, PostsFileError, load_posts, parse_posts

RIGHT = {"post_id": 1, "author_id": 2}


def _line(**members: object) -> str:
    return json.dumps(RIGHT | members)


def test_reads_a_post_a_line(tmp_path: Path) -> None:
    file = tmp_path / "posts.jsonl"
    file.write_text(
        '{"post_id": 18446744073709551615, "author_id": 9007199254740993,'
        ' "created_at": "2026-05-01T12:30:00.123Z", "labels": ["news", "caf\u00e9"]}\n'
        "\n"
        ' {"post_id": "18446744073709551614", "author_id": "7", "seen": 9} \r\n'
        '{"post_id": 3, "author_id": 4, "created_at": "2026-05-01T12:30:00+09:00"}\n'
        '{"post_id": 5, "author_id": 6, "created_at": null, "labels": [], "vector": null}',
        encoding="utf-8",
    )
    moment = datetime(2026, 5, 1, 12, 30, tzinfo=UTC)
    assert list(load_posts(file)) == [
        Post(2**64 - 1, 2**53 + 1, moment + timedelta(milliseconds=123), ("news", "caf\u00e9")),
        Post(2**64 - 2, 7),
        Post(3, 4, moment.replace(tzinfo=timezone(timedelta(hours=9)))),
        Post(5, 6),
    ]


@given(st.integers(1, 2**64 - 1))
def test_ids_are_exact_as_numbers_and_as_strings(post_id: int) -> None:
    lines = [_line(post_id=post_id), _line(post_id=str(post_id))]
    assert [post.post_id for post in parse_posts(lines)] == [post_id] * 2


def test_reads_vectors() -> None:
    lines = [_line(vector=[0.6, -0.8]), _line(vector=[1, 0])]
    assert [post.vector for post in parse_posts(lines)] == [(0.6, -0.8), (1.0, 0.0)]


def test_a_line_is_read_when_its_post_is_asked_for() -> None:
    posts = parse_posts(iter([_line(), "no JSON"]))
    assert next(posts) == Post(1, 2)
    with pytest.raises(PostsFileError):
        next(posts)


@pytest.mark.parametrize(
    ("line", "location", "problem"),
    [
        ("{", "line 2", "is not JSON"),
        (b'{"post_id": "\xff"}', "line 2", "is not JSON"),
        ("[" * 100_000, "line 2", "is not JSON"),
        ("7", "line 2", "must be an object, is 7"),
        ('{"author_id": 2}', "line 2: post_id", "is missing"),
        ('{"post_id": 1}', "line 2: author_id", "is missing"),
        (_line(post_id=0), "line 2: post_id", "must be an integer from 1 to 2^64 - 1, is 0"),
        (_line(post_id=1.0), "line 2: post_id", "must be an integer from 1 to 2^64 - 1, is 1.0"),
        (_line(post_id=-1), "line 2: post_id", "must be an integer"),
        (_line(post_id=True), "line 2: post_id", "must be an integer"),
        (_line(author_id=2**64), "line 2: author_id", "must be an integer from 1 to 2^64 - 1"),
        (_line(created_at=7), "line 2: created_at", "must be a string, is 7"),
        (_line(created_at="noon"), "line 2: created_at", 'a time of ISO 8601, is "noon"'),
        (_line(created_at="2026-05-01T12:00:00"), "line 2: created_at", "must have a time zone"),
        (_line(created_at="2026-05-01"), "line 2: created_at", "must have a time zone"),
        (_line(created_at="1969-12-31T00:00Z"), "line 2: created_at", "after the start of 1970"),
        (_line(labels="news"), "line 2: labels", 'must be an array, is "news"'),
        (_line(labels=None), "line 2: labels", "must be an array, is null"),
        (_line(labels=["a", 7]), "line 2: labels[1]", "must be a string that is not empty, is 7"),
        (_line(labels=[""]), "line 2: labels[0]", "must be a string that is not empty"),
        (_line(labels=["\ud800"]), "line 2: labels[0]", "must be text"),
        (_line(vector=1.0), "line 2: vector", "must be an array, is 1.0"),
        (_line(vector=[]), "line 2: vector", "is empty"),
        (_line(vector=[1.0, "0"]), "line 2: vector[1]", 'must be a number in float32, is "0"'),
        (_line(vector=[True]), "line 2: vector[0]", "must be a number in float32, is true"),
        (_line(vector=[1e39]), "line 2: vector[0]", "must be a number in float32, is 1e+39"),
        (_line(vector=[10**400]), "line 2: vector[0]", "must be a number in float32"),
        (_line(vector=[float("nan")]), "line 2: vector[0]", "must be a number in float32, is NaN"),
        (_line(vector=[float("inf")]), "line 2: vector[0]", "must be a number in float32"),
        (_line(vector=[1.0]), "line 2: vector", "line 1 has none, this has one of 1"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_field(
    line: str | bytes, location: str, problem: str
) -> None:
    with pytest.raises(PostsFileError, match=re.escape(problem)) as caught:
        list(parse_posts([_line(), line], name="posts.jsonl"))
    assert caught.value.location == location
    assert str(caught.value).startswith(f"posts.jsonl: {location}: ")


@pytest.mark.parametrize(
    ("vector", "problem"),
    [(None, "line 1 has one of 2, this has none"), ([1], "line 1 has one of 2, this has one of 1")],
)
def test_all_posts_have_vectors_of_a_length(vector: list[float] | None, problem: str) -> None:
    with pytest.raises(PostsFileError, match=problem):
        list(parse_posts([_line(vector=[0.6, 0.8]), _line(vector=vector)]))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(PostsFileError, match=r"none\.jsonl: No such file or directory"):
        list(load_posts(tmp_path / "none.jsonl"))
    with pytest.raises(PostsFileError, match="Is a directory"):
        list(load_posts(tmp_path))
