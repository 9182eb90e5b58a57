"""Read a checkpoint in the published layout and check it against its configuration."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from phoenix_export.arrays import ArrayHeader, npz_headers, npz_pieces
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

# The published checkpoint was trained with these values; its config.json lacks them.
_WIDENING_FACTOR = 2.0
_ATTN_OUTPUT_MULTIPLIER = 0.125
_PRODUCT_SURFACES = 16
# What other releases of the model may set, and this one does.
_FIXED = {
    "attn_logit_cap": 30.0,
    "causal": True,
    "right_anchored_rope": False,
    "use_post_sid": False,
}
_UNUSED_PARAMETER = "log_temperature"  # scales the training loss only
_MAX_ACTIONS = 64  # bits of an action mask
_MAX_ROWS = 2**31  # of a table, whose row numbers are int32


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
    reader = _ConfigReader(_read_json(config_path))
    counts = {f"num_{entity}_hashes": reader.integer(f"num_{entity}_hashes") for entity in ENTITIES}
    hashes = {
        entity: reader.hash_functions(entity, count)
        for entity, count in zip(ENTITIES, counts.values(), strict=True)
    }
    transformer: dict[str, Any] = {
        **{key: reader.integer(key) for key in ("emb_size", "key_size", "num_layers")},
        **reader.heads(),
        "widening_factor": reader.number("widening_factor", _WIDENING_FACTOR),
        "attn_output_multiplier": reader.number("attn_output_multiplier", _ATTN_OUTPUT_MULTIPLIER),
    }
    towers: dict[str, Any] = {
        **{key: reader.integer(key) for key in ("history_seq_len", "candidate_seq_len")},
        "num_actions": reader.integer("num_actions", most=_MAX_ACTIONS),
        "product_surface_vocab_size": reader.integer(
            "product_surface_vocab_size", _PRODUCT_SURFACES
        ),
        "enable_linear_proj": reader.flag("enable_linear_proj", default=True),
    }
    if transformer["key_size"] % 2:
        reader.problems.append(f"key_size: is {transformer['key_size']}, should be even")
    reader.refuse_others()
    if reader.problems:
        raise CheckpointError(config_path, reader.problems)
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


class _ConfigReader:
    """Reads keys of a configuration and collects the problems."""

    def __init__(self, config: dict[str, Any]) -> None:
        params = config.get("hash_params")
        hash_params = params.items() if isinstance(params, dict) else ()
        self._values = config | {f"hash_params.{key}": value for key, value in hash_params}
        self._read = {"hash_params"}
        self.problems: list[str] = []

    def integer(
        self, key: str, default: int | None = None, *, least: int = 1, most: int = 2**31 - 1
    ) -> int:
        value = self._value(key, default)
        if _is_integer(value, least, most):
            return value
        self._refuse(key, f"an integer from {least} to {most}")
        return 0

    def heads(self) -> dict[str, int]:
        """Read the numbers of query heads and of key and value heads; by default `num_heads`."""
        keys = ("num_q_heads", "num_kv_heads")
        both = all(key in self._values for key in keys)
        shared = None if both and "num_heads" not in self._values else self.integer("num_heads")
        numbers = {key: self.integer(key, shared or 1) for key in keys}
        if shared and numbers["num_q_heads"] not in (0, shared):
            self.problems.append(f"num_heads: is {shared}, num_q_heads {numbers['num_q_heads']}")
        return numbers

    def flag(self, key: str, *, default: bool) -> bool:
        if isinstance(value := self._value(key, default), bool):
            return value
        self._refuse(key, "true or false")
        return default

    def refuse_others(self) -> None:
        """Refuse keys that were not read: the model would not be what they say.

        A key that says what this model always does is allowed.
        """
        for key in sorted(self._values.keys() - self._read):
            value = self._values[key]
            if key not in _FIXED:
                self.problems.append(f"{key}: the model has no such setting")
            elif value != _FIXED[key]:
                self.problems.append(f"{key}: is {value!r}, in this model it is {_FIXED[key]!r}")

    def number(self, key: str, default: float) -> float:
        value = self._value(key, default)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
            return float(value)
        self._refuse(key, "a number above 0, and finite")
        return default

    def hash_functions(self, entity: str, count: int) -> dict[str, Any]:
        """Read the arguments of `HashFunctions`; any number of constants if `count` is 0."""
        return {
            "vocab_size": self.integer(f"{entity}_vocab_size", least=2, most=_MAX_ROWS),
            "scales": self._constants(f"hash_params.{entity}_hash_scales", count),
            "biases": self._constants(f"hash_params.{entity}_biases", count),
            "modulus": self.integer(f"hash_params.{entity}_modulus", most=2**63 - 1),
        }

    def _constants(self, key: str, count: int) -> tuple[int, ...]:
        value = self._value(key)
        if (
            isinstance(value, list)
            and count in (0, len(value))
            and all(_is_integer(constant, -(2**63), 2**63 - 1) for constant in value)
        ):
            return tuple(value)
        self._refuse(key, f"{count or 'a list of'} integers of 64 bits, signed")
        return ()

    def _value(self, key: str, default: object = None) -> Any:
        self._read.add(key)
        return self._values.get(key, default)

    def _refuse(self, key: str, wanted: str) -> None:
        found = f"is {self._values[key]!r}" if key in self._values else "missing"
        self.problems.append(f"{key}: {found}, should be {wanted}")


def _is_integer(value: Any, least: int, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(path, _describe_missing(path)) from None
    except (OSError, ValueError) as exc:
        raise CheckpointError(path, f"cannot be read as JSON: {exc}") from exc
    if not isinstance(config, dict):
        raise CheckpointError(path, "is not a JSON object")
    return config


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
