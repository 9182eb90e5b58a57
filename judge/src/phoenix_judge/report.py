"""The result of grading: as a table for people, as JSON for programs."""

import json
from dataclasses import asdict, dataclass

from phoenix_client.cli.output import table


@dataclass(frozen=True, kw_only=True)
class Grade:
    """The grade of an index with one setting.

    Attributes:
        setting: The parameter and its value, as in `efSearch=64`. Empty if there is none.
        value: The value.
        recall: Share of the exact results that it found, mean over users.
        least_recall: The same for the user with the lowest.
        rbo: Rank-biased overlap with the exact results, mean over users.
        p50_ms: 50th percentile of the time of a search, in milliseconds.
        p99_ms: 99th percentile of the time of a search, in milliseconds.
    """

    setting: str
    value: int | None
    recall: float
    least_recall: float
    rbo: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True)
class IndexReport:
    """The grades of an index.

    Attributes:
        name: Name of its directory.
        made_as: How it was built.
        sequence: Number of the last change of the corpus that it includes.
        stale: Whether the server answered from another state of the corpus.
        grades: One per setting.
    """

    name: str
    made_as: str
    sequence: int
    stale: bool
    grades: tuple[Grade, ...]

    @property
    def label(self) -> str:
        """Its name for people: its directory, how it was built, and whether it is stale."""
        name = self.name if self.name == self.made_as else f"{self.name} ({self.made_as})"
        return f"{name}, stale" if self.stale else name


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Duration of calls, as the client saw it.

    Attributes:
        p50_ms: 50th percentile, in milliseconds.
        p99_ms: 99th percentile, in milliseconds.
    """

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """The grades of indexes, and the latency of the server's exact answers.

    Attributes:
        generation: Names the bundle and the corpus that answered.
        rows: Number of posts that the server scanned.
        first_sequence: Number of the last change of the corpus that the first answer includes.
        last_sequence: The same for the last answer.
        users: Number of users.
        top_k: Number of posts per user.
        rbo_p: Persistence of the rank-biased overlap.
        retrieve: Duration of the Retrieve calls.
        encode: Duration of EncodeUser calls for the same users, without a search.
        indexes: The grades of each index.
    """

    generation: str
    rows: int
    first_sequence: int
    last_sequence: int
    users: int
    top_k: int
    rbo_p: float
    retrieve: Latency
    encode: Latency
    indexes: tuple[IndexReport, ...]


def report_json(report: Report) -> str:
    """Write a report as one line of JSON."""
    return json.dumps(asdict(report))


def report_text(report: Report) -> str:
    """Write a report as a heading and a table."""
    lines = [f"generation {report.generation}: {report.rows:,} posts, {report.users:,} users"]
    if report.last_sequence:
        sequences = dict.fromkeys((report.first_sequence, report.last_sequence))
        lines[0] += f", sequence {' to '.join(map(str, sequences))}"
    lines += [
        f"{index.name} is of sequence {index.sequence}, the answers are not: STALE"
        for index in report.indexes
        if index.stale
    ]
    return "\n".join([*lines, _table(report)])


def _table(report: Report) -> str:
    columns = {"search": "<", "setting": "<"} | dict.fromkeys(
        (f"recall@{report.top_k}", "least", f"RBO p={report.rbo_p:g}", "p50 ms", "p99 ms"), ">"
    )
    rows: list[tuple[str, ...]] = [
        ("served, exact", "", "1", "1", "1", *_milliseconds(report.retrieve)),
        ("  EncodeUser alone", *[""] * 4, *_milliseconds(report.encode)),
    ]
    for index in report.indexes:
        for grade in index.grades:
            marks = (grade.recall, grade.least_recall, grade.rbo)
            shown = [f"{mark:.4f}" for mark in marks]
            rows.append((index.label, grade.setting, *shown, *_milliseconds(grade)))
    return table(columns, rows)


def _milliseconds(times: Latency | Grade) -> tuple[str, ...]:
    return tuple(
        f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in (times.p50_ms, times.p99_ms)
    )
