import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_server.corpus.memory.id_map import NOWHERE, IdMap

_LARGEST = 2**64 - 1
_MIX = 0x9E3779B97F4A7C15


def _colliding(place: int, count: int) -> list[int]:
    """Return ids with the same first slot in any table: `place` of 2**20, half of it of 2**19."""
    unmix = pow(_MIX, -1, 2**64)
    return [((place << 44) + n + 1) * unmix % 2**64 for n in range(count)]


_POOL = np.array(
    [
        *_colliding(2**20 - 1, 20),  # they wrap around to the first slots
        *_colliding(0, 20),
        *_colliding(2**19, 20),
        *range(1, 20),
        *range(2**64 - 20, 2**64),
    ],
    np.uint64,
)


def _rows(rows: dict[int, int], ids: npt.NDArray[np.uint64]) -> list[int]:
    return [rows.get(post_id, NOWHERE) for post_id in ids.tolist()]


@settings(max_examples=80)
@given(
    expected=st.sampled_from([0, 1, 100]),
    steps=st.lists(
        st.tuples(
            st.booleans(),
            st.lists(st.integers(0, len(_POOL) - 1), unique=True),
        ),
        max_size=30,
    ),
)
def test_rows_are_those_of_a_dict(expected: int, steps: list[tuple[bool, list[int]]]) -> None:
    table, model = IdMap(expected), dict[int, int]()
    row = 0
    for put, places in steps:
        ids = _POOL[places]
        if put:
            rows = np.arange(row, row + len(ids), dtype=np.int32)
            row += len(ids)
            table.put(ids, rows)
            model.update(zip(ids.tolist(), rows.tolist(), strict=True))
        else:
            ids = ids[[post_id in model for post_id in ids.tolist()]]
            table.remove(ids)
            for post_id in ids.tolist():
                del model[post_id]
        assert len(table) == len(model)
        assert table.find(_POOL).tolist() == _rows(model, _POOL)


def test_a_table_grows_as_posts_come_and_go() -> None:
    rng = np.random.default_rng(0)
    pool = np.unique(rng.integers(1, 2**64, 60_000, np.uint64))
    rng.shuffle(pool)
    table, rows = IdMap(), np.full(len(pool), NOWHERE, np.int32)
    for step in range(60):
        end = (step + 1) * len(pool) // 60
        chosen = rng.choice(end, end // 3, replace=False)
        if step % 3 == 1:
            chosen = chosen[rows[chosen] != NOWHERE]
            table.remove(pool[chosen])
            rows[chosen] = NOWHERE
        else:
            rows[chosen] = rng.integers(0, 2**31, len(chosen))
            table.put(pool[chosen], rows[chosen])
        assert len(table) == np.count_nonzero(rows != NOWHERE)
    np.testing.assert_array_equal(table.find(pool), rows)
    np.testing.assert_array_equal(table.find(pool ^ np.uint64(1)), NOWHERE)


def test_thousands_of_ids_that_share_a_place_are_told_apart() -> None:
    ids = np.array(_colliding(2**20 - 5, 2000), np.uint64)
    table = IdMap(10)
    table.put(ids[:1500], np.arange(1500, dtype=np.int32))
    table.remove(ids[:1500:2])
    table.put(ids[500:], np.arange(500, 2000, dtype=np.int32))
    expected = np.arange(2000)
    expected[:500:2] = NOWHERE
    np.testing.assert_array_equal(table.find(ids), expected)
    assert len(table) == 1750


def test_a_post_that_comes_and_goes_for_ever_takes_no_more_room() -> None:
    table, ids = IdMap(), np.array([_LARGEST, 3], np.uint64)
    for row in range(300):
        table.put(ids, np.array([row, row + 1], np.int32))
        other = np.array([1000 + row], np.uint64)
        table.put(other, np.array([7], np.int32))
        table.remove(other)
        assert table.find(np.append(ids, other)).tolist() == [row, row + 1, NOWHERE]
        table.remove(ids)
        assert table.find(ids).tolist() == [NOWHERE, NOWHERE]
    assert len(table) == 0


def test_nothing_is_found_of_nothing_and_repeats_are_found_each_time() -> None:
    table = IdMap()
    assert table.find(np.zeros(0, np.uint64)).tolist() == []
    table.put(np.array([_LARGEST], np.uint64), np.array([0], np.int32))
    asked = np.array([_LARGEST, 1, _LARGEST], np.uint64)
    assert table.find(asked).tolist() == [0, NOWHERE, 0]
