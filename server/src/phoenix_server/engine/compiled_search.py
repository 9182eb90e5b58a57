"""The compiled searches of one corpus, for a few sizes.

Shapes:
    B  queries, of a compiled size        K  results, of a compiled size
    n  users of a chunk                   D  width of a vector
    R  rows of the corpus in memory
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from phoenix_server.bundle.towers import EncodedUsers
from phoenix_server.corpus.memory.index import CorpusIndex
from phoenix_server.errors import StartupError
from phoenix_server.runtime.arrays import F32, I32
from phoenix_server.runtime.program_cache import ProgramCache, device_seconds
from phoenix_server.search.sharded import TopK

_ROUNDING = 1e-4  # of a float32 score of a vector whose length is about 11

_Program = Any
"""A `jax.stages.Compiled`, called with arrays of exactly the sizes it was compiled for."""


class CompiledSearch:
    """Finds the exact top k in one corpus.

    One thread compiles; another may search meanwhile.
    """

    def __init__(self, corpus: CorpusIndex, programs: ProgramCache) -> None:
        """Compile the scoring of all rows.

        Args:
            corpus: The corpus.
            programs: Compiled programs are taken from here and kept here.
        """
        self._corpus = corpus
        self._searches: dict[tuple[int, int], _Program] = {}
        self._seconds: dict[tuple[int, int], float] = {}
        self._assemblies: dict[tuple[int, int], _Program] = {}
        self._programs = programs
        layout, query = corpus.layout, self._spec((corpus.layout.width,))
        self._score = programs.compile(("score", layout), layout.scores, layout.specs, query)

    def compile(self, batch_size: int, top_k: int) -> None:
        """Compile the search for B queries and K results, and measure its time."""
        layout, size = self._corpus.layout, (batch_size, top_k)
        queries, wanted = (
            self._spec((batch_size, layout.width)),
            self._spec((batch_size,), np.int32),
        )
        specs = layout.specs.shards, layout.mask_specs(batch_size), queries, wanted
        key = "search", layout, size
        program = self._programs.compile(key, partial(layout.top_k, k=top_k), *specs)
        all_posts = self._all_posts(batch_size)  # also compiles the program that makes them

        def measure() -> float:
            probes = self._probes(batch_size), np.full(batch_size, top_k, np.int32)
            probes = jax.device_put(probes, layout.replicated)
            use = self._corpus.arrays.use
            return device_seconds(
                lambda: use(lambda device, _: program(device.shards, all_posts, *probes))
            )

        # New dictionaries: another thread may be iterating over the old ones.
        seconds = self._programs.seconds(key, measure)
        self._seconds = {**self._seconds, size: seconds}
        self._searches = {**self._searches, size: program}

    def compile_assembly(self, chunk_size: int, batch_size: int) -> None:
        """Compile `assemble` for chunks of n users and batches of B."""
        first, width = self._corpus.layout.devices[0], self._corpus.layout.width
        size = (chunk_size, batch_size)
        spec: Any = partial(jax.ShapeDtypeStruct, sharding=jax.sharding.SingleDeviceSharding(first))
        shapes = (batch_size, width), (batch_size,), (chunk_size, width), (chunk_size,)
        specs = *(spec(shape, np.float32) for shape in shapes), spec((chunk_size,), np.int32)
        program = self._programs.compile(("assembly", first, size, width), _assemble, *specs)
        self._assemblies = {**self._assemblies, size: program}

    def check(self) -> None:
        """Check the smallest search against numpy.

        Raises:
            StartupError: It does not find the best rows.
        """
        batch_size, top_k = min(self._searches)
        probes = self._probes(batch_size)
        scores = self.scores(probes[0])
        best = np.sort(scores[np.isfinite(scores)])[::-1][:top_k]
        placed = jax.device_put(probes, self._corpus.layout.devices[0])
        found = self.top_k(placed, [top_k] * batch_size)
        rows, claimed = np.asarray(found.rows)[0, : len(best)], np.asarray(found.scores)[0]
        # Within rounding: search and scoring are separate programs, and a device may compute
        # products differently in each. So rows are compared by score: near ties may swap.
        if len(np.unique(rows)) < len(best) or not (
            np.allclose(claimed[: len(best)], best, rtol=0, atol=_ROUNDING)
            and np.allclose(scores[rows], best, rtol=0, atol=_ROUNDING)
        ):
            raise StartupError("the search does not return the exact top k on this device")

    def batch_size(self, users: int) -> int:
        """Return the smallest compiled B that is at least `users`."""
        return min(batch for batch, _ in self._searches if batch >= users)

    def seconds(self, users: int) -> float:
        """Return the time of the fastest search for so many users, measured when compiled."""
        batch = self.batch_size(users)
        return min(seconds for (b, _), seconds in self._seconds.items() if b == batch)

    def assemble(self, batch: EncodedUsers, chunk: EncodedUsers, places: I32) -> EncodedUsers:
        """Return a batch with the users of a chunk written at their places.

        Args:
            batch: B users, on the first device; zeros where there is no user yet.
            chunk: n users.
            places: [n] i32; users whose place is B or more are padding, and dropped.
        """
        size = (len(chunk.norms), len(batch.norms))
        return EncodedUsers(*self._assemblies[size](*batch, *chunk, places))

    def top_k(
        self,
        representations: jax.Array,
        wanted: Sequence[int],
        masks: jax.Array | None = None,
    ) -> TopK:
        """Find at least the best rows that each query wants.

        Args:
            representations: [B, D] f32, on the first device.
            wanted: The number of rows for each query, the largest compiled K at most. The queries
                beyond are padding.
            masks: [B, R/32] u32, the rows that each query may find. Default: all posts.
        """
        batch, layout = len(representations), self._corpus.layout
        top_k = max(wanted)
        size = min(size for size in self._searches if size[0] == batch and size[1] >= top_k)
        padded = np.zeros(batch, np.int32)
        padded[: len(wanted)] = wanted
        queries = jax.device_put((representations, padded), layout.replicated)
        program = self._searches[size]
        if masks is None:
            masks = self._all_posts(batch)
        use = self._corpus.arrays.use
        return TopK(*use(lambda device, _: program(device.shards, masks, *queries)))

    def scores(self, representation: jax.Array | F32) -> F32:
        """Return the scores of all rows for [D] f32: [R], -inf where there is no post."""
        query = jax.device_put(representation, self._corpus.layout.replicated)
        return np.asarray(self._corpus.arrays.use(lambda device, _: self._score(device, query)))

    def _all_posts(self, batch_size: int) -> jax.Array:
        """Return masks of all posts: [B, R/32] u32."""
        layout = self._corpus.layout
        masks = layout.mask_specs(batch_size)
        program = self._programs.compile(
            ("everything", layout, batch_size),
            partial(jnp.broadcast_to, shape=masks.shape),
            layout.specs.live,
            out_shardings=layout.words,
        )
        return self._corpus.arrays.use(lambda device, _: program(device.live))

    def _spec(self, shape: tuple[int, ...], dtype: Any = np.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self._corpus.layout.replicated)

    def _probes(self, batch_size: int) -> F32:
        """Return arbitrary queries to test and measure with: [B, D] f32."""
        shape = (batch_size, self._corpus.layout.width)
        return np.random.default_rng(0).standard_normal(shape, np.float32)


def _assemble(
    representations: jax.Array,
    norms: jax.Array,
    chunk: jax.Array,
    chunk_norms: jax.Array,
    places: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    return (
        representations.at[places].set(chunk, mode="drop"),
        jnp.asarray(norms).at[places].set(chunk_norms, mode="drop"),
    )
