"""Parameters as a flat `module path/name` dictionary, the layout of published checkpoints."""

from collections.abc import Mapping
from typing import Any, cast

import haiku as hk
import jax
import jax.numpy as jnp

from phoenix_model.config import PhoenixRetrievalModelConfig
from phoenix_model.inputs import RecsysBatch, RecsysEmbeddings, user_input_shapes
from phoenix_model.retrieval import build_model


def init_params(config: PhoenixRetrievalModelConfig, seed: int = 0) -> hk.Params:
    """Draw new float32 parameters of both towers.

    The transformer's are all zero, which makes it the identity; see `Transformer`.
    """

    def run_both_towers(batch: RecsysBatch, embeddings: RecsysEmbeddings) -> None:
        model = build_model(config)
        model.build_user_representation(batch, embeddings)
        model.build_candidate_representation(batch, embeddings)

    return hk.transform(run_both_towers).init(jax.random.key(seed), *_one_of_each(config))


def parameter_shapes(config: PhoenixRetrievalModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of both towers by `module path/name`, sorted.

    Nothing is allocated. All parameters are float32.
    """
    shapes = jax.eval_shape(lambda: init_params(config))
    return {name: leaf.shape for name, leaf in sorted(flatten_params(shapes).items())}


def flatten_params(params: hk.Params) -> dict[str, jax.Array]:
    """Return parameters by `module path/name`, the inverse of `unflatten_params`."""
    return {
        f"{module}/{name}": value
        for module, values in params.items()
        for name, value in values.items()
    }


def unflatten_params(flat: Mapping[str, jax.typing.ArrayLike]) -> hk.Params:
    """Group arrays named `module path/name` by module, as Haiku takes them.

    Arrays are neither copied nor moved to a device. Entries that the model does not use, such as
    `~/log_temperature` of a published checkpoint, are allowed.

    Raises:
        ValueError: A name has no module path.
    """
    params: dict[str, dict[str, jax.Array]] = {}
    for path, value in flat.items():
        module, slash, name = path.rpartition("/")
        if not (module and slash and name):
            raise ValueError(f"parameter {path!r} must be named 'module path/name'")
        params.setdefault(module, {})[name] = cast(jax.Array, value)
    return params


def _one_of_each(config: PhoenixRetrievalModelConfig) -> tuple[RecsysBatch, RecsysEmbeddings]:
    zeros: dict[str, Any] = {
        name: jnp.zeros(shape, jnp.int32 if name.endswith(("hashes", "surface")) else jnp.float32)
        for name, shape in user_input_shapes(config, 1, 1).items()
    }
    zeros["history_author_hashes"] = None
    for entity in ("post", "author"):
        zeros[f"candidate_{entity}_embeddings"] = zeros[f"history_{entity}_embeddings"]
    zeros["candidate_post_hashes"] = zeros["history_post_hashes"]
    batch = {name: value for name, value in zeros.items() if name in RecsysBatch._fields}
    rest = {name: value for name, value in zeros.items() if name not in batch}
    return RecsysBatch(**batch), RecsysEmbeddings(**rest)
