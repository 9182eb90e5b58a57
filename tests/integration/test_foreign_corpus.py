"""Vectors that came ready, imported with the wrong bundle, do not pass unnoticed."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np


def test_importing_vectors_of_other_towers_warns(
    golden_layout: Path, bundle_f32: Path, tmp_path: Path
) -> None:
    with np.load(golden_layout / "sports_corpus.npz") as published:
        arrays = dict(published)
    arrays["candidate_representations"] = np.roll(arrays["candidate_representations"], 1, axis=0)
    np.savez(tmp_path / "foreign.npz", allow_pickle=False, **arrays)
    shutil.copy(golden_layout / "sports_corpus.npz", tmp_path / "own.npz")
    for name, warned in (("foreign", True), ("own", False)):
        options = ["--bundle", str(bundle_f32), "--out", str(tmp_path / name)]
        command = [sys.executable, "-m", "phoenix_server", "import-corpus"]
        done = subprocess.run(
            [*command, str(tmp_path / f"{name}.npz"), *options],
            capture_output=True,
            text=True,
            check=True,
        )
        assert ("256 of 256 sampled vectors are not what" in done.stderr) == warned
