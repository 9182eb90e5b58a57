"""A change that is pending: when it starts, and when it is refused."""

from __future__ import annotations

import pytest

from phoenix_server.corpus.updates.commands import PendingChange
from phoenix_server.errors import PhoenixServerError, StorageError
from server.corpus.change_cases import id_array

_FULL = StorageError("corpus", "the disk is full")


def test_a_change_starts_once_and_cannot_be_cancelled_then() -> None:
    change = PendingChange(id_array(1))
    assert change.start()
    assert not change.future.cancel()
    assert not change.refused


def test_a_cancelled_change_is_not_written() -> None:
    change = PendingChange(id_array(1))
    assert change.future.cancel()
    assert not change.start()
    assert change.refused


@pytest.mark.parametrize("starts", [False, True])
def test_a_refused_change_tells_its_caller_why(starts: bool) -> None:
    change = PendingChange(id_array(1))
    if starts:
        assert change.start()
    change.refuse(_FULL)
    assert change.refused
    assert change.future.exception() is _FULL


def test_refusing_a_cancelled_change_is_harmless() -> None:
    change = PendingChange(id_array(1))
    assert change.future.cancel()
    change.refuse(_FULL)
    assert change.refused and change.future.cancelled()


def test_changes_after_one_that_is_not_written_are_refused() -> None:
    first = PendingChange(id_array(1))
    second = PendingChange(id_array(2), first)
    third = PendingChange(id_array(3), second)
    first.refuse(_FULL)
    for change in (second, third):
        assert not change.start()
        with pytest.raises(PhoenixServerError, match="an earlier change of the stream"):
            change.future.result()


def test_a_started_change_does_not_keep_the_earlier_ones_alive() -> None:
    first = PendingChange(id_array(1))
    second = PendingChange(id_array(2), first)
    assert first.start() and second.start()
    assert second.after is None
