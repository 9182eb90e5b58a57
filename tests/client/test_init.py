"""The package's public names, and what importing and starting it loads."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import phoenix_client
from commands import run_program


def test_names_for_the_type_checker_are_the_names_at_run_time() -> None:
    tree = ast.parse(Path(phoenix_client.__file__).with_suffix(".pyi").read_text())
    typed = {
        (each.module, alias.asname or "")
        for each in tree.body
        if isinstance(each, ast.ImportFrom)
        for alias in each.names
    }
    assert {name for _, name in typed} == set(vars(phoenix_client)["__all__"])
    for module, name in typed:
        value = getattr(phoenix_client, name)
        parent = sys.modules[f"phoenix_client.{module}" if module else "phoenix_client"]
        assert value is getattr(parent, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Unknown"):
        getattr(phoenix_client, "Unknown")  # noqa: B009


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        ("from phoenix_client import PhoenixClient", {"phoenix_client.aio", "rich", "numpy"}),
        (
            "from phoenix_client.cli import main",
            {"grpc", "google", "rich", "phoenix_client.client"},
        ),
    ],
)
def test_what_is_not_used_is_not_imported(program: str, absent: set[str]) -> None:
    program = f"{program}\nimport sys\nprint(*sys.modules)"
    loaded = set(run_program(program).checked().out.split())
    assert "phoenix_client" in loaded
    assert not loaded & absent
