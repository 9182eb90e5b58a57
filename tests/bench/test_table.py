from io import StringIO

import pytest
from rich.console import Console

from phoenix_bench.results import Row, summarise
from phoenix_bench.table import format_number, make_table


def rows() -> list[Row]:
    made: list[Row] = []
    for k in (10, 1000):
        for system, time in (("peer", 3.0), ("ours", 2.0)):
            made.append(
                summarise(
                    [time * k, time * k + 1],
                    suite="s",
                    system=system,
                    metric="time",
                    unit="ms",
                    params={"k": k, "of": "all"},
                )
            )
    return made


def printed(rows: list[Row], *, percentiles: bool) -> list[str]:
    console = Console(file=StringIO(), width=100)
    console.print(make_table(rows, percentiles=percentiles))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def test_our_system_comes_first_and_each_line_has_one_set_of_params() -> None:
    lines = printed(rows(), percentiles=True)
    header = next(line for line in lines if "peer" in line)
    assert header.index("ours") < header.index("peer")
    line = next(line for line in lines if "k 1,000, of: all" in line)
    assert "2,000 (2,000-2,001)" in line and "3,000 (3,000-3,001)" in line


def test_a_narrow_table_shows_only_medians() -> None:
    text = "\n".join(printed(rows(), percentiles=False))
    assert "2,000" in text and "(" not in text


def test_a_missing_measurement_leaves_its_cell_empty() -> None:
    lines = printed(rows()[:-1], percentiles=True)
    line = next(line for line in lines if "k 1,000" in line)
    assert "3,000" in line and "2,000" not in line


@pytest.mark.parametrize(
    ("value", "text"), [(0.012345, "0.0123"), (12.345, "12.3"), (1234.5, "1,234"), (100, "100")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert format_number(value) == text
