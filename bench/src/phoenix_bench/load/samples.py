"""Collect the samples of several rounds into rows."""

from typing import NamedTuple

from phoenix_bench.results import OURS, Params, Row, summarise


class _Key(NamedTuple):
    metric: str
    unit: str
    system: str
    params: tuple[tuple[str, str | int | float | bool], ...]


class Samples:
    """The samples of one suite, by system, params and metric."""

    def __init__(self, suite: str) -> None:
        self._suite = suite
        self._values: dict[_Key, list[float]] = {}
        self._notes: dict[str, None] = {}  # in order, each once

    def add(self, metric: str, unit: str, value: float, params: Params, system: str = OURS) -> None:
        """Add the sample of one round."""
        key = _Key(metric, unit, system, tuple(params.items()))
        self._values.setdefault(key, []).append(value)

    def note(self, what: str) -> None:
        """Add a remark that a reader needs."""
        self._notes[what] = None

    def rows(self) -> list[Row]:
        """Return a row for each kind of sample.

        Raises:
            ValueError: A sample is not finite.
        """
        return [
            summarise(
                values,
                suite=self._suite,
                metric=key.metric,
                unit=key.unit,
                system=key.system,
                params=dict(key.params),
            )
            for key, values in self._values.items()
        ]

    def notes(self) -> list[str]:
        """Return the notes."""
        return list(self._notes)
