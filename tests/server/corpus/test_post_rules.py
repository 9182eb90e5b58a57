from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from phoenix_server.corpus.post_rules import (
    MAX_LABEL_BYTES,
    UNKNOWN,
    Fault,
    carried_times,
    find_bad_ids,
    find_bad_labels,
    find_bad_times,
)

NOW_MS = 1_790_000_000_000
DAY_MS = 24 * 60 * 60 * 1000
EPOCH_MS = 1_288_834_974_657


def _id_at(time_ms: int) -> int:
    return (time_ms - EPOCH_MS) << 22


def test_times_are_those_that_ids_encode() -> None:
    ids = np.array([2_004_433_092_001_269_499, 1 << 40, (1 << 40) - 1, 1], np.uint64)
    expected = [EPOCH_MS + (int(post_id) >> 22) for post_id in ids[:2]]
    assert carried_times(ids, NOW_MS).tolist() == [*expected, UNKNOWN, UNKNOWN]


def test_an_id_does_not_carry_a_time_of_the_future() -> None:
    last = NOW_MS + DAY_MS
    ids = np.array([_id_at(last), _id_at(last + 1), 2**63, 2**64 - 1], np.uint64)
    assert carried_times(ids, NOW_MS).tolist() == [last, UNKNOWN, UNKNOWN, UNKNOWN]


def test_a_carried_time_is_a_valid_time() -> None:
    ids = np.random.default_rng(0).integers(0, 2**64, 10_000, np.uint64) >> np.uint64(2)
    assert not find_bad_times(carried_times(ids, NOW_MS), NOW_MS)
    assert not find_bad_times(carried_times(ids, NOW_MS).astype(np.uint64), NOW_MS)


def test_the_id_0_is_invalid() -> None:
    assert not find_bad_ids(np.array([1, 2**64 - 1], np.uint64))
    assert find_bad_ids(np.array([1, 0, 2, 0], np.uint64)) == [
        Fault(1, "is 0, which is no id"),
        Fault(3, "is 0, which is no id"),
    ]


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_times_are_from_1971_to_a_day_from_now(dtype: type[np.int64 | np.uint64]) -> None:
    first, last = 365 * DAY_MS, NOW_MS + DAY_MS
    times: Any = np.array([0, first - 1, first, last, last + 1, 1_790_000_000], dtype)
    unit = "it is in milliseconds since 1970"
    assert find_bad_times(times, NOW_MS) == [
        Fault(1, f"is {first - 1}, before 1971; {unit}"),
        Fault(4, f"is {last + 1}, more than a day from now; {unit}"),
        Fault(5, f"is 1790000000, before 1971; {unit}"),
    ]


def test_a_time_before_1970_is_invalid() -> None:
    (fault,) = find_bad_times(np.array([-1], np.int64), NOW_MS)
    assert fault.what.startswith("is -1, before 1971")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("", "is empty"),
        ("a\nb", "holds a control character"),
        ("\x00", "holds a control character"),
        ("\x7f", "holds a control character"),
        ("\x9b1m", "holds a control character"),
        ("\ud800", "is not valid Unicode: it holds half of a surrogate pair"),
        ("x" * 257, "has 257 characters, at most 256 bytes are accepted"),
        ("é" * 129, "has 258 bytes, at most 256 are accepted"),
    ],
)
def test_an_invalid_label_is_told_why(name: str, what: str) -> None:
    assert find_bad_labels(["fine", name]) == [Fault(1, what)]


@pytest.mark.parametrize(
    "name", [" ", "x" * MAX_LABEL_BYTES, "é" * 128, "👩‍🚀", "naïve café", "数"]
)
def test_any_other_text_is_a_label(name: str) -> None:
    assert not find_bad_labels([name])


@pytest.mark.parametrize(
    "found",
    [
        find_bad_ids(np.zeros(100, np.uint64)),
        find_bad_times(np.ones(100, np.int64), NOW_MS),
        find_bad_labels([""] * 100),
    ],
)
def test_the_first_faults_are_listed(found: Sequence[Fault]) -> None:
    assert [fault.place for fault in found] == [0, 1, 2, 3]
