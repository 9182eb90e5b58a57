from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from client.conftest import Ask
from commands import Run
from fake_server.server import FakeServer
from phoenix_client import Filter, RetrieveQuery, User
from phoenix_client.wire import messages
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb2

MOMENT = datetime(2026, 5, 1, 12, 30, 0, 123_000, UTC)
MOMENT_MS = 1_777_638_600_123
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BIG, BIGGER = 2**63 + 1, 2**64 - 1  # no double and no signed integer holds them

WHOLE = Filter(
    created_since=MOMENT,
    created_before=MOMENT + timedelta(days=1),
    any_labels=["news", "football"],
    all_labels=["a"],
    none_labels=["b", "c"],
    excluded_post_ids=[BIGGER, 1, BIGGER],
    excluded_author_ids=[BIG],
    min_score=-0.25,
)
WHOLE_MESSAGE = retrieval_pb2.Filter(
    created_since_unix_ms=MOMENT_MS,
    created_before_unix_ms=MOMENT_MS + 86_400_000,
    any_labels=["news", "football"],
    all_labels=["a"],
    none_labels=["b", "c"],
    excluded_post_ids=[BIGGER, 1, BIGGER],
    excluded_author_ids=[BIG],
    min_score=-0.25,
)


def _filters(server: FakeServer) -> list[retrieval_pb2.Filter | None]:
    """Return the filters of the requests, and of those in batches; None where one has none."""
    filters: list[retrieval_pb2.Filter | None] = []
    for request in server.requests:
        if isinstance(request, retrieval_pb2.BatchRetrieveRequest):
            requests = list(request.requests)
        else:
            assert isinstance(request, retrieval_pb2.RetrieveRequest)
            requests = [request]
        filters += [one.filter if one.HasField("filter") else None for one in requests]
    return filters


def test_retrieve_sends_its_filter(server: FakeServer, ask: Ask) -> None:
    ask("retrieve", User(1), top_k=1, filter=WHOLE)
    ask("retrieve", User(1), top_k=1)
    assert _filters(server) == [WHOLE_MESSAGE, None]


def test_every_query_of_a_batch_has_its_own_filter(server: FakeServer, ask: Ask) -> None:
    filters = (WHOLE, None, Filter(min_score=0.5))
    ask("batch_retrieve", [RetrieveQuery(user=User(1), top_k=1, filter=one) for one in filters])
    assert _filters(server) == [WHOLE_MESSAGE, None, retrieval_pb2.Filter(min_score=0.5)]


def test_conditions_that_are_not_set_stay_unset() -> None:
    message = messages.filter_message(Filter())
    assert message == retrieval_pb2.Filter()
    assert message.ListFields() == []


def test_zero_is_a_condition() -> None:
    message = messages.filter_message(
        Filter(created_since=EPOCH, created_before=EPOCH, min_score=0.0)
    )
    for name in ("created_since_unix_ms", "created_before_unix_ms", "min_score"):
        assert message.HasField(name) and getattr(message, name) == 0


@pytest.mark.parametrize("microseconds", [1_000, 1_001, 1_999])
def test_a_bound_is_the_millisecond_in_which_it_lies(microseconds: int) -> None:
    moment = EPOCH + timedelta(microseconds=microseconds)
    message = messages.filter_message(Filter(created_since=moment, created_before=moment))
    assert (message.created_since_unix_ms, message.created_before_unix_ms) == (1, 1)


def test_a_bound_of_any_time_zone_is_the_same_moment() -> None:
    moment = MOMENT.astimezone(timezone(timedelta(hours=-9, minutes=-30)))
    assert messages.filter_message(Filter(created_since=moment)) == retrieval_pb2.Filter(
        created_since_unix_ms=MOMENT_MS
    )


@given(st.floats(width=32, allow_nan=False))
def test_a_score_that_was_returned_is_a_least_score_as_it_is(score: float) -> None:
    message = messages.filter_message(Filter(min_score=score))
    assert type(message).FromString(message.SerializeToString()).min_score == score


