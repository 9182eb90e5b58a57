"""Read a checkpoint in the published layout and check it against its configuration."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from phoenix_export.arrays import ArrayHeader, npz_headers, npz_pieces
from phoenix_export.config_reader import ConfigReader, read_json
from phoenix_export.errors import CheckpointError
from phoenix_model import (
    HashConfig,
    HashFunctions,
    PhoenixRetrievalModelConfig,
    TransformerConfig,
    parameter_shapes,
)

CONFIG = "retrieval/config.json"
PARAMS = "retrieval/model_params.npz"
TABLES = "retrieval/embedding_tables.npz"
ENTITIES = ("user", "item", "author")
MAX_LAYERS = 1024  # each is traced by itself, in tens of milliseconds
MAX_HISTORY = 2**31 - 1
MAX_ROWS = 2**31  # of a table, whose row numbers are int32

# The published checkpoint was trained with these values; its config.json lacks them.
_WIDENING_FACTOR = 2.0
_ATTN_OUTPUT_MULTIPLIER = 0.125
_PRODUCT_SURFACES = 16
_UNUSED_PARAMETER = "log_temperature"  # scales the training loss only
_MAX_ACTIONS = 64  # bits of an action mask


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint on the disk, with checked shapes and types.

    Attributes:
        path: Its directory.
        model: The model's configuration.
        hashes: The hash functions by entity: user, item, author.
    """

    path: Path
    model: PhoenixRetrievalModelConfig
    hashes: Mapping[str, HashFunctions]

    @cached_property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the model's parameters by flat name."""
        return parameter_shapes(self.model)

    @cached_property
    def table_shapes(self) -> dict[str, tuple[int, int]]:
        """Shapes of the embedding tables by name."""
        return {
            f"{entity}_embeddings": (self.hashes[entity].vocab_size, self.model.emb_size)
            for entity in ENTITIES
        }

    def parameter(self, name: str) -> Iterator[npt.NDArray[np.float32]]:
        """Yield a parameter in flat pieces; raise CheckpointError if a value is not finite."""
        yield from _finite(self.path / PARAMS, name)

    def table(self, name: str) -> Iterator[npt.NDArray[np.float32]]:
        """Yield an embedding table in flat pieces; raise CheckpointError as `parameter` does."""
        yield from _finite(self.path / TABLES, name)


def open_checkpoint(path: Path, dtype: str) -> Checkpoint:
    """Open a checkpoint and check the names, shapes and types of its arrays.

    Args:
        path: The directory that holds `retrieval/`.
        dtype: Element type of the forward pass, "bfloat16" or "float32".

    Raises:
        CheckpointError: An array is missing or does not fit; lists all such arrays.
    """
    checkpoint = read_config(path, dtype)
    expected = {PARAMS: checkpoint.parameter_shapes, TABLES: checkpoint.table_shapes}
    problems = [
        f"{file}: {problem}"
        for file, shapes in expected.items()
        for problem in _array_problems(path / file, shapes)
    ]
    if problems:
        raise CheckpointError(path, problems)
    return checkpoint


