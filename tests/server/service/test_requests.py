from typing import Any

import numpy as np
import pytest

from phoenix_retrieval.v1.manifest_pb2 import ModelSizes
from phoenix_retrieval.v1.user_pb2 import User
from phoenix_server.errors import InvalidRequestError, Violation
from phoenix_server.service.columns import read_ids
from phoenix_server.service.requests import read_candidates, read_top_k, read_user

_MODEL = ModelSizes(num_actions=19, product_surface_vocab_size=16)
_MAX = 2**64 - 1


def _user(**changes: Any) -> User:
    columns: dict[str, Any] = {
        "user_id": 5,
        "post_ids": [11, _MAX, 13],
        "author_ids": [21, 22, _MAX],
        "action_masks": [0, 1, 2**19 - 1],
        "product_surfaces": [0, 15, 3],
    }
    return User(**(columns | changes))


def _violations(user: User, model: ModelSizes = _MODEL, **options: Any) -> tuple[Violation, ...]:
    with pytest.raises(InvalidRequestError) as caught:
        read_user(user, model, 1001, **options)
    for field, description in caught.value.violations:
        assert f"{field}: {description}" in str(caught.value)
    return caught.value.violations


def test_a_user_becomes_columns() -> None:
    columns = read_user(_user(), _MODEL, 1001)
    assert columns.user_id == 5
    assert columns.post_ids.tolist() == [11, _MAX, 13]
    assert columns.author_ids.tolist() == [21, 22, _MAX]
    assert columns.action_masks.tolist() == [0, 1, 2**19 - 1]
    assert columns.product_surfaces.tolist() == [0, 15, 3]
    assert [column.dtype for column in columns[1:]] == [np.uint64] * 3 + [np.uint32]


def test_surfaces_are_zero_unless_given() -> None:
    assert read_user(_user(product_surfaces=[]), _MODEL, 1001).product_surfaces.tolist() == [
        0,
        0,
        0,
    ]


def test_an_id_or_a_history_is_enough() -> None:
    assert len(read_user(User(user_id=_MAX), _MODEL, 1001).post_ids) == 0
    assert read_user(_user(user_id=0), _MODEL, 1001).user_id == 0


def test_a_user_with_neither_id_nor_history_is_refused() -> None:
    for user in (User(), User(product_surfaces=[])):
        assert _violations(user) == (("user", "has neither a user_id nor a history"),)


@pytest.mark.parametrize("column", ["author_ids", "action_masks", "product_surfaces"])
@pytest.mark.parametrize("count", [1, 4])
def test_columns_of_unequal_length_are_named(column: str, count: int) -> None:
    assert _violations(_user(**{column: [1] * count})) == (
        (f"user.{column}", f"has {count} entries, user.post_ids has 3"),
    )


@pytest.mark.parametrize("column", ["author_ids", "action_masks"])
def test_a_missing_column_is_named(column: str) -> None:
    assert _violations(_user(**{column: []})) == (
        (f"user.{column}", "has 0 entries, user.post_ids has 3"),
    )


def test_columns_without_posts_are_named() -> None:
    fields = [violation.field for violation in _violations(_user(post_ids=[]))]
    assert fields == ["user.author_ids", "user.action_masks", "user.product_surfaces"]


@pytest.mark.parametrize("column", ["post_ids", "author_ids"])
def test_an_id_zero_is_named(column: str) -> None:
    assert _violations(_user(**{column: [7, 0, 0]})) == (
        (f"user.{column}[1]", "is 0, which is no id"),
        (f"user.{column}[2]", "is 0, which is no id"),
    )


@pytest.mark.parametrize("bit", [19, 20, 31, 32, 63])
def test_an_action_that_the_model_does_not_have_is_named(bit: int) -> None:
    assert _violations(_user(action_masks=[1, 2, 1 << bit | 1])) == (
        ("user.action_masks[2]", f"bit {bit} is set, the model has actions 0 to 18"),
    )


