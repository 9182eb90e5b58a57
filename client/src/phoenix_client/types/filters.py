"""Conditions on the posts to retrieve."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from phoenix_client.types import times
from phoenix_client.types.columns import u64_column
from phoenix_client.types.labels import label_column


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Conditions, all of which a post must meet. Without any, every post is eligible.

    They apply before selection: the answer is the exact top k of the eligible posts. The server
    rejects a label that is not among `CorpusState.label_names`.

    Attributes:
        created_since: Created at this time or later; with a time zone, to the millisecond. With
            this condition or the next, posts of unknown time are not eligible.
        created_before: Created before this time; with a time zone, to the millisecond.
        any_labels: Has at least one of these labels; empty: no condition. At most 64, as for the
            next two.
        all_labels: Has all of these labels.
        none_labels: Has none of these labels.
        excluded_post_ids: Is none of these posts, for example those that the user has seen; never
            0. They need not be in the corpus. At most `Model.max_excluded` together with the next.
        excluded_author_ids: Is by none of these authors, for example those that the user has
            blocked; never 0.
        min_score: Has at least this score, as a float32. Posts with lower scores count in
            `RetrieveResult.rows_eligible` but are not returned.

    Raises:
        ValueError: A time has no zone or lies before 1970, a label is not valid text, an id is not
            an unsigned 64-bit integer, or the score is not a number. The message starts with the
            field.
    """

    created_since: datetime | None = None
    created_before: datetime | None = None
    any_labels: Sequence[str] = ()
    all_labels: Sequence[str] = ()
    none_labels: Sequence[str] = ()
    excluded_post_ids: Sequence[int] = ()
    excluded_author_ids: Sequence[int] = ()
    min_score: float | None = None

    def __post_init__(self) -> None:
        """Turn the sequences into tuples and check that all values can be sent."""
        for name in ("created_since", "created_before"):
            _check_time(name, getattr(self, name))
        for name in ("any_labels", "all_labels", "none_labels"):
            object.__setattr__(self, name, label_column(name, getattr(self, name)))
        for name in ("excluded_post_ids", "excluded_author_ids"):
            object.__setattr__(self, name, u64_column(name, getattr(self, name)))
        if self.min_score is not None:
            object.__setattr__(self, "min_score", _number("min_score", self.min_score))


def _check_time(name: str, moment: datetime | None) -> None:
    if moment is None:
        return
    try:
        times.bound_to_unix_ms(moment)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _number(name: str, value: float) -> float:
    try:
        return array("d", (value,))[0]
    except (OverflowError, TypeError) as error:
        raise ValueError(f"{name}: must be a number ({error})") from error
