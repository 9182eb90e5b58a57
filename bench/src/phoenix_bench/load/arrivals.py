"""Draw due times of open-loop calls, independent of earlier answers."""

import numpy as np
import numpy.typing as npt


def poisson_arrivals(rate: float, duration_s: float, seed: int) -> npt.NDArray[np.float64]:
    """Return the due times of independent calls, in seconds, ascending.

    Args:
        rate: Mean number of calls per second.
        duration_s: Upper bound of the due times, in seconds.
        seed: Random seed; the same seed gives the same times.

    Raises:
        ValueError: The rate or the duration is not positive.
    """
    if not (rate > 0 and duration_s > 0):
        raise ValueError(f"rate {rate} and duration {duration_s}: must be positive")
    rng = np.random.default_rng(seed)
    count = rng.poisson(rate * duration_s)  # given their number, Poisson arrivals are uniform
    return np.sort(rng.uniform(0, duration_s, count))
