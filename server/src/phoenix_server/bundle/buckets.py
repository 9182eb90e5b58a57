"""Which compiled programs a batch of users runs through.

Shapes:
    B  users of a program        S  engagements of a program

A user's history is padded to the shortest compiled length that holds it, whoever else is in the
batch; users of one length run together.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple


class Chunk(NamedTuple):
    """Users that run through one program together.

    Attributes:
        users: Their places in the batch, at most `batch_size`.
        batch_size: B of the program.
        length: S of the program.
    """

    users: tuple[int, ...]
    batch_size: int
    length: int


def plan_users(lengths: Sequence[int], sizes: Collection[tuple[int, int]]) -> list[Chunk]:
    """Spread users over programs.

    Args:
        lengths: Each user's number of engagements.
        sizes: The compiled [B, S].

    Raises:
        ValueError: A history is longer than any program takes.
    """
    by_length: dict[int, list[int]] = {}
    compiled = sorted({length for _, length in sizes})
    for place, length in enumerate(lengths):
        by_length.setdefault(_next(compiled, length), []).append(place)
    return [
        chunk
        for length, places in sorted(by_length.items())
        for chunk in _cut(places, [b for b, s in sizes if s == length], length)
    ]


def _cut(places: Sequence[int], batch_sizes: Sequence[int], length: int) -> list[Chunk]:
    """Cut users into the largest batches of which they fill more than half."""
    chunks: list[Chunk] = []
    while places:
        filled = [b for b in batch_sizes if 2 * len(places) > b]
        size = max(filled, default=min(batch_sizes))
        chunks.append(Chunk(tuple(places[:size]), size, length))
        places = places[size:]
    return chunks


def _next(steps: Sequence[int], size: int) -> int:
    for step in steps:
        if step >= size:
            return step
    raise ValueError(f"{size} is more than any of {', '.join(map(str, steps))}")
