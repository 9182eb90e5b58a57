from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_client import Action, Engagement, History, User
from phoenix_client.types.users import action_mask, actions_of
from phoenix_retrieval.v1 import user_pb2

U64 = st.integers(0, 2**64 - 1)
ENGAGEMENTS = st.lists(
    st.builds(
        Engagement,
        post_id=U64,
        author_id=U64,
        actions=st.frozensets(st.integers(0, 63)),
        product_surface=st.integers(0, 2**32 - 1),
    )
)


def test_actions_are_those_of_the_contract() -> None:
    contract = {name.removeprefix("ACTION_"): value for name, value in user_pb2.Action.items()}
    assert {action.name: action.value for action in Action} == contract


@given(ENGAGEMENTS)
def test_rows_become_columns_and_rows_again(engagements: list[Engagement]) -> None:
    history = History.from_engagements(engagements)
    assert list(history) == engagements
    assert [history[index] for index in range(len(history))] == engagements


@given(st.lists(st.tuples(U64, U64, U64)))
def test_columns_become_rows_and_columns_again(columns: list[tuple[int, int, int]]) -> None:
    history = History(*zip(*columns, strict=True)) if columns else History()
    assert History.from_engagements(history) == history


@given(ENGAGEMENTS, st.slices(6))
def test_a_slice_of_a_history_is_the_history_of_the_slice(
    engagements: list[Engagement], part: slice
) -> None:
    history = History.from_engagements(engagements)
    assert history[part] == History.from_engagements(engagements[part])


@given(U64)
def test_masks_hold_every_set_of_actions(mask: int) -> None:
    assert action_mask(actions_of(mask)) == mask


def test_known_actions_read_as_members_and_others_as_numbers() -> None:
    (engagement,) = History([1], [2], [1 << 11 | 1 << 40])
    assert engagement.actions == {Action.DWELL, 40}
    assert {type(action) for action in engagement.actions} == {Action, int}


def test_histories_that_say_the_same_are_equal() -> None:
    assert History([1], [2], [3], [0]) == History((1,), (2,), (3,))
    assert hash(History([1], [2], [3], [0])) == hash(History((1,), (2,), (3,)))


def test_rows_are_counted_from_the_end_as_in_a_list() -> None:
    history = History([1, 2], [3, 4], [5, 6])
    assert history[-1].post_id == 2
    for index in (2, -3):
        with pytest.raises(IndexError, match="of 2"):
            history[index]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"post_ids": [-1], "author_ids": [1], "action_masks": [0]}, "post_ids: must be"),
        ({"post_ids": [2**64], "author_ids": [1], "action_masks": [0]}, "post_ids: must be"),
        ({"post_ids": bytes(8), "author_ids": [1], "action_masks": [0]}, "post_ids: must be"),
        ({"post_ids": [1], "author_ids": [0.5], "action_masks": [0]}, "author_ids: must be"),
        ({"post_ids": [1], "author_ids": [], "action_masks": [0]}, "author_ids: has 0 entries"),
        ({"post_ids": [1], "author_ids": [1]}, "action_masks: has 0 entries"),
        (
            {"post_ids": [1], "author_ids": [1], "action_masks": [0], "product_surfaces": [1, 2]},
            "product_surfaces: has 2 entries where post_ids has 1",
        ),
        (
            {"post_ids": [1], "author_ids": [1], "action_masks": [0], "product_surfaces": [2**32]},
            "product_surfaces: must be",
        ),
    ],
)
def test_columns_that_cannot_be_sent_are_refused(
    columns: dict[str, list[int]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        History(**columns)


@pytest.mark.parametrize("action", [-1, 64])
def test_actions_that_cannot_be_sent_are_refused(action: int) -> None:
    with pytest.raises(ValueError, match=f"action {action}: must be from 0 to 63"):
        History.from_engagements([Engagement(1, 2, {action})])


def test_a_user_id_that_cannot_be_sent_is_refused() -> None:
    with pytest.raises(ValueError, match="user_id: must be"):
        User(2**64)
