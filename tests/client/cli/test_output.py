from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_client import Candidates, RetrieveResult
from phoenix_client.cli.output import age, result_text, shortest_float32

NOW = datetime(2030, 6, 1, tzinfo=UTC)


@given(st.floats(width=32, allow_nan=False))
def test_printed_scores_are_the_same_float32_again(score: float) -> None:
    printed = float(str(shortest_float32(score)))
    assert struct.pack("<f", printed) == struct.pack("<f", score)


def test_printed_scores_have_few_digits() -> None:
    (tenth,) = struct.unpack("<f", struct.pack("<f", 0.1))
    assert str(tenth) == "0.10000000149011612"
    assert str(shortest_float32(tenth)) == "0.1"


@pytest.mark.parametrize(
    ("elapsed", "expected"),
    [
        (timedelta(seconds=59.9), "59s"),
        (timedelta(seconds=60), "1m"),
        (timedelta(hours=23, minutes=59), "23h"),
        (timedelta(days=364), "364d"),
        (timedelta(days=800), "2y"),
        (timedelta(hours=-1), "0s"),
    ],
)
def test_age_is_in_the_largest_unit(elapsed: timedelta, expected: str) -> None:
    assert age(NOW - elapsed, NOW) == expected


def test_an_unknown_age_is_a_dash() -> None:
    assert age(None, NOW) == "-"


def _printed(candidates: Candidates) -> str:
    return result_text(RetrieveResult("g-1", 1_000_000, 999, candidates), NOW)


@pytest.mark.parametrize("width", ["1", "20", "80", "300"])
def test_a_table_is_whole_at_any_width(width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    labels = tuple(f"label-{index}" for index in range(30))
    created_at_unix_ms = round((NOW - timedelta(days=3)).timestamp() * 1000)
    candidates = Candidates(
        post_ids=(2**64 - 1,),
        scores=(-0.123456789,),
        author_ids=(2**63 + 1,),
        created_at_unix_ms=(created_at_unix_ms,),
        labels=(labels,),
    )
    heading, *_, row = (line for line in _printed(candidates).splitlines() if line.strip())
    assert heading == "generation g-1: 1,000,000 rows scanned, 999 eligible"
    assert row.split() == [
        "1",
        "18446744073709551615",
        "9223372036854775809",
        "3d",
        *", ".join(labels).split(),
        "-0.12345679",
    ]


def test_labels_cannot_steer_the_terminal() -> None:
    printed = _printed(Candidates((1,), (0.5,), labels=(("[red]a[/red]", "\x1b[2J", "b\nc"),)))
    assert "[red]a[/red], \ufffd[2J, b\ufffdc" in printed


def test_columns_that_are_not_known_are_dashes() -> None:
    row = _printed(Candidates((7,), (0.5,))).rstrip().splitlines()[-1]
    assert row.split() == ["1", "7", "-", "-", "0.5"]
