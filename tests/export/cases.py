"""Small checkpoints, and the towers run in two ways: as programs, and as the model alone.

Shapes:
    B  users        S  engagements        A  actions        H  rows of an id        N  posts
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from google.protobuf import json_format
from safetensors.numpy import load_file

from phoenix_export.checkpoint import CONFIG, PARAMS, TABLES, Checkpoint, open_checkpoint
from phoenix_export.programs import TowerProgram, candidate_program, user_program
from phoenix_model import (
    HashConfig,
    HashFunctions,
    PhoenixRetrievalModelConfig,
    RecsysBatch,
    RecsysEmbeddings,
    TransformerConfig,
    candidate_tower,
    hash_ids,
    parameter_shapes,
    unflatten_params,
    user_tower,
)
from phoenix_retrieval.v1 import manifest_pb2

Arrays = dict[str, npt.NDArray[Any]]
User = Mapping[str, Any]  # as in example_sequence.json

VOCABULARIES = {"user": 29, "item": 31, "author": 37}

# Sizes that differ pairwise, so that a swapped axis cannot pass.
TINY: dict[str, Any] = {
    "emb_size": 13,
    "num_layers": 1,
    "num_heads": 3,
    "key_size": 6,
    "history_seq_len": 11,
    "candidate_seq_len": 7,
    "num_actions": 19,
    "num_user_hashes": 4,
    "num_item_hashes": 2,
    "num_author_hashes": 5,
    "product_surface_vocab_size": 17,
    "user_vocab_size": VOCABULARIES["user"],
    "item_vocab_size": VOCABULARIES["item"],
    "author_vocab_size": VOCABULARIES["author"],
    "hash_params": {
        "user_hash_scales": [3, -(2**63), 2**63 - 1, 2**61 + 15],
        "user_biases": [1, 2**63 - 1, -(2**63), 12345],
        "user_modulus": 2**61 - 1,
        "item_hash_scales": [2**59 + 9, 7],
        "item_biases": [-5, 2**60],
        "item_modulus": 2**61 - 1,
        "author_hash_scales": [11, 13, 17, 19, 2**57 + 1],
        "author_biases": [0, 1, 2, 3, 4],
        "author_modulus": 2**63 - 1,
    },
}


@dataclass
class Files:
    """What a checkpoint holds; change it, then write it."""

    config: dict[str, Any]
    params: Arrays
    tables: Arrays

    def write(self, path: Path) -> Path:
        (path / CONFIG).parent.mkdir(parents=True)
        (path / CONFIG).write_text(json.dumps(self.config))
        np.savez(path / PARAMS, allow_pickle=False, **self.params)
        np.savez(path / TABLES, allow_pickle=False, **self.tables)
        return path


def tiny_files(**changes: Any) -> Files:
    """Return a checkpoint with random parameters, all of them non-zero."""
    config = copy.deepcopy(TINY) | changes
    rng = np.random.default_rng(0)
    heads: Any = config.get("num_heads")
    sizes = HashConfig(
        num_user_hashes=config["num_user_hashes"],
        num_item_hashes=config["num_item_hashes"],
        num_author_hashes=config["num_author_hashes"],
    )
    model = PhoenixRetrievalModelConfig(
        model=TransformerConfig(
            emb_size=config["emb_size"],
            key_size=config["key_size"],
            num_q_heads=config.get("num_q_heads", heads),
            num_kv_heads=config.get("num_kv_heads", heads),
            num_layers=config["num_layers"],
            widening_factor=2.0,
        ),
        emb_size=config["emb_size"],
        hash_config=sizes,
        product_surface_vocab_size=config["product_surface_vocab_size"],
        num_actions=config["num_actions"],
        enable_linear_proj=config.get("enable_linear_proj", True),
    )

    def draw(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        return rng.normal(scale=shape[0] ** -0.5 if shape[1:] else 1.0, size=shape).astype("f4")

    params = {name: draw(shape) for name, shape in parameter_shapes(model).items()}
    tables = {
        f"{entity}_embeddings": rng.normal(
            size=(config[f"{entity}_vocab_size"], config["emb_size"])
        ).astype("f4")
        for entity in VOCABULARIES
    }
    return Files(config, params, tables)


class Answer(NamedTuple):
    """What the user tower gives: [B, D] and [B]."""

    user_representation: npt.NDArray[Any]
    user_norm: npt.NDArray[Any]


@dataclass
class Loaded:
    """A checkpoint, or a bundle's share of it, in memory."""

    config: PhoenixRetrievalModelConfig
    hashes: Mapping[str, HashFunctions]
    weights: Arrays
    tables: Arrays

    @property
    def programs(self) -> tuple[TowerProgram, TowerProgram]:
        shapes = {name: array.shape for name, array in self.tables.items()}
        arguments: Any = (self.config, parameter_shapes(self.config), shapes)
        return user_program(*arguments), candidate_program(*arguments)

    def call(self, function: Any, program: Any, inputs: Arrays) -> Arrays:
        """Call a tower with the weights and tables that its program names."""
        outputs = jax.jit(function)(
            {name: self.weights[name] for name in program.weights},
            {name: self.tables[name] for name in program.tables},
            inputs,
        )
        return {name: np.asarray(value) for name, value in outputs.items()}


def load_checkpoint(path: Path, dtype: str = "float32") -> Loaded:
    checkpoint: Checkpoint = open_checkpoint(path, dtype)
    return Loaded(checkpoint.model, checkpoint.hashes, _load(path / PARAMS), _load(path / TABLES))


