import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_model import HashFunctions as ModelHashFunctions
from phoenix_model import hash_ids
from phoenix_server.bundle.bundle import Bundle
from phoenix_server.bundle.features import FeatureBuilder, HashFunctions, UserColumns
from server.cases import HISTORY_LENGTH, newest, random_user

_PADDING_ROWS = 65  # of the published sample's unified table, ahead of the users
_INT64 = st.integers(-(2**63), 2**63 - 1)
_U64 = st.integers(0, 2**64 - 1)


def _functions(**changes: Any) -> HashFunctions:
    fields: dict[str, Any] = {
        "scales": np.array([3, 5], np.int64),
        "biases": np.array([7, 11], np.int64),
        "modulus": 101,
        "vocab_size": 13,
    }
    return HashFunctions(**(fields | changes))


def _kinds(features: FeatureBuilder) -> dict[str, HashFunctions]:
    return {
        "user": features.user_hash,
        "item": features.item_hash,
        "author": features.author_hash,
    }


def test_rows_equal_the_published_hashes(golden_layout: Path, bundle: Bundle) -> None:
    expected = json.loads((golden_layout / "expected_hashes.json").read_text())
    ids = np.array(expected["ids"], np.uint64)
    offset = _PADDING_ROWS
    for kind, functions in _kinds(bundle.features).items():
        rows = functions.rows(ids)
        np.testing.assert_array_equal(np.where(rows == 0, 0, rows + offset), expected[kind])
        offset += functions.vocab_size


@given(
    ids=st.lists(_U64, min_size=1, max_size=9),
    constants=st.lists(st.tuples(_INT64, _INT64), min_size=1, max_size=3),
    modulus=st.integers(1, 2**63 - 1),
    vocab_size=st.integers(2, 2**31),
)
def test_rows_equal_the_models(
    ids: list[int], constants: list[tuple[int, int]], modulus: int, vocab_size: int
) -> None:
    scales, biases = (tuple(values) for values in zip(*constants, strict=True))
    ours = HashFunctions(
        scales=np.array(scales, np.int64),
        biases=np.array(biases, np.int64),
        modulus=modulus,
        vocab_size=vocab_size,
    )
    theirs = ModelHashFunctions(
        scales=scales, biases=biases, modulus=modulus, vocab_size=vocab_size
    )
    column = np.array([*ids, 0, 2**64 - 1], np.uint64)
    rows = ours.rows(column)
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(rows, hash_ids(column, theirs))
    np.testing.assert_array_equal(ours.rows(column[None, :, None])[0, :, 0], rows)


@pytest.mark.parametrize(
    "changes",
    [
        {"scales": np.array([], np.int64), "biases": np.array([], np.int64)},
        {"scales": np.array([3], np.int64)},
        {"scales": np.array([[3, 5]], np.int64), "biases": np.array([[7, 11]], np.int64)},
        {"modulus": 0},
        {"modulus": -1},
        {"vocab_size": 1},
        {"vocab_size": 2**31 + 1},
    ],
)
def test_invalid_hash_functions_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        _functions(**changes)


def _users(bundle: Bundle, *users: UserColumns, batch_size: int, length: int) -> dict[str, Any]:
    return bundle.features.users(users, batch_size, length)


def test_users_are_padded_with_zeros(bundle: Bundle) -> None:
    users = [random_user(n) for n in (3, 0, 5)]
    inputs = _users(bundle, *users, batch_size=4, length=7)
    shapes = {name: (array.shape, array.dtype.name) for name, array in inputs.items()}
    assert shapes == {
        "user_rows": ((4, 2), "int32"),
        "history_post_rows": ((4, 7, 2), "int32"),
        "history_author_rows": ((4, 7, 2), "int32"),
        "history_action_words": ((4, 7, 2), "uint32"),
        "history_product_surfaces": ((4, 7), "int32"),
    }
    features = bundle.features
    for i, user in enumerate(users):
        n = len(user.post_ids)
        ids = np.array([user.user_id], np.uint64)
        np.testing.assert_array_equal(inputs["user_rows"][i], features.user_hash.rows(ids)[0])
        for name, expected in {
            "history_post_rows": features.item_hash.rows(user.post_ids),
            "history_author_rows": features.author_hash.rows(user.author_ids),
            "history_product_surfaces": user.product_surfaces,
        }.items():
            np.testing.assert_array_equal(inputs[name][i, :n], expected)
            assert not inputs[name][i, n:].any()
        assert not inputs["history_action_words"][i, n:].any()
    assert not any(array[3].any() for array in inputs.values())


