"""The times that post ids carry."""

import numpy as np
import numpy.typing as npt

UNKNOWN = 0

_SNOWFLAKE_EPOCH_MS = 1_288_834_974_657
_FIRST_SNOWFLAKE = 1 << 40  # smaller ids would be from the first minutes of the scheme


def carried_times(post_ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return when posts were created, by their [n] ids, in milliseconds since 1970 UTC.

    It is `UNKNOWN` for ids too small to carry a time.
    """
    milliseconds = (post_ids >> np.uint64(22)).astype(np.int64) + _SNOWFLAKE_EPOCH_MS
    return np.where(post_ids < _FIRST_SNOWFLAKE, UNKNOWN, milliseconds)
