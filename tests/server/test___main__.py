"""The program `phoenix-server` as the first lines of it run."""

import sys
from collections.abc import Sequence

import pytest

from phoenix_server import __main__
from phoenix_server.cli import main as cli


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["serve", "--corpus", "x"], ["huge pages", "main"]),
        (["compile"], ["main"]),
        ([], ["main"]),
    ],
)
def test_only_a_server_starts_again_with_huge_pages(
    monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str], expected: Sequence[str]
) -> None:
    done: list[str] = []
    monkeypatch.setattr(sys, "argv", ["phoenix-server", *arguments])
    monkeypatch.setattr(__main__, "restart_with_huge_pages", lambda: done.append("huge pages"))
    monkeypatch.setattr(cli, "main", lambda: done.append("main"))
    __main__.run()
    assert done == expected
