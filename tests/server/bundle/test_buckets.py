import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_server.bundle.buckets import Chunk, plan_users

SIZES = [(b, s) for b in (1, 4, 8) for s in (16, 127)]


def test_users_of_one_length_run_together() -> None:
    assert plan_users([3, 127, 16, 17, 0], SIZES) == [
        Chunk((1,), 1, 127),
        Chunk((3,), 1, 127),
        Chunk((0, 2, 4), 4, 16),
    ]


@pytest.mark.parametrize(
    ("users", "batches"),
    [(1, [1]), (2, [1, 1]), (3, [4]), (4, [4]), (5, [8]), (8, [8]), (9, [8, 1]), (13, [8, 8])],
)
def test_a_batch_is_the_largest_that_is_more_than_half_full(users: int, batches: list[int]) -> None:
    assert [chunk.batch_size for chunk in plan_users([5] * users, SIZES)] == batches


def test_what_is_not_compiled_is_not_used() -> None:
    assert plan_users([3, 3, 17], [(8, 127)]) == [Chunk((0, 1, 2), 8, 127)]
    with pytest.raises(ValueError, match="128 is more than any of 16, 127"):
        plan_users([128], SIZES)


@pytest.mark.parametrize(
    ("users", "lanes", "batches"),
    [
        (1, 2, [1]),
        (2, 2, [1, 1]),
        (5, 2, [1, 1, 1, 1, 1]),
        (7, 2, [4, 4]),
        (8, 2, [4, 4]),
        (16, 2, [8, 8]),
        (8, 8, [1] * 8),
        (32, 8, [4] * 8),
    ],
)
def test_users_are_shared_out_between_lanes(users: int, lanes: int, batches: list[int]) -> None:
    assert [chunk.batch_size for chunk in plan_users([127] * users, SIZES, lanes)] == batches


def test_lanes_take_the_costliest_runs_first() -> None:
    chunks = plan_users([3, 127, 3, 3], SIZES, 2)
    assert [chunk.length for chunk in chunks] == [127, 16]


@given(
    lengths=st.lists(st.integers(0, 127), max_size=40),
    others=st.lists(st.integers(0, 127), max_size=10),
    lanes=st.integers(1, 16),
)
def test_every_user_runs_once_in_a_program_that_fits(
    lengths: list[int], others: list[int], lanes: int
) -> None:
    chunks = plan_users(lengths + others, SIZES, lanes)
    places = [place for chunk in chunks for place in chunk.users]
    assert sorted(places) == list(range(len(lengths + others)))
    for users, batch, length in chunks:
        assert len(users) <= batch
        assert (batch, length) in SIZES
        # The length does not depend on the neighbours.
        assert all(length == (16 if (lengths + others)[user] <= 16 else 127) for user in users)
