"""What a suite finds out, and the file it is kept in."""

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
    """One quantity of one system, over several runs.

    Attributes:
        suite: The suite that measured it.
        system: `OURS`, or the peer's name.
        params: What was set; rows of equal params were measured in turns.
        metric: What was measured, such as "time" or "ratio".
        unit: Of the three numbers below; "1" for a ratio.
        median: Of the runs.
        p10: The 10th percentile, linear between the two nearest runs.
        p90: The 90th.
        runs: How many.
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
    """What the machine can do at most, as measured in the same run.

    Attributes:
        name: Such as "read_bandwidth".
        value: The best that any method reached.
        unit: Such as "GB/s".
        method: The one that reached it.
    """

    name: str
    value: float
    unit: str
    method: str


@dataclass(frozen=True, kw_only=True)
class Points:
    """Calls of one kind, in time.

    Attributes:
        name: What they have in common.
        x_s: When each was due, in seconds from the start.
        y_ms: What it took, in milliseconds.
    """

    name: str
    x_s: Sequence[float]
    y_ms: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Span:
    """Something that went on meanwhile.

    Attributes:
        name: What.
        begin_s: From when on, in seconds from the start.
        end_s: Until when.
    """

    name: str
    begin_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """What happened in one run, call by call."""

    points: Sequence[Points]
    spans: Sequence[Span]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one suite found out.

    Attributes:
        machine: What it ran on, in words by topic.
        versions: Of Python and of each library that took part, by name.
        limits: The machine's.
        rows: What was measured.
        notes: What a reader must know, such as a peer that is missing.
        timeline: Of the last run, where that is drawn.
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
    """Return the row of some samples, one a run.

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
    """Write a report as JSON, and its directory if there is none."""
    contents = asdict(report)
    contents["limits"] = {limit.pop("name"): limit for limit in contents["limits"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_report(path: Path) -> Report:
    """Read what `write_report` wrote.

    Raises:
        ValueError: It is not such a file.
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
