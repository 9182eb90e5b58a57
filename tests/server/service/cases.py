"""Cases for tests of the services: the context of a call, users as messages."""

import numpy as np

from phoenix_retrieval.v1.user_pb2 import User
from phoenix_server.bundle.features import UserColumns


class FakeContext:
    """All of a call's context that handlers look at."""

    def __init__(self, timeout_s: float | None = None) -> None:
        self._timeout_s = timeout_s

    def time_remaining(self) -> float | None:
        return self._timeout_s


def user_message(user: UserColumns) -> User:
    columns = {name: np.asarray(column).tolist() for name, column in user._asdict().items()}
    return User(**columns)
