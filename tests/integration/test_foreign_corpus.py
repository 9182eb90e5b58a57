"""Vectors that were made by another model than the bundle's are noticed at import."""

import shutil
from pathlib import Path

import numpy as np

from commands import run_module


def test_importing_vectors_of_other_towers_warns(
    golden_layout: Path, bundle_f32: Path, tmp_path: Path
) -> None:
    with np.load(golden_layout / "sports_corpus.npz") as published:
        arrays = dict(published)
    arrays["candidate_representations"] = np.roll(arrays["candidate_representations"], 1, axis=0)
    np.savez(tmp_path / "foreign.npz", allow_pickle=False, **arrays)
    shutil.copy(golden_layout / "sports_corpus.npz", tmp_path / "own.npz")
    for name, warned in (("foreign", True), ("own", False)):
        options = ("--bundle", bundle_f32, "--out", tmp_path / name)
        imported = run_module(
            "phoenix_server", "import-corpus", tmp_path / f"{name}.npz", *options
        ).checked()
        assert ("256 of 256 sampled vectors are not what" in imported.err) == warned
