"""The plan by which the users of a batch run through compiled programs.

Shapes:
    B  users of a program        H  engagements of a program

A user's history is padded to the shortest compiled length that holds it, independent of the other
users of the batch. Users of one length run together.

A CPU may run several programs at once, one a lane. Many small operations make up a tower, and to
split each of them between cores takes longer than to give each core other users.
"""

import heapq
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

_RUN_COST = 36  # of a program, in positions, beside those of its users: published size, x86


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

    @property
    def cost(self) -> int:
        """About what the run costs, in positions of the sequence."""
        return self.batch_size * (1 + self.length) + _RUN_COST


def plan_users(
    lengths: Sequence[int], sizes: Collection[tuple[int, int]], lanes: int = 1
) -> list[Chunk]:
    """Assign users to programs.

    With one lane, a program takes as many users as it can. With several, it takes fewer where the
    last lane ends sooner then.

    Args:
        lengths: The number of engagements of each user.
        sizes: The compiled [B, H].
        lanes: How many programs run at once.

    Returns:
        The runs, in the order in which the lanes should take them.

    Raises:
        ValueError: A history is longer than any program takes.
    """
    by_length: dict[int, list[int]] = {}
    compiled = sorted({length for _, length in sizes})
    for place, length in enumerate(lengths):
        by_length.setdefault(_next(compiled, length), []).append(place)
    largest = sorted({batch for batch, _ in sizes}, reverse=True)
    plans = [_plan(by_length, sizes, most) for most in (largest if lanes > 1 else largest[:1])]
    return min(plans, key=lambda plan: _end(plan, lanes))


def _plan(
    by_length: Mapping[int, Sequence[int]], sizes: Collection[tuple[int, int]], most: int
) -> list[Chunk]:
    """Assign users to programs of at most `most` users if there are such; the costliest first."""
    chunks: list[Chunk] = []
    for length, places in by_length.items():
        batches = [b for b, h in sizes if h == length]
        small = [b for b in batches if b <= most]
        chunks += _cut(places, small or [min(batches)], length)
    return sorted(chunks, key=lambda chunk: (-chunk.cost, chunk))


def _end(chunks: Sequence[Chunk], lanes: int) -> int:
    """Return when the last lane ends, each taking the next run when it has ended one."""
    ends = [0] * lanes
    for chunk in chunks:
        heapq.heapreplace(ends, ends[0] + chunk.cost)
    return max(ends)


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
