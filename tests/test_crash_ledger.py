from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crash_ledger import Answer, Ledger, LostError, check_answer
from phoenix_server.corpus.changes import Change, Labels, Posts
from server.corpus.reference import Model, Post

_IDS = st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True)
_KINDS = st.lists(st.tuples(st.booleans(), _IDS), max_size=6)


def _posts(ids: Sequence[int], author_id: int) -> Posts:
    n = len(ids)
    return Posts(
        post_ids=np.array(ids, np.uint64),
        author_ids=np.full(n, author_id, np.uint64),
        created_at_unix_ms=np.zeros(n, np.int64),
        labels=Labels.none(n),
        vectors=np.zeros((n, 0), np.float32),
    )


def _changes(kinds: Sequence[tuple[bool, list[int]]]) -> list[Change]:
    return [
        _posts(ids, author_id) if is_write else np.array(ids, np.uint64)
        for author_id, (is_write, ids) in enumerate(kinds, 1)
    ]


def _held(changes: Sequence[Change]) -> Model:
    held = Model()
    for change in changes:
        if isinstance(change, Posts):
            for post_id, author_id in zip(change.post_ids, change.author_ids, strict=True):
                held[int(post_id)] = Post(int(author_id), 0, (), b"")
        else:
            for post_id in change.tolist():
                held.pop(post_id, None)
    return held


def _ledger(changes: Sequence[Change], unanswered: set[int]) -> Ledger:
    ledger = Ledger(Model())
    for number, change in enumerate(changes, 1):
        ledger.sent(change)
        if number not in unanswered:
            ledger.acknowledged(change, number)
    return ledger


@given(_KINDS, st.sets(st.integers(1, 6), max_size=3))
def test_unacknowledged_changes_may_lie_in_any_gap_or_be_lost(
    kinds: list[tuple[bool, list[int]]], unanswered: set[int]
) -> None:
    changes = _changes(kinds)
    ledger = _ledger(changes, unanswered)
    ledger.sent(_posts([1, 2], 99))  # never came
    held = _held(changes)
    ledger.settle(len(changes), held)
    assert ledger.model == held
    assert ledger.model.sequence == len(changes)
    assert ledger.found == sum(number in unanswered for number in range(1, len(changes) + 1))


@given(_KINDS.filter(bool), st.data())
def test_a_lost_or_unknown_post_is_reported(
    kinds: list[tuple[bool, list[int]]], data: st.DataObject
) -> None:
    changes = _changes(kinds)
    held = _held(changes)
    post_id = data.draw(st.integers(1, 6))
    if post_id in held:
        del held[post_id]
    else:
        held.apply(_posts([post_id], 98))
    with pytest.raises(LostError, match=f"posts differ .*{post_id}"):
        _ledger(changes, set()).settle(len(changes), held)


def test_a_lost_acknowledged_change_is_reported() -> None:
    changes = _changes([(True, [1]), (True, [1]), (True, [1])])
    with pytest.raises(LostError, match="at change 2; 3 was answered"):
        _ledger(changes, set()).settle(2, _held(changes[:2]))
    with pytest.raises(LostError, match="must have taken 1"):
        _ledger(changes, set()).settle(4, _held(changes))
    with pytest.raises(LostError, match="number 1 was given twice"):
        _ledger(changes, set()).acknowledged(changes[0], 1)


def test_an_answer_that_is_not_exact_is_reported() -> None:
    model = Model.of(replace(_posts([9, 3, 5, 7], 1), vectors=np.eye(4, dtype=np.float32)))
    user = np.array([0.5, 0.5, 0.1, 0.7], np.float32)
    good = Answer(user, [7, 3, 9], [0.7, 0.5, 0.5], 4)
    check_answer(good, 3, model, 1e-6)
    for bad in (
        good._replace(post_ids=[7, 9, 3]),  # equal scores come by id
        good._replace(post_ids=[7, 3, 5], scores=[0.7, 0.5, 0.1]),
        good._replace(scores=[0.7, 0.5, 0.4]),
        good._replace(post_ids=[7, 3, 3]),
        good._replace(post_ids=[7, 3], scores=[0.7, 0.5]),
        good._replace(scanned=5),
        good._replace(post_ids=[7, 3, 1]),
    ):
        with pytest.raises(LostError):
            check_answer(bad, 3, model, 1e-6)
