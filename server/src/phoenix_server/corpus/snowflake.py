"""The creation times that post ids encode (Snowflake ids)."""

import numpy as np

from phoenix_server.runtime.arrays import I64, U64

UNKNOWN = 0

_SNOWFLAKE_EPOCH_MS = 1_288_834_974_657
_MIN_SNOWFLAKE = 1 << 40  # smaller ids would be from the first minutes of the scheme


def carried_times(post_ids: U64) -> I64:
    """Return the creation times in [n] post ids, milliseconds since 1970 UTC.

    The time is `UNKNOWN` for ids too small to encode one.
    """
    milliseconds = (post_ids >> np.uint64(22)).astype(np.int64) + _SNOWFLAKE_EPOCH_MS
    return np.where(post_ids < _MIN_SNOWFLAKE, UNKNOWN, milliseconds)
