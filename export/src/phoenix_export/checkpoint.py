"""Read a checkpoint in the published layout and check it against its configuration."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from reprlib import repr as short_repr
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
    is_positive_float32,
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
# What other releases of the model may set, and this one does.
_FIXED = {
    "attn_logit_cap": 30.0,
    "causal": True,
    "right_anchored_rope": False,
    "use_post_sid": False,
}
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
    config, problems = _read_json(config_path), list[str]()
    hash_params = config.get("hash_params")
    constants = _ConfigReader(
        hash_params if isinstance(hash_params, dict) else {}, problems, prefix="hash_params."
    )
    reader = _ConfigReader(config, problems, known={"hash_params"})
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


class _ConfigReader:
    """Reads keys of a JSON object and collects the problems.

    Its methods return None for a value that they refused.

    Args:
        values: The object.
        problems: The list to which problems are added.
        prefix: Precedes the names of the keys in `problems`.
        known: Keys that are read elsewhere.
    """

    def __init__(
        self,
        values: dict[str, Any],
        problems: list[str],
        *,
        prefix: str = "",
        known: Iterable[str] = (),
    ) -> None:
        self._values = values
        self._problems = problems
        self._prefix = prefix
        self._read = set(known)

    def integer(
        self, key: str, default: int | None = None, *, least: int = 1, most: int = 2**31 - 1
    ) -> int | None:
        value = self._value(key, default)
        if _is_integer(value, least, most):
            return value
        return self._refuse(key, f"an integer from {least} to {most}")

    def heads(self) -> dict[str, int | None]:
        """Read the numbers of query heads and of key and value heads; by default `num_heads`."""
        keys = ("num_q_heads", "num_kv_heads")
        missing = [key for key in keys if key not in self._values]
        shared = None
        if "num_heads" in self._values or len(missing) == 2:
            shared = self.integer("num_heads")
        elif missing:
            self._problems.append(f"num_heads or {missing[0]}: missing")
        numbers = {key: shared if key in missing else self.integer(key) for key in keys}
        queries = numbers["num_q_heads"]
        if shared and queries and shared != queries:
            self._problems.append(f"num_heads: is {shared}, num_q_heads {queries}")
        return numbers

    def flag(self, key: str, *, default: bool) -> bool | None:
        if isinstance(value := self._value(key, default), bool):
            return value
        return self._refuse(key, "true or false")

    def number(self, key: str, default: float) -> float | None:
        value = self._value(key, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and is_positive_float32(value):
            return float(value)
        return self._refuse(key, "a number above 0, and finite, in float32")

    def integers(self, key: str, count: int | None) -> tuple[int, ...] | None:
        """Read `count` integers of 64 bits, or any number of them if `count` is None."""
        value = self._value(key)
        if (
            isinstance(value, list)
            and count in (None, len(value))
            and all(_is_integer(each, -(2**63), 2**63 - 1) for each in value)
        ):
            return tuple(value)
        return self._refuse(key, f"{count or 'a list of'} integers of 64 bits, signed")

    def refuse_others(self) -> None:
        """Refuse keys that were not read: the model would not be what they say.

        A key that says what this model always does is allowed.
        """
        for key in sorted(self._values.keys() - self._read):
            name, value = f"{self._prefix}{key}", self._values[key]
            if name not in _FIXED:
                self._problems.append(f"{name}: the model has no such setting")
            elif value != _FIXED[name]:
                found = short_repr(value)
                self._problems.append(f"{name}: is {found}, in this model it is {_FIXED[name]!r}")

    def _value(self, key: str, default: object = None) -> Any:
        self._read.add(key)
        return self._values.get(key, default)

    def _refuse(self, key: str, wanted: str) -> None:
        found = f"is {short_repr(self._values[key])}" if key in self._values else "missing"
        self._problems.append(f"{self._prefix}{key}: {found}, should be {wanted}")


def _is_integer(value: Any, least: int, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _read_json(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        config = json.loads(text, object_pairs_hook=_distinct)
    except FileNotFoundError:
        raise CheckpointError(path, _describe_missing(path)) from None
    except RecursionError:
        raise CheckpointError(path, "cannot be read as JSON: is nested too deeply") from None
    except (OSError, ValueError) as exc:
        raise CheckpointError(path, f"cannot be read as JSON: {exc}") from exc
    if not isinstance(config, dict):
        raise CheckpointError(path, "is not a JSON object")
    return config


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; raise ValueError if a key occurs twice."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {key!r} occurs twice")
        values[key] = value
    return values


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
