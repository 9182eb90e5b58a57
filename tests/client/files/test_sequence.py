from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_client import (
    Action,
    Engagement,
    SequenceError,
    User,
    load_sequence,
    load_sequences,
    parse_sequence,
)

ENTRY = {"post_id": 2, "author_id": 3, "actions": {"1": 1.0}}


def _text(*entries: object, **members: object) -> str:
    return json.dumps({"user_id": 1, "history": entries} | members)


def test_reads_the_published_format(tmp_path: Path) -> None:
    file = tmp_path / "example_sequence.json"
    file.write_text(
        """{
         "user_id": 2023071280809351541,
         "history": [
          {"post_id": 1971001989099926097, "author_id": 2614952086688727174,
           "actions": {"11": 1.0, "1": 1.0, "5": 0.0}},
          {"post_id": 18446744073709551615, "author_id": 9007199254740993,
           "actions": {}, "product_surface": 5, "dwell_time_ms": 1200}
         ]
        }"""
    )
    user = load_sequence(file)
    assert user.user_id == 2023071280809351541
    assert list(user.history) == [
        Engagement(1971001989099926097, 2614952086688727174, {Action.FAVORITE, Action.DWELL}),
        Engagement(2**64 - 1, 2**53 + 1, frozenset(), 5),
    ]


@given(st.integers(0, 2**64 - 1))
def test_ids_are_exact_as_numbers_and_as_strings(user_id: int) -> None:
    assert parse_sequence(_text(user_id=user_id)) == User(user_id)
    assert parse_sequence(_text(user_id=str(user_id))) == User(user_id)


def test_an_action_of_a_later_model_is_kept() -> None:
    (engagement,) = parse_sequence(_text(ENTRY | {"actions": {"63": 1}})).history
    assert engagement.actions == {63}


def _with(**members: object) -> dict[str, Any]:
    return ENTRY | members


@pytest.mark.parametrize(
    ("text", "location", "problem"),
    [
        ("[]", "", "must be an object, is an array"),
        ('{"history": []}', "user_id", "is missing"),
        ('{"user_id": 1}', "history", "is missing"),
        (_text(history={}), "history", "must be an array, is an object"),
        (_text(user_id=-1), "user_id", "must be an integer from 0 to 2^64 - 1, is -1"),
        (_text(user_id=2**64), "user_id", f"must be an integer from 0 to 2^64 - 1, is {2**64}"),
        (_text(user_id=str(2**64)), "user_id", "must be an integer"),
        (_text(user_id=1.0), "user_id", "must be an integer from 0 to 2^64 - 1, is 1.0"),
        (_text(user_id=True), "user_id", "must be an integer from 0 to 2^64 - 1, is true"),
        (_text(user_id=" 7"), "user_id", 'must be an integer from 0 to 2^64 - 1, is " 7"'),
        (_text(user_id="007"), "user_id", "must be an integer"),
        (_text(user_id="\u0667"), "user_id", "must be an integer"),
        (_text(user_id="9" * 5000), "user_id", "..."),
        (_text(ENTRY, 7), "history[1]", "must be an object, is 7"),
        (_text(ENTRY, {"post_id": 1}), "history[1].author_id", "is missing"),
        (_text(_with(post_id=None)), "history[0].post_id", "is null"),
        (_text(_with(actions=[1])), "history[0].actions", "must be an object"),
        (_text(_with(actions={"99": 1})), 'history[0].actions["99"]', "a number up to 63"),
        (_text(_with(actions={"64": 0})), 'history[0].actions["64"]', "a number up to 63"),
        (_text(_with(actions={'"\n': 1})), 'history[0].actions["\\"\\n"]', "a number up to 63"),
        (_text(_with(actions={"like": 1})), 'history[0].actions["like"]', "a number up to 63"),
        (_text(_with(actions={"01": 1})), 'history[0].actions["01"]', "a number up to 63"),
        (_text(_with(actions={"1": 0.5})), 'history[0].actions["1"]', "must be 0 or 1, is 0.5"),
        (_text(_with(actions={"1": -1})), 'history[0].actions["1"]', "must be 0 or 1, is -1"),
        (_text(_with(actions={"1": True})), 'history[0].actions["1"]', "must be 0 or 1, is true"),
        (_text(_with(actions={"1": []})), 'history[0].actions["1"]', "must be 0 or 1, is an array"),
        (
            _text(_with(product_surface=2**32)),
            "history[0].product_surface",
            "must be an integer from 0 to 2^32 - 1",
        ),
        ('{"user_id": ', "", "is not JSON"),
        ('{"user_id": ' + "9" * 5000 + "}", "", "is not JSON"),
        ("[" * 100_000, "", "is not JSON"),
        (b'{"user_id": "\xff"}', "", "is not JSON"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str | bytes, location: str, problem: str) -> None:
    with pytest.raises(SequenceError, match=re.escape(problem)) as caught:
        parse_sequence(text, name="user.json")
    assert caught.value.location == location
    assert str(caught.value).startswith(f"user.json: {location}")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SequenceError, match=r"none\.json: No such file or directory"):
        load_sequence(tmp_path / "none.json")


def test_a_file_of_many_users_is_an_array_of_them(tmp_path: Path) -> None:
    engaged = {"post_id": 5, "author_id": "6", "actions": {"1": 1.0}}
    documents = [{"user_id": 7, "history": [engaged]}, {"user_id": 8, "history": []}]
    file = tmp_path / "users.json"
    file.write_text(json.dumps(documents))
    assert load_sequences(file) == [parse_sequence(json.dumps(each)) for each in documents]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "holds no users"),
        ("{}", "must be an array, is an object"),
        ("[", "is not JSON"),
        ("[3]", "[0]: must be an object, is 3"),
        ('[{"history": []}]', "[0].user_id: is missing"),
        (
            '[{"user_id": 1, "history": []}, {"user_id": 1, "history": [{}]}]',
            "[1].history[0].post_id: is missing",
        ),
    ],
)
def test_a_fault_of_one_of_many_users_names_its_place(
    tmp_path: Path, text: str, problem: str
) -> None:
    file = tmp_path / "users.json"
    file.write_text(text)
    with pytest.raises(SequenceError) as caught:
        load_sequences(file)
    assert str(caught.value).startswith(f"{file}: {problem}")
