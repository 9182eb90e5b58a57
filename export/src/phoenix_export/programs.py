"""Export the towers as portable programs.

Shapes:
    b  users, symbolic        s  engagements of a history, symbolic        n  posts, symbolic
    A  actions        D  embedding width        Hu, Hi, Ha  hashes of a user, a post, an author

A program takes three dictionaries: weights by flat parameter name, embedding tables by name, and
inputs. The inputs are row numbers, not embeddings: tables and gather stay on the device.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import export

from phoenix_model import (
    PhoenixRetrievalModelConfig,
    RecsysBatch,
    RecsysEmbeddings,
    candidate_tower,
    unflatten_params,
    user_tower,
)

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

Arrays = Mapping[str, jax.Array]
Specs = dict[str, jax.ShapeDtypeStruct]
Tower = Callable[[Arrays, Arrays, Arrays], dict[str, jax.Array]]


class TowerProgram(NamedTuple):
    """A tower as a function of (weights, tables, inputs), and the specs of its arguments.

    Attributes:
        function: The tower.
        weights: Specs of its parameters by flat name.
        tables: Specs of its embedding tables by name.
        inputs: Specs of its inputs by name; variable sizes are symbolic.
    """

    function: Tower
    weights: Specs
    tables: Specs
    inputs: Specs

    def export(self) -> export.Exported:
        """Lower the tower for all platforms."""
        lower = export.export(jax.jit(self.function), platforms=PLATFORMS)
        with lowering():
            return lower(self.weights, self.tables, self.inputs)


@contextmanager
def lowering() -> Generator[None, None, None]:
    """Make tracing and lowering in the block independent of the machine.

    Programs contain no paths of this machine, so their fingerprint does not depend on it. Products
    of float32 are computed in float32 on accelerators too, which round them by default.
    """
    settings = {
        "jax_include_full_tracebacks_in_locations": True,  # with 0 frames each
        "jax_traceback_in_locations_limit": 0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    try:
        with jax.default_matmul_precision("highest"):
            yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def user_program(
    config: PhoenixRetrievalModelConfig,
    parameters: Mapping[str, tuple[int, ...]],
    tables: Mapping[str, tuple[int, int]],
) -> TowerProgram:
    """Return the user tower.

    Args:
        config: The model's configuration.
        parameters: Shapes of all parameters by flat name.
        tables: Shapes of the embedding tables by name.
    """
    b, s = export.symbolic_shape("b, s")
    hashes = config.hash_config
    apply = user_tower(config)

    def user_tower_program(weights: Arrays, tables: Arrays, inputs: Arrays) -> dict[str, jax.Array]:
        users, posts = inputs["user_rows"], inputs["history_post_rows"]
        authors = inputs["history_author_rows"]
        batch = RecsysBatch(
            user_hashes=users,
            history_post_hashes=posts,
            history_author_hashes=authors,
            history_actions=_multi_hot(inputs["history_action_words"], config.num_actions),
            history_product_surface=inputs["history_product_surfaces"],
        )
        embeddings = RecsysEmbeddings(
            user_embeddings=_gather(tables["user_embeddings"], users),
            history_post_embeddings=_gather(tables["item_embeddings"], posts),
            candidate_post_embeddings=None,
            history_author_embeddings=_gather(tables["author_embeddings"], authors),
            candidate_author_embeddings=None,
        )
        representation, norm = apply(unflatten_params(weights), batch, embeddings)
        return {"user_representation": representation, "user_norm": norm[:, 0]}

    integer, word = jnp.int32, jnp.uint32
    return TowerProgram(
        function=user_tower_program,
        weights=_specs({k: v for k, v in parameters.items() if "candidate_tower" not in k}),
        tables=_specs(tables),
        inputs={
            "user_rows": jax.ShapeDtypeStruct((b, hashes.num_user_hashes), integer),
            "history_post_rows": jax.ShapeDtypeStruct((b, s, hashes.num_item_hashes), integer),
            "history_author_rows": jax.ShapeDtypeStruct((b, s, hashes.num_author_hashes), integer),
            "history_action_words": jax.ShapeDtypeStruct((b, s, 2), word),
            "history_product_surfaces": jax.ShapeDtypeStruct((b, s), integer),
        },
    )


def candidate_program(
    config: PhoenixRetrievalModelConfig,
    parameters: Mapping[str, tuple[int, ...]],
    tables: Mapping[str, tuple[int, int]],
) -> TowerProgram:
    """Return the candidate tower; arguments as in `user_program`."""
    (n,) = export.symbolic_shape("n")
    hashes = config.hash_config
    apply = candidate_tower(config)

    def candidate_tower_program(
        weights: Arrays, tables: Arrays, inputs: Arrays
    ) -> dict[str, jax.Array]:
        posts = _gather(tables["item_embeddings"], inputs["post_rows"])
        authors = _gather(tables["author_embeddings"], inputs["author_rows"])
        vectors = apply(unflatten_params(weights), posts, authors)
        return {"candidate_representation": vectors}

    return TowerProgram(
        function=candidate_tower_program,
        weights=_specs({k: v for k, v in parameters.items() if "candidate_tower" in k}),
        tables=_specs({k: v for k, v in tables.items() if k != "user_embeddings"}),
        inputs={
            "post_rows": jax.ShapeDtypeStruct((n, hashes.num_item_hashes), jnp.int32),
            "author_rows": jax.ShapeDtypeStruct((n, hashes.num_author_hashes), jnp.int32),
        },
    )


def _gather(table: jax.Array, rows: jax.Array) -> jax.Array:
    """Return the embeddings [..., H, D] of rows [..., H]; row 0 is padding and reads as zeros."""
    return jnp.where((rows == 0)[..., None], 0, jnp.take(table, rows, axis=0, mode="clip"))


def _multi_hot(words: jax.Array, num_actions: int) -> jax.Array:
    """Unpack action masks, [b, s, 2] u32 with the low word first, to [b, s, A] f32."""
    bits = (words[..., None] >> jnp.arange(32, dtype=jnp.uint32)) & 1  # [b, s, 2, 32]
    return bits.reshape(*words.shape[:2], 64)[..., :num_actions].astype(jnp.float32)


def _specs(shapes: Mapping[str, tuple[int, ...]]) -> Specs:
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