def test_a_model_of_64_actions_has_them_all() -> None:
    model = ModelSizes(num_actions=64, product_surface_vocab_size=16)
    assert (
        read_user(_user(action_masks=[_MAX] * 3), model, 1001).action_masks.tolist() == [_MAX] * 3
    )


@pytest.mark.parametrize("surface", [16, 2**32 - 1])
def test_a_surface_that_the_model_does_not_have_is_named(surface: int) -> None:
    assert _violations(_user(product_surfaces=[1, surface, 2])) == (
        ("user.product_surfaces[1]", f"is {surface}, the model has surfaces 0 to 15"),
    )


def test_all_columns_are_reported_with_at_most_four_entries_each() -> None:
    user = User(
        post_ids=[0] * 1000,
        author_ids=[0] * 1000,
        action_masks=[_MAX] * 1000,
        product_surfaces=[99] * 1001,
    )
    violations = _violations(user)
    assert {field.partition("[")[0] for field, _ in violations} == {
        "user.post_ids",
        "user.author_ids",
        "user.action_masks",
        "user.product_surfaces",
    }
    assert len(violations) == 4 * 4 + 1


def test_every_field_begins_with_the_path_of_the_user() -> None:
    user = _user(author_ids=[0], post_ids=[0])
    assert {v.field for v in _violations(user, field="target")} == {
        "target.action_masks",
        "target.product_surfaces",
        "target.post_ids[0]",
        "target.author_ids[0]",
    }


@pytest.mark.parametrize("top_k", [1, 1000])
def test_top_k_within_the_limit_passes(top_k: int) -> None:
    assert read_top_k(top_k, 1000) == top_k


@pytest.mark.parametrize("top_k", [0, 1001, 2**32 - 1])
def test_top_k_outside_the_limits_is_named(top_k: int) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_top_k(top_k, 1000)
    assert caught.value.violations == (("top_k", f"is {top_k}, must be from 1 to 1000"),)


def test_post_ids_within_the_limit_pass() -> None:
    assert read_ids("post_ids", [5, 5, _MAX], 3).tolist() == [5, 5, _MAX]


@pytest.mark.parametrize(
    ("post_ids", "violations"),
    [
        ([], [("post_ids", "has 0 entries, must have from 1 to 3")]),
        ([1] * 4, [("post_ids", "has 4 entries, must have from 1 to 3")]),
        ([1, 0, 2], [("post_ids[1]", "is 0, which is no id")]),
    ],
)
def test_invalid_post_ids_are_named(post_ids: list[int], violations: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_ids("post_ids", post_ids, 3)
    assert list(caught.value.violations) == violations
    with pytest.raises(InvalidRequestError) as caught:
        read_candidates(post_ids, [1] * len(post_ids), 3)
    assert list(caught.value.violations) == violations


def test_candidates_within_the_limit_pass() -> None:
    posts, authors = read_candidates([5, 6], [7, _MAX], 3)
    assert (posts.tolist(), authors.tolist()) == ([5, 6], [7, _MAX])


@pytest.mark.parametrize(
    ("author_ids", "violation"),
    [
        ([], ("author_ids", "has 0 entries, post_ids has 2")),
        ([1, 2, 3], ("author_ids", "has 3 entries, post_ids has 2")),
        ([0, 2], ("author_ids[0]", "is 0, which is no id")),
    ],
)
def test_invalid_authors_are_named(author_ids: list[int], violation: tuple[str, str]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_candidates([5, 6], author_ids, 3)
    assert caught.value.violations == (violation,)


@pytest.mark.parametrize("column", ["post_ids", "author_ids", "action_masks", "product_surfaces"])
def test_a_column_that_is_too_long_is_named_before_it_is_read(column: str) -> None:
    assert _violations(_user(**{column: [0] * 1002})) == (
        (f"user.{column}", "has 1002 entries, at most 1001 are accepted"),
    )