def read_config(path: Path, dtype: str) -> Checkpoint:
    """Read only a checkpoint's `config.json`; arguments and errors as in `open_checkpoint`."""
    config_path = path / CONFIG
    try:
        config = read_json(config_path)
    except FileNotFoundError:
        raise CheckpointError(config_path, _describe_missing(config_path)) from None
    problems = list[str]()
    hash_params = config.get("hash_params")
    constants = ConfigReader(
        hash_params if isinstance(hash_params, dict) else {}, problems, prefix="hash_params."
    )
    reader = ConfigReader(config, problems, known={"hash_params"})
    counts: dict[str, Any] = {
        f"num_{entity}_hashes": reader.integer(f"num_{entity}_hashes") for entity in ENTITIES
    }
    hashes: dict[str, dict[str, Any]] = {
        entity: {
            "vocab_size": reader.integer(f"{entity}_vocab_size", least=2, most=MAX_ROWS),
            "scales": constants.integers(f"{entity}_hash_scales", count),
            "biases": constants.integers(f"{entity}_biases", count),
            "modulus": constants.integer(f"{entity}_modulus", most=2**63 - 1),
        }
        for entity, count in zip(ENTITIES, counts.values(), strict=True)
    }
    transformer: dict[str, Any] = {
        **{key: reader.integer(key) for key in ("emb_size", "key_size")},
        "num_layers": reader.integer("num_layers", most=MAX_LAYERS),
        **reader.heads(),
        "widening_factor": reader.number("widening_factor", _WIDENING_FACTOR),
        "attn_output_multiplier": reader.number("attn_output_multiplier", _ATTN_OUTPUT_MULTIPLIER),
    }
    towers: dict[str, Any] = {
        "history_seq_len": reader.integer("history_seq_len", most=MAX_HISTORY),
        "candidate_seq_len": reader.integer("candidate_seq_len"),
        "num_actions": reader.integer("num_actions", most=_MAX_ACTIONS),
        "product_surface_vocab_size": reader.integer(
            "product_surface_vocab_size", _PRODUCT_SURFACES
        ),
        "enable_linear_proj": reader.flag("enable_linear_proj", default=True),
    }
    if (transformer["key_size"] or 0) % 2:
        problems.append(f"key_size: is {transformer['key_size']}, should be even")
    reader.refuse_others()
    constants.refuse_others()
    if problems:
        raise CheckpointError(config_path, problems)
    try:
        model = PhoenixRetrievalModelConfig(
            model=TransformerConfig(**transformer),
            emb_size=transformer["emb_size"],
            fprop_dtype=jnp.dtype(dtype),
            hash_config=HashConfig(**counts),
            **towers,
        )
    except ValueError as exc:
        raise CheckpointError(config_path, str(exc)) from exc
    functions = {entity: HashFunctions(**arguments) for entity, arguments in hashes.items()}
    return Checkpoint(path=path, model=model, hashes=functions)


def _describe_missing(config: Path) -> str:
    """Say what a directory without `config.json` may be."""
    directory = config.parents[1]
    if (directory / "orbax-ckpt").exists() or (directory / "_CHECKPOINT_METADATA").exists():
        return (
            "missing; this is an Orbax checkpoint, which must first be written in the published "
            f"layout: {CONFIG}, {PARAMS} and {TABLES}"
        )
    return f"missing; a checkpoint has the published layout: {CONFIG}, {PARAMS} and {TABLES}"


def _array_problems(path: Path, expected: Mapping[str, tuple[int, ...]]) -> Sequence[str]:
    try:
        found = npz_headers(path)
    except CheckpointError as exc:
        return exc.problems
    problems = [f"{name}: missing" for name in expected if name not in found]
    for name, header in found.items():
        if name in expected:
            problems += [f"{name}: {odd}" for odd in _oddities(header, expected[name])]
        elif name.rpartition("/")[2] != _UNUSED_PARAMETER:
            problems.append(f"{name}: the model that config.json describes has no such array")
    return problems


def _oddities(header: ArrayHeader, shape: tuple[int, ...]) -> Iterator[str]:
    if header.dtype != np.float32:
        yield f"is {header.dtype}, should be float32"
    if header.shape != shape:
        yield f"has shape {header.shape}, config.json asks for {shape}"
    if header.fortran_order and len(shape) > 1:
        yield "is stored in Fortran order; save it with numpy.ascontiguousarray"


def _finite(path: Path, name: str) -> Iterator[npt.NDArray[np.float32]]:
    start = 0
    for piece in npz_pieces(path, name):
        if not np.isfinite(piece).all():
            where = start + int(np.flatnonzero(~np.isfinite(piece))[0])
            raise CheckpointError(
                path, f"{name}: holds {piece[where - start]} at flat index {where}"
            )
        start += piece.size
        yield piece
