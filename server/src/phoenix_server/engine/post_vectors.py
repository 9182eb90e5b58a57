"""The vectors of posts as queries of a batch, read from the corpus on the devices.

Shapes:
    R  rows of the corpus in memory        B  queries of a batch
    D  width of a vector
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from phoenix_server.bundle.towers import EncodedUsers
from phoenix_server.corpus.memory.id_map import NOWHERE
from phoenix_server.corpus.memory.index import CorpusIndex
from phoenix_server.engine.query import LikePost, Query
from phoenix_server.runtime.program_cache import ProgramCache
from phoenix_server.search.sharded import AXIS, BY_ROWS, REPLICATED, ShardedLayout


class PostVectors:
    """Reads the vectors of posts from one corpus, for batches of a few compiled sizes."""

    def __init__(self, corpus: CorpusIndex, programs: ProgramCache) -> None:
        self._corpus = corpus
        self._programs = programs
        self._read: dict[int, Any] = {}  # compiled programs by B

    def compile(self, batch_size: int) -> None:
        """Compile the program for B queries."""
        layout = self._corpus.layout
        spec: Any = partial(jax.ShapeDtypeStruct, sharding=layout.replicated)
        self._read[batch_size] = self._programs.compile(
            ("post vectors", layout, batch_size),
            partial(_read_rows, layout),
            layout.specs.shards.vectors,
            spec((batch_size,), np.int32),
            spec((batch_size, layout.width), np.float32),
        )

    def read(
        self, queries: Sequence[Query], users: EncodedUsers
    ) -> tuple[EncodedUsers, frozenset[int]]:
        """Return users with the vectors of posts at the places of posts.

        To be called on the thread that changes the corpus, and before the next change.

        Args:
            queries: At most B.
            users: B users, whatever they hold at the places of posts.

        Returns:
            The users, and the places of posts that the corpus does not hold; those are unchanged.
        """
        posts = [(i, q.user.post_id) for i, q in enumerate(queries) if isinstance(q.user, LikePost)]
        if not posts:
            return users, frozenset()
        rows = np.full(len(users.norms), NOWHERE, np.int32)
        places = [place for place, _ in posts]
        rows[places] = self._corpus.find(np.array([post_id for _, post_id in posts], np.uint64))
        replicated = self._corpus.layout.replicated
        given = jax.device_put((rows, users.representations), replicated)
        program = self._read[len(rows)]
        vectors = self._corpus.arrays.use(lambda device, _: program(device.shards.vectors, *given))
        missing = frozenset(place for place in places if rows[place] == NOWHERE)
        return users._replace(representations=vectors), missing


def _read_rows(
    layout: ShardedLayout, vectors: jax.Array, rows: jax.Array, otherwise: jax.Array
) -> jax.Array:
    """Return the vectors of rows, replicated: [B, D] f32. To be jitted.

    Args:
        layout: How the rows lie.
        vectors: [R, D] f32 or bf16, by rows.
        rows: [B] i32, replicated; `NOWHERE` for no row.
        otherwise: [B, D] f32, replicated, the vectors where there is no row.
    """

    def read(vectors: jax.Array, rows: jax.Array, otherwise: jax.Array) -> jax.Array:
        local = layout.local(rows, layout.padded_rows)
        found = vectors.at[local].get(mode="fill", fill_value=0).astype(jnp.float32)
        found = lax.psum(found, AXIS)  # the row is on one shard, the others have zeros
        return jnp.where((rows == NOWHERE)[:, None], otherwise, found)

    return layout.map(read, (BY_ROWS, REPLICATED, REPLICATED), REPLICATED)(vectors, rows, otherwise)
