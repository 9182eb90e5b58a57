"""Results of a suite, and their file format."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

OURS = "ours"

Params: TypeAlias = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of one system over several runs.

    Attributes:
        suite: Suite that measured it.
        system: `OURS`, or the peer's name.
        params: Parameters of the measurement; rows of equal params were measured in turns.
        metric: Name of the quantity, such as "time" or "ratio".
        unit: Unit of the three numbers below; "1" for a ratio.
        median: Median of the runs.
        p10: 10th percentile, interpolated linearly between the two nearest runs.
        p90: 90th percentile, likewise.
        runs: Number of runs.
    """

    suite: str
    system: str
    params: Params
    metric: str
    unit: str
    median: float
    p10: float
    p90: float
    runs: int


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A limit of the machine, measured in the same run.

    Attributes:
        name: Name, such as "read_bandwidth".
        value: Best rate of any method.
        unit: Unit, such as "GB/s".
        method: The method that reached it.
    """

    name: str
    value: float
    unit: str
    method: str


@dataclass(frozen=True, kw_only=True)
class Points:
    """Calls of one kind over time.

    Attributes:
        name: Name of the kind.
        x_s: Due times, in seconds from the start.
        y_ms: Latencies, in milliseconds.
    """

    name: str
    x_s: Sequence[float]
    y_ms: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Span:
    """An operation during the run.

    Attributes:
        name: Name of the operation.
        begin_s: Beginning, in seconds from the start.
        end_s: End, likewise.
    """

    name: str
    begin_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The calls and operations of one run."""

    points: Sequence[Points]
    spans: Sequence[Span]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The results of one suite.

    Attributes:
        machine: Description of the machine, by topic.
        versions: Versions of Python and of each library involved, by name.
        limits: Limits of the machine.
        rows: The measurements.
        notes: Remarks that a reader needs, such as a missing peer.
        timeline: Timeline of the last run, if the suite plots one.
    """

    machine: Mapping[str, str]
    versions: Mapping[str, str]
    limits: Sequence[Limit] = ()
    rows: Sequence[Row]
    notes: Sequence[str] = field(default=())
    timeline: Timeline | None = None


def summarise(
    samples: Iterable[float],
    *,
    suite: str,
    metric: str,
    unit: str,
    system: str = OURS,
    params: Params | None = None,
) -> Row:
    """Return the row of some samples, one for each run.

    Raises:
        ValueError: There are none, or one is not finite.
    """
    values = np.fromiter(samples, np.float64)
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"{suite}, {system}, {metric}: {values} are not finite samples")
    p10, median, p90 = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
    return Row(
        suite=suite,
        system=system,
        params=dict(params or {}),
        metric=metric,
        unit=unit,
        median=median,
        p10=p10,
        p90=p90,
        runs=values.size,
    )


def write_report(report: Report, path: Path) -> None:
    """Write a report as JSON; create its directory if needed."""
    contents = asdict(report)
    contents["limits"] = {limit.pop("name"): limit for limit in contents["limits"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_report(path: Path) -> Report:
    """Read a report that `write_report` wrote.

    Raises:
        ValueError: The file is not a report.
    """
    try:
        contents: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        contents["limits"] = tuple(
            Limit(name=name, **limit) for name, limit in contents["limits"].items()
        )
        contents["rows"] = tuple(Row(**row) for row in contents["rows"])
        contents["notes"] = tuple(contents["notes"])
        if (timeline := contents.get("timeline")) is not None:
            contents["timeline"] = Timeline(
                points=tuple(Points(**points) for points in timeline["points"]),
                spans=tuple(Span(**span) for span in timeline["spans"]),
            )
        return Report(**contents)
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        raise ValueError(f"{path}: not a report of measurements: {exc!r}") from exc
