from __future__ import annotations

from pathlib import Path

import pytest

from commands import run_module
from export.cases import Files, tiny_files
from phoenix_export.bundle import write_bundle
from phoenix_export.checkpoint import open_checkpoint


@pytest.fixture
def files() -> Files:
    """Return a tiny checkpoint, not yet written."""
    return tiny_files()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny checkpoint. Read-only."""
    return tiny_files().write(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of the tiny checkpoint, computing in float32. Read-only."""
    out = tmp_path_factory.mktemp("tiny") / "bundle"
    write_bundle(open_checkpoint(tiny_checkpoint, "float32"), out, saved_model=False)
    return out


@pytest.fixture(scope="session")
def bundle_with_saved_model(golden_layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the golden checkpoint's float32 bundle as the command line writes it. Read-only.

    In a process of its own: TensorFlow warns when it is imported, and is large.
    """
    out = tmp_path_factory.mktemp("saved") / "phoenix" / "1"
    options = ("--out", out, "--dtype", "float32")
    run_module("phoenix_export", "bundle", golden_layout, *options).checked()
    return out
