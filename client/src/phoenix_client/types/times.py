"""Convert times between the contract's milliseconds since 1970 UTC and datetimes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

UNKNOWN = 0
"""Stands for a time that is not known."""

LAST_UNIX_MS = 253_402_300_799_999
"""9999-12-31T23:59:59.999 UTC, the last millisecond that a datetime can hold."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def from_unix_ms(unix_ms: int) -> datetime | None:
    """Return a time up to `LAST_UNIX_MS`, in UTC; None if it is not known."""
    return None if unix_ms == UNKNOWN else _EPOCH + unix_ms * _MILLISECOND


def to_unix_ms(moment: datetime) -> int:
    """Return the millisecond in which a time lies.

    Raises:
        ValueError: It has no time zone, or is not after the start of 1970.
    """
    unix_ms = _milliseconds(moment)
    if unix_ms <= UNKNOWN:
        raise ValueError(f"must lie after the start of 1970, is {moment.isoformat()}")
    return unix_ms


def bound_to_unix_ms(moment: datetime) -> int:
    """Return the millisecond in which the bound of a time range lies; it may be the start of 1970.

    Raises:
        ValueError: It has no time zone, or is before 1970.
    """
    unix_ms = _milliseconds(moment)
    if unix_ms < 0:
        raise ValueError(f"must not lie before 1970, is {moment.isoformat()}")
    return unix_ms


def _milliseconds(moment: datetime) -> int:
    if moment.utcoffset() is None:
        raise ValueError(f"must have a time zone, is {moment.isoformat()}")
    return (moment - _EPOCH) // _MILLISECOND
