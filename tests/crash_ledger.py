"""What a killed server must still hold: its acknowledged changes, in the order of their numbers."""

import itertools
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.changes import Change
from server.corpus.reference import Model

Floats = npt.NDArray[np.float32]


class LostError(Exception):
    """The server has lost an acknowledged change, or holds something that nobody wrote."""


class Ledger:
    """The changes that were sent, those that were acknowledged, and the state that follows.

    No two changes may write a post with the same author, time and labels: these distinguish the
    versions of a post. Several threads may record changes.

    Attributes:
        model: What the corpus holds after the last settled change; posts that the server encodes
            have no vector.
        answered: Number of all changes that were acknowledged.
        found: Number of all changes that a restarted server held without having acknowledged them.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
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
            if sequence in self._numbered or sequence <= self.model.sequence:
                raise LostError(f"number {sequence} was given twice")
            self._open = [each for each in self._open if each is not change]
            self._numbered[sequence] = change
            self.answered += 1

    def settle(self, sequence: int, held: Model) -> None:
        """Compare the changes with what a restarted server holds, which becomes the state.

        Args:
            sequence: The number of the server's last change.
            held: The posts that it holds, of all posts that any change may have touched. Their
                vectors are not compared.

        Raises:
            LostError: The state is not that after the acknowledged changes in the order of their
                numbers, with some of the unacknowledged ones in the gaps between and after them.
        """
        settled = self.model.sequence
        last = max(self._numbered, default=settled)
        gaps = [n for n in range(settled + 1, sequence + 1) if n not in self._numbered]
        if sequence < last or len(gaps) > len(self._open):
            raise LostError(
                f"the server is at change {sequence}; {last} was answered, and of "
                f"{len(self._open)} without an answer it must have taken {len(gaps)}"
            )
        best: list[int] | None = None
        for chosen in itertools.permutations(self._open, len(gaps)):
            changes = self._numbered | dict(zip(gaps, chosen, strict=True))
            model = self.model.copy()
            for number in sorted(changes):
                model.apply(changes[number])
            wrong = _differences(model, held)
            if not wrong:
                assert model.sequence == sequence
                self.model, self.found = model, self.found + len(gaps)
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
        representation: [D] f32, of the user; D is the width of a vector.
        post_ids: The best posts.
        scores: Of these posts.
        scanned: Number of posts that the server says it scanned.
    """

    representation: Floats
    post_ids: Sequence[int]
    scores: Sequence[float]
    scanned: int


def check_answer(answer: Answer, top_k: int, model: Model, tolerance: float) -> None:
    """Check an answer against all scores in float64.

    Args:
        answer: To a request for `top_k` posts.
        top_k: Number of posts that were asked for.
        model: What the corpus should hold, with all vectors.
        tolerance: Largest error of a score.

    Raises:
        LostError: The answer is not the exact top k: it has a post that should not exist, a wrong
            score or a wrong order, or leaves out a better post.
    """
    ranking = model.answer(answer.representation)
    scores, count = dict(ranking), min(top_k, len(ranking))
    best = [score for _, score in ranking[:count]]
    if strangers := set(answer.post_ids) - set(scores):
        raise LostError(f"posts {sorted(strangers)} were answered, and should not be there")
    mine = [scores[post] for post in answer.post_ids]
    if (
        answer.scanned != len(scores)
        or len(answer.post_ids) != count
        or len(set(answer.post_ids)) != count
        or not np.allclose(mine, best, rtol=0, atol=tolerance)
        or not np.allclose(answer.scores, mine, rtol=0, atol=tolerance)
        or list(zip(np.negative(answer.scores), answer.post_ids, strict=True))
        != sorted(zip(np.negative(answer.scores), answer.post_ids, strict=True))
    ):
        raise LostError(
            f"the answer is not the best {count} of {len(scores)} posts ({answer.scanned} scanned)"
        )


def _differences(model: Model, held: Model) -> list[int]:
    """Return the posts that only one of the two has, or that differ in more than the vector."""
    return sorted(
        post_id
        for post_id in model.keys() | held.keys()
        if post_id not in model
        or post_id not in held
        or model[post_id].columns() != held[post_id].columns()
    )
