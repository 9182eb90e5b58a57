"""Results of the calls of a run.

Shapes:
    n  calls, in the order in which they were due
"""

from typing import NamedTuple

import grpc
import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]

OK = grpc.StatusCode.OK
REFUSED = grpc.StatusCode.RESOURCE_EXHAUSTED
EXPIRED = grpc.StatusCode.DEADLINE_EXCEEDED


class Calls(NamedTuple):
    """The calls of one run. Times count from its start.

    Attributes:
        due_s: [n] f64, time at which the call was due. Latency counts from here.
        sent_s: [n] f64, time at which it was sent.
        ended_s: [n] f64, time at which the caller had the answer or the error.
        codes: [n] i64, numbers of the gRPC statuses.
    """

    due_s: Seconds
    sent_s: Seconds
    ended_s: Seconds
    codes: npt.NDArray[np.int64]

    def latencies_s(self, status: grpc.StatusCode = OK) -> Seconds:
        """Return the times of calls of a status from due to end."""
        which = self.codes == code(status)
        return self.ended_s[which] - self.due_s[which]

    def waits_s(self, status: grpc.StatusCode) -> Seconds:
        """Return the times of calls of a status from sent to end."""
        which = self.codes == code(status)
        return self.ended_s[which] - self.sent_s[which]

    def lags_s(self) -> Seconds:
        """Return how late the generator sent the calls."""
        return self.sent_s - self.due_s

    def count(self, status: grpc.StatusCode) -> int:
        """Return the number of calls that ended with a status."""
        return int((self.codes == code(status)).sum())

    def between(self, begin_s: float, end_s: float) -> "Calls":
        """Return the calls that were due in [begin_s, end_s)."""
        which = (self.due_s >= begin_s) & (self.due_s < end_s)
        return Calls(
            due_s=self.due_s[which],
            sent_s=self.sent_s[which],
            ended_s=self.ended_s[which],
            codes=self.codes[which],
        )

    def statuses(self) -> dict[str, int]:
        """Return the number of calls by name of status, most frequent first."""
        names = {code(status): status.name for status in grpc.StatusCode}
        codes, counts = np.unique(self.codes, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return {names[int(codes[i])]: int(counts[i]) for i in order}


def code(status: grpc.StatusCode) -> int:
    """Return the number of a gRPC status."""
    number: int = status.value[0]
    return number


def rate_of_answers(calls: Calls, edge: int) -> float:
    """Return the answered calls per second in the middle of a closed-loop run.

    Args:
        calls: Calls of the run.
        edge: Number of answers to leave out at each end, where the loop is not full: the number
            of callers.

    Raises:
        ValueError: There are too few answers.
    """
    ended = np.sort(calls.ended_s[calls.codes == code(OK)])
    if len(ended) <= 2 * edge + 1:
        raise ValueError(f"{len(ended)} answers are too few to tell a rate: {calls.statuses()}")
    middle = ended[edge : len(ended) - edge]
    return float((len(middle) - 1) / (middle[-1] - middle[0]))
