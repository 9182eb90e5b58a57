from __future__ import annotations

from pathlib import Path

from commands import Run
from fake_server.server import GENERATION
from judge.index_cases import (
    Make,
)


def test_the_table_names_what_was_measured(run: Run, make: Make, users: Path) -> None:
    status, out, err = run("grade", make("a"), make("b"), users, "--top-k", 3)
    assert (status, err) == (0, "")
    heading, columns, _, *rows = out.splitlines()
    assert heading == f"generation {GENERATION}: 1,234 posts, 2 users"
    assert columns.split() == [
        *("search", "setting", "recall@3", "least", "RBO", "p=0.9", "p50", "ms", "p99", "ms"),
    ]
    assert [row.split("  ")[0].strip() for row in rows] == [
        "served, exact",
        "",
        "a (Flat)",
        "b (Flat)",
    ]
    assert "EncodeUser alone" in rows[1]
    assert rows[2].split()[2:5] == ["1.0000"] * 3
