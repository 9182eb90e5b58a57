"""Sweeps: a search parameter and the values to try."""

import re
from dataclasses import dataclass

_SWEEP = re.compile(r"([A-Za-z]\w*)=([0-9]+(?:,[0-9]+)*)")
_MAX_VALUE = 2**31 - 1


@dataclass(frozen=True)
class Sweep:
    """The values of one parameter.

    Attributes:
        parameter: Its name in the index's library.
        values: The values to try, in order.
    """

    parameter: str
    values: tuple[int, ...]


def parse_sweep(text: str) -> Sweep:
    """Read `efSearch=16,32,64`.

    Raises:
        ValueError: It has another form, or a value is out of range.
    """
    parts = _SWEEP.fullmatch(text)
    if parts is None:
        raise ValueError(f"must be as in efSearch=16,32,64, is {text!r}")
    values = tuple(map(int, parts[2].split(",")))
    if not all(1 <= value <= _MAX_VALUE for value in values):
        raise ValueError(f"values must be from 1 to {_MAX_VALUE}, are {parts[2]}")
    return Sweep(parts[1], values)


def doubling(parameter: str, first: int, last: int) -> Sweep:
    """Return the values `first`, 2 `first`, 4 `first`, ... up to `last`."""
    values = [first]
    while 2 * values[-1] <= last:
        values.append(2 * values[-1])
    return Sweep(parameter, tuple(values))