def load_bundle(path: Path, checkpoint: Path) -> Loaded:
    """Return a bundle's own weights and tables, beside the checkpoint's configuration."""
    opened = open_checkpoint(checkpoint, read_manifest(path).compute_dtype)
    tables: Arrays = {}
    for file in (path / "tables").iterdir():
        tables |= load_file(file)
    return Loaded(opened.model, opened.hashes, load_file(path / "weights.safetensors"), tables)


def read_manifest(path: Path) -> manifest_pb2.BundleManifest:
    text = (path / "manifest.json").read_text(encoding="utf-8")
    return json_format.Parse(text, manifest_pb2.BundleManifest())


def load_program(path: Path) -> jax.export.Exported:
    return jax.export.deserialize(bytearray(path.read_bytes()))


def user_inputs(
    users: Sequence[User], length: int, hashes: Mapping[str, HashFunctions], history: int
) -> Arrays:
    """Return the user tower's inputs, padded to `length`, of the newest `history` engagements."""
    shape = (len(users), length)
    ids = {name: np.zeros(shape, np.uint64) for name in ("post_id", "author_id")}
    words = np.zeros((*shape, 2), np.uint32)
    for i, user in enumerate(users):
        for j, item in enumerate(user["history"][-history:]):
            ids["post_id"][i, j], ids["author_id"][i, j] = item["post_id"], item["author_id"]
            mask = sum(1 << int(action) for action, on in item["actions"].items() if on)
            words[i, j] = mask & (2**32 - 1), mask >> 32
    return {
        "user_rows": hash_ids(np.array([u["user_id"] for u in users], np.uint64), hashes["user"]),
        "history_post_rows": hash_ids(ids["post_id"], hashes["item"]),
        "history_author_rows": hash_ids(ids["author_id"], hashes["author"]),
        "history_action_words": words,
        "history_product_surfaces": np.zeros(shape, np.int32),
    }


def random_users(count: int, engagements: int, num_actions: int, seed: int = 0) -> list[User]:
    """Draw users; each engagement has some actions."""
    rng = np.random.default_rng(seed)

    def draw_id() -> int:
        return int(rng.integers(1, 2**64, dtype=np.uint64))

    return [
        {
            "user_id": draw_id(),
            "history": [
                {
                    "post_id": draw_id(),
                    "author_id": draw_id(),
                    "actions": {
                        str(action): 1.0
                        for action in rng.choice(num_actions, rng.integers(1, num_actions))
                    },
                }
                for _ in range(engagements)
            ],
        }
        for _ in range(count)
    ]


def gather(table: npt.NDArray[Any], rows: npt.NDArray[Any]) -> jax.Array:
    """Return the embeddings of rows, [..., H, D], and zeros for row 0."""
    return jnp.asarray(np.where((rows == 0)[..., None], np.float32(0), table[rows]))


def run_user_model(loaded: Loaded, inputs: Arrays, *, eager: bool = False) -> Answer:
    """Run the model itself on the inputs of the user program.

    Operation by operation where `eager`, as the published sample runs; that takes seconds.
    """
    words = inputs["history_action_words"].astype(np.uint64)
    masks = words[..., 0] | words[..., 1] << np.uint64(32)  # [B, S]
    actions = [
        masks >> np.uint64(action) & np.uint64(1) for action in range(loaded.config.num_actions)
    ]
    batch = RecsysBatch(
        user_hashes=jnp.asarray(inputs["user_rows"]),
        history_post_hashes=jnp.asarray(inputs["history_post_rows"]),
        history_author_hashes=None,
        history_actions=jnp.asarray(np.stack(actions, axis=-1).astype(np.float32)),
        history_product_surface=jnp.asarray(inputs["history_product_surfaces"]),
    )
    embeddings = RecsysEmbeddings(
        user_embeddings=gather(loaded.tables["user_embeddings"], inputs["user_rows"]),
        history_post_embeddings=gather(
            loaded.tables["item_embeddings"], inputs["history_post_rows"]
        ),
        candidate_post_embeddings=None,
        history_author_embeddings=gather(
            loaded.tables["author_embeddings"], inputs["history_author_rows"]
        ),
        candidate_author_embeddings=None,
    )
    params = unflatten_params({k: jnp.asarray(v) for k, v in loaded.weights.items()})
    tower = user_tower(loaded.config)
    representation, norm = (tower if eager else jax.jit(tower))(params, batch, embeddings)
    return Answer(np.asarray(representation), np.asarray(norm)[:, 0])


def run_candidate_model(loaded: Loaded, inputs: Arrays) -> npt.NDArray[Any]:
    """Run the model itself on the inputs of the candidate program: [N, D]."""
    vectors = candidate_tower(loaded.config)(
        unflatten_params({k: jnp.asarray(v) for k, v in loaded.weights.items()}),
        gather(loaded.tables["item_embeddings"], inputs["post_rows"]),
        gather(loaded.tables["author_embeddings"], inputs["author_rows"]),
    )
    return np.asarray(vectors)


def candidate_inputs(
    post_ids: npt.NDArray[np.uint64],
    author_ids: npt.NDArray[np.uint64],
    hashes: Mapping[str, HashFunctions],
) -> Arrays:
    return {
        "post_rows": hash_ids(post_ids, hashes["item"]),
        "author_rows": hash_ids(author_ids, hashes["author"]),
    }


def _load(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as archive:
        return {name: value for name, value in archive.items() if value.shape}
