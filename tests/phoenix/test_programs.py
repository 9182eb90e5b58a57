import json
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest

from phoenix_cases import (
    GOLDEN_DIR,
    cut_history,
    golden_case,
    prime_config,
    random_inputs,
    random_params,
)
from phoenix_model import (
    HashFunctions,
    PhoenixRetrievalModelConfig,
    RecsysBatch,
    RecsysEmbeddings,
    TransformerConfig,
    candidate_tower,
    encode_candidates,
    hash_ids,
    unflatten_params,
    user_tower,
)

_USER_INPUTS = (
    "user_hashes",
    "history_post_hashes",
    "history_actions",
    "history_product_surface",
    "user_embeddings",
    "history_post_embeddings",
    "history_author_embeddings",
)


def _user_inputs(batch: RecsysBatch, embeddings: RecsysEmbeddings) -> dict[str, jax.Array]:
    fields = batch._asdict() | embeddings._asdict()
    return {name: fields[name] for name in _USER_INPUTS}


def _plain_user_tower(config: PhoenixRetrievalModelConfig) -> Any:
    def run(params: Any, inputs: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        batch = RecsysBatch(
            user_hashes=inputs["user_hashes"],
            history_post_hashes=inputs["history_post_hashes"],
            history_author_hashes=None,
            history_actions=inputs["history_actions"],
            history_product_surface=inputs["history_product_surface"],
        )
        embeddings = RecsysEmbeddings(
            user_embeddings=inputs["user_embeddings"],
            history_post_embeddings=inputs["history_post_embeddings"],
            candidate_post_embeddings=None,
            history_author_embeddings=inputs["history_author_embeddings"],
            candidate_author_embeddings=None,
        )
        return user_tower(config)(params, batch, embeddings)

    return jax.jit(run)


def _round_trip(exported: jax.export.Exported) -> Any:
    return jax.jit(jax.export.deserialize(exported.serialize()).call)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_one_exported_user_tower_serves_every_batch_and_history_size(dtype: Any) -> None:
    config = prime_config(fprop_dtype=dtype)
    params = random_params(config)
    batch, embeddings = random_inputs(config, num_users=7, history_len=11, num_candidates=1)
    inputs = _user_inputs(batch, embeddings)
    users, history = jax.export.symbolic_shape("b, s")

    def symbolic(name: str, x: jax.Array) -> jax.ShapeDtypeStruct:
        leading = (users, history) if name.startswith("history") else (users,)
        return jax.ShapeDtypeStruct((*leading, *x.shape[len(leading) :]), x.dtype)

    tower = _plain_user_tower(config)
    program = _round_trip(
        jax.export.export(tower, platforms=("cpu", "cuda", "tpu"))(
            params, {name: symbolic(name, x) for name, x in inputs.items()}
        )
    )
    for num_users, length in ((7, 11), (2, 3), (1, 1)):
        short = cut_history(batch, embeddings, length)
        case = {name: x[:num_users] for name, x in _user_inputs(*short).items()}
        for exported, jitted in zip(program(params, case), tower(params, case), strict=True):
            np.testing.assert_array_equal(exported, jitted)


@pytest.mark.parametrize("enable_linear_proj", [True, False])
def test_one_exported_candidate_tower_serves_every_batch_size(enable_linear_proj: bool) -> None:
    config = prime_config(enable_linear_proj=enable_linear_proj)
    params = random_params(config)
    tower = jax.jit(candidate_tower(config))
    (posts,) = jax.export.symbolic_shape("n")
    program = _round_trip(
        jax.export.export(tower, platforms=("cpu", "cuda", "tpu"))(
            params,
            jax.ShapeDtypeStruct((posts, 2, 13), jnp.float32),
            jax.ShapeDtypeStruct((posts, 5, 13), jnp.float32),
        )
    )
    rng = np.random.default_rng(0)
    for num_posts in (1, 11):
        case = tuple(
            jnp.asarray(rng.normal(size=(num_posts, hashes, 13)), jnp.float32) for hashes in (2, 5)
        )
        np.testing.assert_array_equal(program(params, *case), tower(params, *case))


@pytest.mark.parametrize("name", ["demo", "gqa"])
def test_jit_equals_eager_in_float32(name: str) -> None:
    case = golden_case(name, "f32")
    tower = user_tower(case.config)
    eager = tower(case.params, case.batch, case.embeddings)
    jitted = jax.jit(tower)(case.params, case.batch, case.embeddings)
    np.testing.assert_allclose(jitted[0], eager[0], rtol=0, atol=5e-7)
    np.testing.assert_allclose(jitted[1], eager[1], rtol=5e-7)


def _posts(num_posts: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    rng = np.random.default_rng(num_posts)
    return (
        rng.normal(size=(num_posts, 2, 13)).astype(np.float32),
        rng.normal(size=(num_posts, 5, 13)).astype(np.float32),
    )


@pytest.mark.parametrize("num_posts", [0, 1, 5, 10, 23])
def test_batched_encoding_equals_encoding_at_once(num_posts: int) -> None:
    config = prime_config()
    params = random_params(config)
    posts, authors = _posts(num_posts)
    encoded = encode_candidates(config, params, posts, authors, batch_size=5)
    assert encoded.shape == (num_posts, 13)
    assert encoded.dtype == np.float32
    at_once = candidate_tower(config)(params, jnp.asarray(posts), jnp.asarray(authors))
    np.testing.assert_allclose(encoded, at_once, rtol=0, atol=3e-7)


def test_batched_encoding_refuses_wrong_arguments() -> None:
    config = prime_config()
    posts, authors = _posts(5)
    with pytest.raises(ValueError, match="batch_size"):
        encode_candidates(config, {}, posts, authors, batch_size=0)
    with pytest.raises(ValueError, match="author_embeddings"):
        encode_candidates(config, {}, posts, authors[:3])


class _PublishedLayout:
    """A checkpoint in the published layout, read as a whole."""

    def __init__(self) -> None:
        root = GOLDEN_DIR / "published_layout"
        folder = root / "retrieval"
        self.sizes = json.loads((folder / "config.json").read_text())
        self.expected = json.loads((root / "expected.json").read_text())
        with np.load(folder / "model_params.npz", allow_pickle=False) as archive:
            self.params = jax.tree.map(jnp.asarray, unflatten_params(dict(archive)))
        with np.load(folder / "embedding_tables.npz", allow_pickle=False) as archive:
            self.tables = dict(archive)
        with np.load(root / "sports_corpus.npz", allow_pickle=False) as archive:
            self.corpus = {name: archive[name] for name in archive.files if name != "topics"}
        width, heads = self.sizes["emb_size"], self.sizes["num_heads"]
        self.config = PhoenixRetrievalModelConfig(
            model=TransformerConfig(
                emb_size=width,
                key_size=self.sizes["key_size"],
                num_q_heads=heads,
                num_kv_heads=heads,
                num_layers=self.sizes["num_layers"],
                widening_factor=2.0,
                attn_output_multiplier=0.125,
            ),
            emb_size=width,
            history_seq_len=self.sizes["history_seq_len"],
            num_actions=self.sizes["num_actions"],
        )

    def rows(self, kind: str, ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
        constants = self.sizes["hash_params"]
        functions = HashFunctions(
            scales=tuple(constants[f"{kind}_hash_scales"]),
            biases=tuple(constants[f"{kind}_biases"]),
            modulus=constants[f"{kind}_modulus"],
            vocab_size=self.sizes[f"{kind}_vocab_size"],
        )
        return hash_ids(ids, functions)

    def gather(self, kind: str, rows: npt.NDArray[np.int32]) -> jax.Array:
        vectors = self.tables[f"{kind}_embeddings"][rows]
        return jnp.asarray(np.where(rows[..., None] == 0, 0, vectors), jnp.float32)

    def inputs(self, sequences: list[dict[str, Any]]) -> tuple[RecsysBatch, RecsysEmbeddings]:
        length = self.config.history_seq_len
        padded = (len(sequences), length)
        post_ids, author_ids = np.zeros(padded, np.uint64), np.zeros(padded, np.uint64)
        actions = np.zeros((*padded, self.config.num_actions), np.uint8)
        for user, sequence in enumerate(sequences):
            for i, item in enumerate(sequence["history"][-length:]):
                post_ids[user, i], author_ids[user, i] = item["post_id"], item["author_id"]
                for index, value in item["actions"].items():
                    actions[user, i, int(index)] = value
        users = self.rows("user", np.array([s["user_id"] for s in sequences], np.uint64))
        posts, authors = self.rows("item", post_ids), self.rows("author", author_ids)
        batch = RecsysBatch(
            user_hashes=jnp.asarray(users),
            history_post_hashes=jnp.asarray(posts),
            history_author_hashes=None,
            history_actions=jnp.asarray(actions),
            history_product_surface=jnp.zeros(padded, jnp.int32),
        )
        embeddings = RecsysEmbeddings(
            user_embeddings=self.gather("user", users),
            history_post_embeddings=self.gather("item", posts),
            candidate_post_embeddings=None,
            history_author_embeddings=self.gather("author", authors),
            candidate_author_embeddings=None,
        )
        return batch, embeddings


def test_users_of_a_published_checkpoint_have_the_published_answers() -> None:
    published = _PublishedLayout()
    users = published.expected["users"]
    batch, embeddings = published.inputs([user["sequence"] for user in users])
    representation, _ = user_tower(published.config)(published.params, batch, embeddings)
    expected = np.array([user["user_representation"] for user in users])
    assert expected.shape == (6, published.config.emb_size)
    np.testing.assert_allclose(representation, expected, rtol=0, atol=5e-3)


def test_posts_of_a_published_corpus_have_its_vectors() -> None:
    published = _PublishedLayout()
    corpus = published.corpus
    posts = published.gather("item", published.rows("item", corpus["post_ids"]))
    authors = published.gather("author", published.rows("author", corpus["author_ids"]))
    encoded = encode_candidates(
        published.config, published.params, np.asarray(posts), np.asarray(authors), batch_size=2048
    )
    np.testing.assert_allclose(encoded, corpus["candidate_representations"], rtol=0, atol=1e-6)
