import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_server.search.ranking import exact_ranks


@settings(max_examples=300)
@given(
    scores=st.lists(
        st.one_of(st.sampled_from([-np.inf, -1.0, 0.0, 0.5]), st.floats(-1, 1, width=32).map(abs)),
        min_size=1,
        max_size=40,
    ),
    data=st.data(),
)
def test_ranks_equal_those_of_sorting_by_score_and_id(
    scores: list[float], data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(0, len(scores) - 1), max_size=10))
    ids = data.draw(
        st.lists(
            st.one_of(st.integers(1, 50), st.integers(2**64 - 50, 2**64 - 1)),
            min_size=len(scores),
            max_size=len(scores),
            unique=True,
        )
    )
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], ids[row]))
    ranks = exact_ranks(
        np.array(scores, np.float32), np.array(ids, np.uint64), np.array(rows, np.int32)
    )
    assert ranks.tolist() == [order.index(row) + 1 for row in rows]
