"""The plan by which the users of a batch run through compiled programs.

Shapes:
    B  users of a program        H  engagements of a program

A user's history is padded to the shortest compiled length that holds it, independent of the other
users of the batch. Users of one length run together.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple


class Chunk(NamedTuple):
    """Users that run through one program together.

    Attributes:
        users: The users' places in the batch, at most `batch_size`.
        batch_size: B of the program.
        length: H of the program.
    """

    users: tuple[int, ...]
    batch_size: int
    length: int


def plan_users(lengths: Sequence[int], sizes: Collection[tuple[int, int]]) -> list[Chunk]:
    """Assign users to programs.

    Args:
        lengths: The number of engagements of each user.
        sizes: The compiled [B, H].

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
        for chunk in _cut(places, [b for b, h in sizes if h == length], length)
    ]


def _cut(places: Sequence[int], batch_sizes: Sequence[int], length: int) -> list[Chunk]:
    """Cut users into batches, each the largest of which they fill more than half."""
    chunks: list[Chunk] = []
    while places:
        filled = [b for b in batch_sizes if 2 * len(places) > b]
        size = max(filled, default=min(batch_sizes))
        chunks.append(Chunk(tuple(places[:size]), size, length))
        places = places[size:]
    return chunks


def _next(steps: Sequence[int], size: int) -> int:
    """Return the first of ascending `steps` that is at least `size`."""
    for step in steps:
        if step >= size:
            return step
    raise ValueError(f"{size} is more than any of {', '.join(map(str, steps))}")
