"""Representations of users that were encoded before.

Shapes:
    D  width of a representation
"""

from collections import OrderedDict

import numpy as np

from phoenix_server.engine.query import EncodedUser


class UserCache:
    """The representations of the users who were asked for last, by keys that name the towers, too.

    When it is full, the user who was asked for least recently leaves. For the event loop only: it
    has no lock.
    """

    def __init__(self, max_users: int) -> None:
        """Begin empty.

        Args:
            max_users: Maximum users; above 0.
        """
        self._max_users = max_users
        # The representation and the norm of each, [D+1] f32, as bytes. With the key and overhead
        # that is 702 bytes at D = 128; as a tuple with an array it took a third more, and 65,536
        # tuples made each full garbage collection 20 ms longer.
        self._users: OrderedDict[bytes, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._users)

    def find(self, key: bytes) -> EncodedUser | None:
        """Return a user as they were added, bit for bit; None if they are not here."""
        if (packed := self._users.get(key)) is None:
            return None
        self._users.move_to_end(key)
        vector = np.frombuffer(packed, np.float32)
        return EncodedUser(vector[:-1], float(vector[-1]))

    def add(self, key: bytes, user: EncodedUser) -> None:
        """Keep a user, unless the key has one: so all answers from here on are equal.

        Args:
            key: `Engine.user_key`.
            user: A representation of [D] f32, and a norm that is a float32.
        """
        if key in self._users:
            return
        self._users[key] = np.append(user.representation, np.float32(user.norm)).tobytes()
        if len(self._users) > self._max_users:
            self._users.popitem(last=False)