def test_a_user_without_an_id_gets_padding(bundle: Bundle) -> None:
    inputs = _users(bundle, random_user(2, user_id=0), batch_size=1, length=2)
    assert not inputs["user_rows"].any()
    assert inputs["history_post_rows"].all()


@pytest.mark.parametrize("length", [HISTORY_LENGTH, HISTORY_LENGTH + 1, 1000])
def test_truncation_keeps_the_newest(bundle: Bundle, length: int) -> None:
    user = random_user(length)
    cut, expected = (
        _users(bundle, each, batch_size=1, length=HISTORY_LENGTH)
        for each in (user, newest(user, HISTORY_LENGTH))
    )
    for name, array in cut.items():
        np.testing.assert_array_equal(array, expected[name])
    assert cut["history_post_rows"].all()


def test_users_of_one_key_are_equal_for_the_tower(bundle: Bundle) -> None:
    key = bundle.features.user_key
    user = random_user(HISTORY_LENGTH + 9)
    other_past: dict[str, Any] = {
        name: np.concatenate([np.ones_like(column[:9]), column[9:]])
        for name, column in user._asdict().items()
        if name != "user_id"
    }
    assert key(user._replace(**other_past), "tower") == key(user, "tower")
    assert key(newest(user, HISTORY_LENGTH), "tower") == key(user, "tower")
    assert key(newest(user, HISTORY_LENGTH - 1), "tower") != key(user, "tower")
    assert len(key(user, "tower")) == 32
    assert key(user, "another tower") != key(user, "tower")


@pytest.mark.parametrize("place", [9, HISTORY_LENGTH + 8])  # the oldest and the newest it sees
@pytest.mark.parametrize("column", UserColumns._fields)
def test_users_who_differ_for_the_tower_have_keys_of_their_own(
    bundle: Bundle, column: str, place: int
) -> None:
    user = random_user(HISTORY_LENGTH + 9)
    changed = np.array(getattr(user, column))
    changed[() if column == "user_id" else place] += 1
    other = user._replace(**{column: changed})
    key = bundle.features.user_key
    assert key(other, "tower") != key(user, "tower")


def test_a_key_says_which_column_an_element_is_of(bundle: Bundle) -> None:
    one, two, none = (np.arange(1, n + 1, dtype=np.uint64) for n in (1, 2, 0))
    surfaces = [np.zeros(n, np.uint32) for n in range(5)]
    users = [
        UserColumns(0, none, none, none, surfaces[0]),
        UserColumns(1, none, none, none, surfaces[0]),
        UserColumns(0, one, one, one, surfaces[1]),
        UserColumns(0, one, one + one, one, surfaces[1]),
        UserColumns(0, one + one, one, one, surfaces[1]),
        UserColumns(0, one, one, one + one, surfaces[1]),
        UserColumns(0, two, two, two, surfaces[2]),
        UserColumns(0, two[::-1], two, two, surfaces[2]),
    ]
    assert len({bundle.features.user_key(user, "t") for user in users}) == len(users)


def test_action_words_come_low_word_first(bundle: Bundle) -> None:
    masks = [1, 1 << 31, 1 << 32, (5 << 32) | 3, 2**64 - 1]
    user = random_user(5)._replace(action_masks=np.array(masks, np.uint64))
    words = _users(bundle, user, batch_size=1, length=5)["history_action_words"]
    assert words[0].tolist() == [[mask & (2**32 - 1), mask >> 32] for mask in masks]


def test_candidates_are_padded_with_zeros(bundle: Bundle) -> None:
    posts, authors = np.array([[5, 2**63], [6, 2**64 - 1]], np.uint64)
    inputs = bundle.features.candidates(posts, authors, 5)
    for name, functions, ids in (
        ("post_rows", bundle.features.item_hash, posts),
        ("author_rows", bundle.features.author_hash, authors),
    ):
        assert inputs[name].shape == (5, 2)
        np.testing.assert_array_equal(inputs[name][:2], functions.rows(ids))
        assert inputs[name][:2].all()
        assert not inputs[name][2:].any()
