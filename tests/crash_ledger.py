"""What a killed server must still hold: its acknowledged changes, in the order of their numbers.

Shapes:
    n  posts of a change        N  posts of the corpus        D  width of a vector
"""

import itertools
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class LostError(Exception):
    """The server has lost an acknowledged change, or holds something that nobody wrote."""


class Mark(NamedTuple):
    """What distinguishes the versions of a post: no two changes write the same mark."""

    author: int
    created_at_unix_ms: int
    labels: tuple[str, ...]


class Post(NamedTuple):
    """A post as it should be; without a vector it has that of the candidate tower."""

    mark: Mark
    vector: Floats | None


class Upsert(NamedTuple):
    """Posts to write, all with the same mark."""

    post_ids: Sequence[int]
    mark: Mark
    vectors: Floats | None  # [n, D]


class Delete(NamedTuple):
    """Posts to delete."""

    post_ids: Sequence[int]


Change = Upsert | Delete


class Ledger:
    """The changes that were sent, those that were acknowledged, and the state that follows.

    Several threads may record changes.

    Attributes:
        posts: What the corpus holds after the change `sequence`.
        sequence: The number of the last settled change.
        answered: Number of all changes that were acknowledged.
        found: Number of all changes that a restarted server held without having acknowledged them.
    """

    def __init__(self, posts: Mapping[int, Post], sequence: int) -> None:
        self.posts = dict(posts)
        self.sequence = sequence
        self.answered = self.found = 0
        self._lock = threading.Lock()
        self._open: list[Change] = []
        self._numbered: dict[int, Change] = {}

    def sent(self, change: Change) -> None:
        """Record a change before it is sent."""
        with self._lock:
            self._open.append(change)

    def acknowledged(self, change: Change, sequence: int) -> None:
        """Record the number with which a change was acknowledged.

        Raises:
            LostError: Another change has the number.
        """
        with self._lock:
            if sequence in self._numbered or sequence <= self.sequence:
                raise LostError(f"number {sequence} was given twice")
            self._open = [each for each in self._open if each is not change]
            self._numbered[sequence] = change
            self.answered += 1

    def settle(self, sequence: int, held: Mapping[int, Mark]) -> None:
        """Compare the changes with what a restarted server holds, which becomes the state.

        Args:
            sequence: The number of the server's last change.
            held: The posts that it holds, of all posts that any change may have touched.

        Raises:
            LostError: The state is not that after the acknowledged changes in the order of their
                numbers, with some of the unacknowledged ones in the gaps between and after them.
        """
        last = max(self._numbered, default=self.sequence)
        gaps = [n for n in range(self.sequence + 1, sequence + 1) if n not in self._numbered]
        if sequence < last or len(gaps) > len(self._open):
            raise LostError(
                f"the server is at change {sequence}; {last} was answered, and of "
                f"{len(self._open)} without an answer it must have taken {len(gaps)}"
            )
        best: list[int] | None = None
        for chosen in itertools.permutations(self._open, len(gaps)):
            changes = self._numbered | dict(zip(gaps, chosen, strict=True))
            posts = _after(self.posts, [changes[n] for n in sorted(changes)])
            wrong = _differences(posts, held)
            if not wrong:
                self.posts, self.sequence, self.found = posts, sequence, self.found + len(gaps)
                self._open, self._numbered = [], {}
                return
            best = wrong if best is None or len(wrong) < len(best) else best
        raise LostError(
            f"change {sequence}: {len(best or ())} posts differ ({(best or [])[:5]}, ...), "
            f"at best, from the answered changes with any {len(gaps)} of {len(self._open)} others"
        )


class Answer(NamedTuple):
    """A server's answer to one user.

    Attributes:
        representation: [D] f32, of the user.
        post_ids: The best posts.
        scores: Of these posts.
        scanned: Number of posts that the server says it scanned.
    """

    representation: Floats
    post_ids: Sequence[int]
    scores: Sequence[float]
    scanned: int


def check_answer(
    answer: Answer, top_k: int, vectors: Mapping[int, Floats], tolerance: float
) -> None:
    """Check an answer against all scores in float64.

    Args:
        answer: To a request for `top_k` posts.
        top_k: Number of posts that were asked for.
        vectors: [D] f32, of every post that the corpus should hold.
        tolerance: Largest error of a score.

    Raises:
        LostError: The answer is not the exact top k: it has a post that should not exist, a wrong
            score or a wrong order, or leaves out a better post.
    """
    matrix = np.stack(list(vectors.values())).astype(np.float64)  # [N, D]
    scores = dict(zip(vectors, (matrix @ answer.representation.astype(np.float64)), strict=True))
    count = min(top_k, len(scores))
    best = np.sort(np.fromiter(scores.values(), np.float64))[::-1][:count]
    if strangers := set(answer.post_ids) - set(scores):
        raise LostError(f"posts {sorted(strangers)} were answered, and should not be there")
    mine = np.array([scores[post] for post in answer.post_ids])
    if (
        answer.scanned != len(scores)
        or len(set(answer.post_ids)) != count
        or not np.allclose(mine, best, rtol=0, atol=tolerance)
        or not np.allclose(answer.scores, mine, rtol=0, atol=tolerance)
        or list(zip(np.negative(answer.scores), answer.post_ids, strict=True))
        != sorted(zip(np.negative(answer.scores), answer.post_ids, strict=True))
    ):
        raise LostError(
            f"the answer is not the best {count} of {len(scores)} posts ({answer.scanned} scanned)"
        )


def _after(posts: Mapping[int, Post], changes: Iterable[Change]) -> dict[int, Post]:
    """Return the posts after some changes."""
    after = dict(posts)
    for change in changes:
        if isinstance(change, Delete):
            for post_id in change.post_ids:
                after.pop(post_id, None)
            continue
        for i, post_id in enumerate(change.post_ids):
            vector = None if change.vectors is None else change.vectors[i]
            after[post_id] = Post(change.mark, vector)
    return after


def _differences(posts: Mapping[int, Post], held: Mapping[int, Mark]) -> list[int]:
    """Return the posts that only one of the two has, or that differ."""
    return sorted(
        post_id
        for post_id in posts.keys() | held.keys()
        if post_id not in posts or posts[post_id].mark != held.get(post_id)
    )
