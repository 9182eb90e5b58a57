import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_cases import GOLDEN_DIR
from phoenix_model import HashFunctions, hash_ids

_PADDING_ROWS = 65  # of the published sample's unified table, ahead of the users
_INT64 = st.integers(-(2**63), 2**63 - 1)


def _published_functions() -> dict[str, HashFunctions]:
    path = GOLDEN_DIR / "published_layout" / "retrieval" / "config.json"
    config = json.loads(path.read_text())
    constants = config["hash_params"]
    return {
        kind: HashFunctions(
            scales=tuple(constants[f"{kind}_hash_scales"]),
            biases=tuple(constants[f"{kind}_biases"]),
            modulus=constants[f"{kind}_modulus"],
            vocab_size=config[f"{kind}_vocab_size"],
        )
        for kind in ("user", "item", "author")
    }


def _functions(**changes: Any) -> HashFunctions:
    fields: dict[str, Any] = {"scales": (3, 5), "biases": (7, 11), "modulus": 101, "vocab_size": 13}
    return HashFunctions(**(fields | changes))


def _wrap(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def test_rows_equal_the_published_hashes() -> None:
    expected = json.loads((GOLDEN_DIR / "published_layout" / "expected_hashes.json").read_text())
    ids = np.array(expected["ids"], np.uint64)
    offset = _PADDING_ROWS
    for kind, functions in _published_functions().items():
        rows = hash_ids(ids, functions)
        unified = np.where(rows == 0, 0, rows + offset)
        np.testing.assert_array_equal(unified, expected[kind])
        offset += functions.vocab_size


@given(
    ids=st.lists(_INT64, min_size=1, max_size=7),
    constants=st.lists(st.tuples(_INT64, _INT64), min_size=1, max_size=3),
    modulus=st.integers(1, 2**63 - 1),
    vocab_size=st.integers(2, 2**31),
)
def test_rows_equal_arbitrary_precision_arithmetic(
    ids: list[int], constants: list[tuple[int, int]], modulus: int, vocab_size: int
) -> None:
    scales, biases = zip(*constants, strict=True)
    functions = HashFunctions(scales=scales, biases=biases, modulus=modulus, vocab_size=vocab_size)
    expected = [
        [0 if i == 0 else _wrap(i * a + b) % modulus % (vocab_size - 1) + 1 for a, b in constants]
        for i in ids
    ]
    np.testing.assert_array_equal(hash_ids(np.array(ids, np.int64), functions), expected)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)])
def test_rows_get_one_more_axis_than_ids(shape: tuple[int, ...]) -> None:
    rows = hash_ids(np.full(shape, 2**64 - 1, np.uint64), _functions())
    assert rows.shape == (*shape, 2)
    assert rows.dtype == np.int32


def test_signed_and_unsigned_ids_of_the_same_bits_hash_alike() -> None:
    ids = np.array([1, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)
    functions = _published_functions()["item"]
    np.testing.assert_array_equal(hash_ids(ids, functions), hash_ids(ids.view(np.int64), functions))


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.bool_])
def test_ids_that_are_not_64_bit_integers_are_refused(dtype: Any) -> None:
    with pytest.raises(TypeError, match="ids must be uint64 or int64"):
        hash_ids(np.ones(3, dtype), _functions())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scales", ()),
        ("scales", (1, 2**63)),
        ("biases", (1,)),
        ("biases", (1, -(2**63) - 1)),
        ("modulus", 0),
        ("modulus", 2**63),
        ("vocab_size", 1),
        ("vocab_size", 2**31 + 1),
    ],
)
def test_invalid_hash_functions_name_the_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        _functions(**{field: value})
