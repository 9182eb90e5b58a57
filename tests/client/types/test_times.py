from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from phoenix_client.types.times import (
    LAST_UNIX_MS,
    bound_to_unix_ms,
    from_unix_ms,
    to_unix_ms,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def test_milliseconds_become_times_in_utc_and_back() -> None:
    moment = datetime(2026, 5, 1, 12, 30, 0, 123_000, tzinfo=UTC)
    unix_ms = to_unix_ms(moment)
    assert from_unix_ms(unix_ms) == moment
    assert to_unix_ms(moment.astimezone(timezone(timedelta(hours=9)))) == unix_ms
    assert to_unix_ms(moment + timedelta(microseconds=999)) == unix_ms
    last = from_unix_ms(LAST_UNIX_MS)
    assert last is not None
    assert (last.year, to_unix_ms(last)) == (9999, LAST_UNIX_MS)


def test_zero_stands_for_an_unknown_time() -> None:
    assert from_unix_ms(0) is None
    with pytest.raises(ValueError, match="must lie after the start of 1970"):
        to_unix_ms(_EPOCH)
    assert to_unix_ms(_EPOCH + timedelta(milliseconds=1)) == 1


def test_a_bound_may_be_the_start_of_1970_but_not_lie_before() -> None:
    assert bound_to_unix_ms(_EPOCH) == 0
    with pytest.raises(ValueError, match="must not lie before 1970, is 1969-12-31"):
        bound_to_unix_ms(_EPOCH - timedelta(microseconds=1))


def test_a_time_without_a_zone_is_refused() -> None:
    for convert in (to_unix_ms, bound_to_unix_ms):
        with pytest.raises(ValueError, match="must have a time zone, is 2026-05-01T00:00:00"):
            convert(datetime(2026, 5, 1))
