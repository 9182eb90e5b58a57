"""What a post may hold: the rules that all ways into a corpus share, and their words.

A rule returns what is wrong by index; the caller names the column, the file or the field.

Shapes:
    n  values of a column
"""

import re
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from phoenix_server.runtime.arrays import I64, U64, Bools

UNKNOWN = 0
"""The creation time of a post of which none is known."""

MAX_LABEL_BYTES = 256
MAX_FAULTS = 4
"""Maximum faults that are listed for one column."""

_YEAR_MS = 365 * 24 * 60 * 60 * 1000
_DAY_MS = 24 * 60 * 60 * 1000
_SNOWFLAKE_EPOCH_MS = 1_288_834_974_657
_MIN_SNOWFLAKE = 1 << 40  # smaller ids would be from the first minutes of the scheme
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNIT = "it is in milliseconds since 1970"


class Fault(NamedTuple):
    """An invalid value of a column.

    Attributes:
        place: Its index in the column.
        what: What is wrong with it, to follow its name.
    """

    place: int
    what: str


def clock_ms() -> int:
    """Return the current time, in milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


def carried_times(post_ids: U64, now_ms: int) -> I64:
    """Return the creation times in [n] post ids (Snowflake ids), milliseconds since 1970 UTC.

    The time is `UNKNOWN` for ids that encode none: they are too small, or the time would be more
    than a day from now.
    """
    times = (post_ids >> np.uint64(22)).astype(np.int64) + _SNOWFLAKE_EPOCH_MS
    carries = (post_ids >= _MIN_SNOWFLAKE) & (times <= now_ms + _DAY_MS)
    return np.where(carries, times, UNKNOWN)


def find_bad_ids(ids: U64) -> list[Fault]:
    """Return the first invalid ids of posts or authors, [n]: 0 stands for padding in the model."""
    if ids.all():
        return []
    return [Fault(i, "is 0, which is no id") for i in _first(ids == 0)]


def find_bad_times(times: U64 | I64, now_ms: int) -> list[Fault]:
    """Return the first invalid creation times, [n], in milliseconds since 1970 UTC.

    A time is `UNKNOWN`, or from 1971 to a day from now: an earlier one is in seconds.
    """
    early = (times < _YEAR_MS) & (times != UNKNOWN)
    faults = [
        *(Fault(i, f"is {times[i]}, before 1971; {_UNIT}") for i in _first(early)),
        *(
            Fault(i, f"is {times[i]}, more than a day from now; {_UNIT}")
            for i in _first(times > now_ms + _DAY_MS)
        ),
    ]
    return sorted(faults)[:MAX_FAULTS]


def find_bad_labels(names: Sequence[str]) -> list[Fault]:
    """Return the first invalid names of labels."""
    faults: list[Fault] = []
    for i, name in enumerate(names):
        if what := _label_fault(name):
            faults.append(Fault(i, what))
            if len(faults) == MAX_FAULTS:
                break
    return faults


def _label_fault(name: str) -> str:
    if not name:
        return "is empty"
    if len(name) > MAX_LABEL_BYTES:  # before its bytes are counted
        return f"has {len(name)} characters, at most {MAX_LABEL_BYTES} bytes are accepted"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode: it holds half of a surrogate pair"
    if size > MAX_LABEL_BYTES:
        return f"has {size} bytes, at most {MAX_LABEL_BYTES} are accepted"
    return "holds a control character" if _CONTROL.search(name) else ""


def _first(invalid: Bools) -> list[int]:
    return np.flatnonzero(invalid)[:MAX_FAULTS].tolist()
