"""Cases for tests of the model: the golden ones, and random ones of any size."""

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import DTypeLike

from phoenix_model import (
    HashConfig,
    PhoenixRetrievalModelConfig,
    RecsysBatch,
    RecsysEmbeddings,
    TransformerConfig,
    parameter_shapes,
    unflatten_params,
)

GOLDEN_DIR = pathlib.Path(__file__).parent / "golden"


class GoldenCase(NamedTuple):
    """One golden file: inputs, and the published model's answers in one dtype."""

    config: PhoenixRetrievalModelConfig
    params: hk.Params
    batch: RecsysBatch
    embeddings: RecsysEmbeddings
    corpus_embeddings: jax.Array
    corpus_mask: jax.Array
    top_k: int
    expected: dict[str, npt.NDArray[Any]]


@functools.cache
def golden_case(name: str, dtype: str) -> GoldenCase:
    """Load `demo` or `gqa` with the answers in `f32` or `bf16`."""
    sizes = json.loads((GOLDEN_DIR / f"{name}.json").read_text())
    with np.load(GOLDEN_DIR / f"{name}.npz", allow_pickle=False) as archive:
        arrays = dict(archive)

    def under(prefix: str) -> dict[str, Any]:
        return {
            path.removeprefix(prefix): value
            for path, value in arrays.items()
            if path.startswith(prefix)
        }

    users, items, authors = sizes["hashes"]
    config = PhoenixRetrievalModelConfig(
        model=TransformerConfig(
            emb_size=sizes["emb_size"],
            key_size=sizes["key_size"],
            num_q_heads=sizes["num_q_heads"],
            num_kv_heads=sizes["num_kv_heads"],
            num_layers=sizes["num_layers"],
            widening_factor=sizes["widening_factor"],
            attn_output_multiplier=sizes["attn_output_multiplier"],
        ),
        emb_size=sizes["emb_size"],
        history_seq_len=sizes["history"],
        candidate_seq_len=sizes["candidates"],
        fprop_dtype={"f32": jnp.float32, "bf16": jnp.bfloat16}[dtype],
        hash_config=HashConfig(
            num_user_hashes=users, num_item_hashes=items, num_author_hashes=authors
        ),
        product_surface_vocab_size=sizes["surface"],
        num_actions=sizes["actions"],
    )
    return GoldenCase(
        config=config,
        params=jax.tree.map(jnp.asarray, unflatten_params(under("params/"))),
        batch=RecsysBatch(**jax.tree.map(jnp.asarray, under("batch/"))),
        embeddings=RecsysEmbeddings(**jax.tree.map(jnp.asarray, under("embeddings/"))),
        corpus_embeddings=jnp.asarray(arrays["corpus_embeddings"]),
        corpus_mask=jnp.asarray(arrays["corpus_mask"]),
        top_k=sizes["top_k"],
        expected=under(f"expected_{dtype}/"),
    )


def prime_config(
    *, fprop_dtype: DTypeLike = jnp.float32, enable_linear_proj: bool = True
) -> PhoenixRetrievalModelConfig:
    """Return a small model whose sizes differ pairwise, so that a swapped axis cannot pass."""
    return PhoenixRetrievalModelConfig(
        model=TransformerConfig(
            emb_size=13,
            key_size=6,
            num_q_heads=15,
            num_kv_heads=3,
            num_layers=2,
            attn_output_multiplier=0.7,
        ),
        emb_size=13,
        fprop_dtype=fprop_dtype,
        hash_config=HashConfig(num_user_hashes=3, num_item_hashes=2, num_author_hashes=5),
        product_surface_vocab_size=17,
        num_actions=19,
        enable_linear_proj=enable_linear_proj,
    )


def random_params(config: PhoenixRetrievalModelConfig, seed: int = 0) -> hk.Params:
    """Draw every parameter, those of the transformer too, from a normal distribution."""
    rng = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...]) -> jax.Array:
        scale = 1.0 if len(shape) == 1 else shape[0] ** -0.5
        return jnp.asarray(rng.normal(scale=scale, size=shape), jnp.float32)

    return unflatten_params({path: draw(s) for path, s in _shapes(config).items()})


_shapes = functools.cache(parameter_shapes)


def random_inputs(
    config: PhoenixRetrievalModelConfig,
    *,
    num_users: int,
    history_len: int,
    num_candidates: int,
    seed: int = 0,
) -> tuple[RecsysBatch, RecsysEmbeddings]:
    """Draw a batch without padding."""
    rng = np.random.default_rng(seed)
    hashes = config.hash_config
    history, candidates = (num_users, history_len), (num_users, num_candidates)

    def ids(*shape: int, low: int = 1, high: int = 1000) -> jax.Array:
        return jnp.asarray(rng.integers(low, high, shape), jnp.int32)

    def vectors(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=(*shape, config.emb_size)), jnp.float32)

    batch = RecsysBatch(
        user_hashes=ids(num_users, hashes.num_user_hashes),
        history_post_hashes=ids(*history, hashes.num_item_hashes),
        history_author_hashes=ids(*history, hashes.num_author_hashes),
        history_actions=ids(*history, config.num_actions, low=0, high=2).astype(jnp.float32),
        history_product_surface=ids(*history, low=0, high=config.product_surface_vocab_size),
        candidate_post_hashes=ids(*candidates, hashes.num_item_hashes),
        candidate_author_hashes=ids(*candidates, hashes.num_author_hashes),
        candidate_product_surface=ids(*candidates, low=0, high=config.product_surface_vocab_size),
    )
    embeddings = RecsysEmbeddings(
        user_embeddings=vectors(num_users, hashes.num_user_hashes),
        history_post_embeddings=vectors(*history, hashes.num_item_hashes),
        candidate_post_embeddings=vectors(*candidates, hashes.num_item_hashes),
        history_author_embeddings=vectors(*history, hashes.num_author_hashes),
        candidate_author_embeddings=vectors(*candidates, hashes.num_author_hashes),
    )
    return batch, embeddings


def with_history_lengths(
    batch: RecsysBatch, embeddings: RecsysEmbeddings, lengths: list[int]
) -> tuple[RecsysBatch, RecsysEmbeddings]:
    """Keep the first `lengths[b]` engagements of user b and pad the rest with zeros."""
    positions = jnp.arange(batch.history_post_hashes.shape[1])
    kept = positions[None, :] < jnp.asarray(lengths)[:, None]  # [B, S]

    def pad(x: jax.Array) -> jax.Array:
        return jnp.where(kept.reshape(*kept.shape, *[1] * (x.ndim - 2)), x, 0)

    return _map_history(batch, embeddings, pad)


def cut_history(
    batch: RecsysBatch, embeddings: RecsysEmbeddings, length: int
) -> tuple[RecsysBatch, RecsysEmbeddings]:
    """Cut the history axis to `length`."""

    def cut(x: jax.Array) -> jax.Array:
        return x[:, :length]

    return _map_history(batch, embeddings, cut)


def _map_history(
    batch: RecsysBatch, embeddings: RecsysEmbeddings, function: Callable[[jax.Array], jax.Array]
) -> tuple[RecsysBatch, RecsysEmbeddings]:
    def mapped(bundle: Any) -> Any:
        fields = {f: getattr(bundle, f) for f in bundle._fields if f.startswith("history_")}
        return bundle._replace(**jax.tree.map(function, fields))

    return mapped(batch), mapped(embeddings)
