import numpy as np

from phoenix_server.corpus.snowflake import UNKNOWN, carried_times


def test_times_are_those_that_ids_encode() -> None:
    ids = np.array([2_004_433_092_001_269_499, 2**64 - 1, 1 << 40, (1 << 40) - 1, 1], np.uint64)
    epoch_ms = 1_288_834_974_657
    expected = [epoch_ms + (int(post_id) >> 22) for post_id in ids[:3]]
    assert carried_times(ids).tolist() == [*expected, UNKNOWN, UNKNOWN]
