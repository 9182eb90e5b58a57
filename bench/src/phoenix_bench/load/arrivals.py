"""When calls are due, whatever becomes of the ones before."""

import numpy as np
import numpy.typing as npt


def poisson_arrivals(rate: float, duration_s: float, seed: int) -> npt.NDArray[np.float64]:
    """Return when calls are due that come independently of each other, ascending.

    Args:
        rate: Calls a second, on average.
        duration_s: No call is due after it, in seconds.
        seed: Of what is drawn: the same seed gives the same times.

    Raises:
        ValueError: The rate or the duration is not positive.
    """
    if not (rate > 0 and duration_s > 0):
        raise ValueError(f"rate {rate} and duration {duration_s}: must be positive")
    rng = np.random.default_rng(seed)
    count = rng.poisson(rate * duration_s)  # given their number, the times are uniform
    return np.sort(rng.uniform(0, duration_s, count))
