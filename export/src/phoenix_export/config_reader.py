"""Read the keys of a checkpoint's `config.json`, and say all that is wrong with them."""

import json
from collections.abc import Iterable
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any, TypeGuard

from phoenix_export.errors import CheckpointError
from phoenix_model import is_positive_float32

# What other releases of the model may set, and this one does.
_FIXED = {
    "attn_logit_cap": 30.0,
    "causal": True,
    "right_anchored_rope": False,
    "use_post_sid": False,
}


class ConfigReader:
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
        """Read an integer from `least` to `most`."""
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
        """Read true or false."""
        if isinstance(value := self._value(key, default), bool):
            return value
        return self._refuse(key, "true or false")

    def number(self, key: str, default: float) -> float | None:
        """Read a number above 0 that is finite in float32."""
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


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: The file cannot be read, or holds something else.
        FileNotFoundError: There is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
        config = json.loads(text, object_pairs_hook=_distinct)
    except FileNotFoundError:
        raise  # the caller says what may be there instead
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
