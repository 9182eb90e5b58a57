"""The plot of a report."""

from __future__ import annotations

from pathlib import Path

import pytest

from phoenix_client.errors import FileError
from phoenix_judge.plot import draw
from phoenix_judge.report import Grade, IndexReport, Latency, Report


def _grade(value: int | None) -> Grade:
    setting = "" if value is None else f"efSearch={value}"
    return Grade(
        setting=setting,
        value=value,
        recall=0.9,
        least_recall=0.5,
        rbo=0.8,
        p50_ms=0.5,
        p99_ms=2.0,
    )


def _index(name: str, *grades: Grade) -> IndexReport:
    return IndexReport(name=name, made_as="HNSW32", sequence=3, stale=True, grades=grades)


_REPORT = Report(
    generation="ab12",
    rows=1234,
    first_sequence=4,
    last_sequence=5,
    users=2,
    top_k=10,
    rbo_p=0.9,
    retrieve=Latency(p50_ms=5.0, p99_ms=9.0),
    encode=Latency(p50_ms=1.0, p99_ms=2.0),
    indexes=(_index("swept", _grade(16), _grade(64)), _index("single", _grade(None))),
)


def test_the_plot_shows_both_measures_of_every_index(tmp_path: Path) -> None:
    draw(_REPORT, tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text()
    for shown in (  # matplotlib writes each text as a comment beside its outlines
        "1,234 posts, 2 users, one query at a time",
        "recall@10",
        "rank-biased overlap, p = 0.9",
        "swept (HNSW32), stale",
        "single (HNSW32), stale",
        "served, exact",
        "EncodeUser alone",
        "64",
    ):
        assert f"<!-- {shown} -->" in text


def test_a_plot_that_cannot_be_written_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "none" / "plot.png"
    with pytest.raises(FileError, match=r"plot\.png: No such file or directory"):
        draw(_REPORT, path)