def test_a_filter_does_not_change_with_what_it_was_made_of() -> None:
    labels, ids = ["a"], [1]
    made = Filter(any_labels=labels, excluded_post_ids=ids)
    labels.append("b")
    ids.append(2)
    assert made == Filter(any_labels=("a",), excluded_post_ids=(1,))
    assert hash(made) == hash(Filter(any_labels=("a",), excluded_post_ids=(1,)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"created_since": datetime(2026, 5, 1)}, "^created_since: must have a time zone"),
        ({"created_before": datetime(2026, 5, 1)}, "^created_before: must have a time zone"),
        (
            {"created_since": EPOCH - timedelta(microseconds=1)},
            "^created_since: must not lie before 1970, is 1969-12-31",
        ),
        ({"any_labels": "news"}, "^any_labels: must be a sequence of strings, is one"),
        ({"all_labels": ["a", 7]}, "^all_labels: must be strings, has 7"),
        ({"none_labels": ["\ud800"]}, r"^none_labels: '\\ud800' is not valid text"),
        ({"excluded_post_ids": [2**64]}, "^excluded_post_ids: must be integers from 0"),
        ({"excluded_author_ids": [-1]}, "^excluded_author_ids: must be integers from 0"),
        ({"min_score": "0.5"}, "^min_score: must be a number"),
        ({"min_score": 10**400}, "^min_score: must be a number"),
    ],
)
def test_conditions_that_cannot_be_sent_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Filter(**fields)


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    file = tmp_path / "sequence.json"
    file.write_text(json.dumps({"user_id": 7, "history": []}))
    return file


OPTIONS = (
    *("--since", "2026-05-01T12:30:00.123Z", "--before", "2026-05-02T14:30:00.123+02:00"),
    *("--label", "news", "--label", "football", "--all-label", "a"),
    *("--without-label", "b", "--without-label", "c"),
    *("--exclude", BIGGER, "--exclude", 1, "--exclude", BIGGER, "--exclude-author", BIG),
    *("--min-score", "-0.25"),
)


def test_the_options_of_retrieve_make_a_filter(
    server: FakeServer, run: Run, sequence: Path
) -> None:
    assert run("retrieve", "--sequence", sequence, *map(str, OPTIONS)).status == 0
    assert run("retrieve", "--sequence", sequence, "--min-score", "0").status == 0
    assert run("retrieve", "--sequence", sequence).status == 0
    assert _filters(server) == [WHOLE_MESSAGE, retrieval_pb2.Filter(min_score=0), None]


def test_request_prints_the_filter_that_retrieve_sends(
    server: FakeServer, run: Run, sequence: Path
) -> None:
    arguments = ("--sequence", sequence, *map(str, OPTIONS))
    printed = run("request", *arguments).out
    run("retrieve", *arguments)
    assert [json_format.Parse(printed, retrieval_pb2.RetrieveRequest())] == server.requests
    assert "filter" not in json.loads(run("request", "--sequence", sequence).out)


@pytest.mark.parametrize("command", ["retrieve", "request"])
@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--since", "yesterday", "must be a time of ISO 8601"),
        ("--since", "2026-05-01T12:30:00", "must have a time zone"),
        ("--before", "2026-05-01", "must have a time zone"),
        ("--before", "1969-12-31T00:00:00Z", "must not lie before 1970"),
        ("--label", "\udcff", "any_labels"),
        ("--exclude", "0", "--exclude"),
        ("--exclude", str(2**64), "--exclude"),
        ("--exclude-author", "x", "--exclude-author"),
        ("--min-score", "high", "--min-score"),
    ],
)
def test_a_wrong_condition_is_status_2(
    server: FakeServer, run: Run, sequence: Path, command: str, option: str, value: str, why: str
) -> None:
    status, out, err = run(command, "--sequence", sequence, option, value)
    assert (status, out) == (2, "")
    assert why in err
    assert server.requests == []
