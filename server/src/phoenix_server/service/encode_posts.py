"""Encode many posts in batches, so that other requests can use the device in between.

Shapes:
    n  posts        D  width of a vector
"""

import time
from functools import partial

import numpy as np

from phoenix_server.corpus.changes import Ids
from phoenix_server.generations.generation import Generation
from phoenix_server.runtime.arrays import F32


async def encode_posts(
    generation: Generation, post_ids: Ids, author_ids: Ids, timeout_s: float | None
) -> F32:
    """Return the unit vectors of posts, [n, D]; at least one.

    Each batch is one call in the queue, so that retrievals can run between two batches.

    Args:
        generation: The generation whose candidate tower encodes.
        post_ids: [n].
        author_ids: [n].
        timeout_s: The time until the deadline of the call, in seconds. None: no deadline.

    Raises:
        OverloadedError: The queue is full, or the deadline is too close.
        DeadlineExceededError: The deadline passes before all are encoded.
    """
    began_s, left_s = time.monotonic(), timeout_s
    parts: list[F32] = []
    for batch in generation.engine.post_batches(len(post_ids)):
        if timeout_s is not None and batch.start:
            left_s = timeout_s - (time.monotonic() - began_s)
        encode = partial(generation.engine.encode_posts, post_ids[batch], author_ids[batch])
        parts.append(
            await generation.batcher.call(encode, kind="encode_candidates", timeout_s=left_s)
        )
    return np.concatenate(parts)
