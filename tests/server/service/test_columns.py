import numpy as np
import pytest

from phoenix_server.errors import InvalidRequestError, Violation
from phoenix_server.service.columns import check_count, find_zeros, raise_any, read_ids


def test_the_number_of_entries_is_checked() -> None:
    check_count("requests", 1, 3)
    check_count("requests", 3, 3)
    for count in (0, 4):
        with pytest.raises(InvalidRequestError) as caught:
            check_count("requests", count, 3)
        assert caught.value.violations == (
            ("requests", f"has {count} entries, must have from 1 to 3"),
        )


def test_ids_become_a_column() -> None:
    column = read_ids("post_ids", [5, 2**64 - 1], 2)
    assert column.dtype == np.uint64
    assert column.tolist() == [5, 2**64 - 1]


def test_at_most_four_zeros_are_named() -> None:
    found = [violation.field for violation in find_zeros("ids", np.zeros(9, np.uint64))]
    assert found == ["ids[0]", "ids[1]", "ids[2]", "ids[3]"]


def test_violations_are_raised_together_and_none_are_not() -> None:
    raise_any([])
    violations = [Violation("a", "is odd"), Violation("b", "is odd")]
    with pytest.raises(InvalidRequestError, match="a: is odd; b: is odd") as caught:
        raise_any(iter(violations))
    assert list(caught.value.violations) == violations
