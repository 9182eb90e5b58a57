from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from commands import Run
from phoenix_server.corpus.disk.snapshot import open_snapshot, verify
from server.cli.cases import assert_one_line


@pytest.fixture
def sports(golden_layout: Path) -> Path:
    return golden_layout / "sports_corpus.npz"


def test_writes_a_corpus_and_says_so_in_one_line(
    run: Run, sports: Path, bundle_f32: Path, tmp_path: Path
) -> None:
    out = tmp_path / "odd [name] that is long enough to be wrapped where the terminal ends" / "c"
    status, printed, err = run("import-corpus", sports, "--bundle", bundle_f32, "--out", out)
    assert (status, printed) == (0, "")
    assert err.startswith(f"Wrote {out}: 3,000 posts in ")
    assert err.count("\n") == 1
    verify(open_snapshot(out))


def test_trust_pickle_and_drop_duplicates(run: Run, bundle_f32: Path, tmp_path: Path) -> None:
    vectors = np.eye(3, 128, dtype=np.float32)
    ids = np.array([5, 6, 5], np.uint64)
    npz, out = tmp_path / "posts.npz", tmp_path / "corpus"
    np.savez(
        npz,
        post_ids=ids,
        author_ids=ids,
        candidate_representations=vectors,
        topics=np.array(["a", None, "b"], object),
    )
    command = ("import-corpus", npz, "--bundle", bundle_f32, "--out", out)
    assert_one_line(run(*command), f"{npz}: topics is pickled")
    assert_one_line(run(*command, "--trust-pickle"), f"{npz}: post_id 5 occurs more than once")
    assert run(*command, "--trust-pickle", "--drop-duplicates").status == 0
    assert open_snapshot(out).columns().post_ids.tolist() == [5, 6]
