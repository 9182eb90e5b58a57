"""A bundle appears whole, in a directory of its own, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from export.cases import Files
from phoenix_export.bundle import write_bundle
from phoenix_export.checkpoint import open_checkpoint
from phoenix_export.errors import CheckpointError, OutputError


@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
def test_an_existing_directory_is_never_overwritten(
    tiny_checkpoint: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "1"
    match kind:
        case "directory":
            out.mkdir()
        case "file":
            out.write_text("mine")
        case _:
            out.symlink_to(tmp_path / "nowhere")
    before = out.lstat()
    with pytest.raises(OutputError, match="exists and is never overwritten"):
        write_bundle(open_checkpoint(tiny_checkpoint, "float32"), out, saved_model=False)
    assert os.listdir(tmp_path) == ["1"]
    assert out.lstat() == before


def test_a_directory_that_cannot_be_written_is_reported_with_the_reason(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    checkpoint = open_checkpoint(tiny_checkpoint, "float32")
    with pytest.raises(OutputError) as caught:
        write_bundle(checkpoint, tmp_path / "file" / "1", saved_model=False)
    file = tmp_path / "file"
    assert str(caught.value) == f"{file}/1: cannot be written: File exists: {file}"


def test_a_bad_value_leaves_nothing_behind(files: Files, tmp_path: Path) -> None:
    files.tables["author_embeddings"][3, 2] = np.nan
    checkpoint = open_checkpoint(files.write(tmp_path / "checkpoint"), "float32")
    (tmp_path / "bundles").mkdir()
    with pytest.raises(CheckpointError, match="author_embeddings: holds nan at flat index 41"):
        write_bundle(checkpoint, tmp_path / "bundles" / "1", saved_model=False)
    assert os.listdir(tmp_path / "bundles") == []


@pytest.mark.parametrize("step", ["weights", "program candidate_tower", "self-test", "sums"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_nothing_behind(
    tiny_checkpoint: Path, tmp_path: Path, step: str, failure: BaseException
) -> None:
    seen: list[Path] = []

    def report(name: str) -> None:
        seen[:] = list(tmp_path.iterdir())
        if name == step:
            raise failure

    checkpoint = open_checkpoint(tiny_checkpoint, "float32")
    expected = OutputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_bundle(checkpoint, tmp_path / "1", saved_model=False, report=report)
    if isinstance(failure, OSError):
        assert str(caught.value).endswith("/1: cannot be written: No space left on device")
    assert [path.name.startswith(".1.") for path in seen] == [True]
    assert list(tmp_path.iterdir()) == []


def test_files_and_folders_are_flushed_before_the_name_appears(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        flushed.append("." if path == tmp_path else "/".join(path.relative_to(tmp_path).parts[1:]))
        assert path == tmp_path or not (tmp_path / "1").exists()
        fsync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    monkeypatch.setattr("phoenix_export.directories.os.fsync", record)
    manifest = write_bundle(
        open_checkpoint(tiny_checkpoint, "float32"), tmp_path / "1", saved_model=False
    )
    files = {file.path for file in manifest.files} | {"manifest.json"}
    assert set(flushed) == files | {"programs", "tables", "", "."}
    assert flushed[-1] == "."


def test_the_steps_are_reported_in_order(tiny_checkpoint: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    checkpoint = open_checkpoint(tiny_checkpoint, "float32")
    write_bundle(checkpoint, tmp_path / "1", saved_model=False, report=steps.append)
    assert steps[0] == "weights" and steps[-1] == "sums"
    assert len(steps) == 8
