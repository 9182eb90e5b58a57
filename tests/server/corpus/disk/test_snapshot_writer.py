import os
import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from phoenix_server.corpus.disk.snapshot import open_snapshot, to_record_batch
from phoenix_server.corpus.disk.snapshot_writer import new_snapshot, select_posts
from phoenix_server.errors import CorpusError
from server.corpus.change_cases import NAMES, WIDTH, id_array, unit_posts
from server.corpus.reference import Model


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_full_disk_is_freed_again(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / "out"
    with pytest.raises(CorpusError, match=r"cannot be written: .*File too large") as caught:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with new_snapshot(
                out, source=out, embedding_size=WIDTH, tower_fingerprint="f"
            ) as snapshot:
                for first in range(1, 100_000, 1000):
                    snapshot.write(to_record_batch(unit_posts(range(first, first + 1000), first)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []
    # A deleted file takes space as long as it is open, for example in this traceback.
    open_files = {entry.resolve() for entry in Path("/proc/self/fd").iterdir()}
    assert not [path for path in open_files if path.is_relative_to(tmp_path)]
    assert caught.value.path == out


def test_a_failure_while_writing_leaves_no_files(tmp_path: Path) -> None:
    def write() -> None:
        with new_snapshot(
            tmp_path / "corpus", source=tmp_path, embedding_size=2, tower_fingerprint="f"
        ):
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write()
    assert not list(tmp_path.iterdir())


def test_the_manifest_lists_labels_of_posts_and_others(tmp_path: Path) -> None:
    posts = unit_posts(range(1, 60), 0)
    with new_snapshot(
        tmp_path / "corpus",
        source=tmp_path,
        embedding_size=WIDTH,
        tower_fingerprint="f",
    ) as writer:
        writer.write(to_record_batch(posts))
        writer.label_names.add("other")
        assert writer.rows == 59
    snapshot = open_snapshot(tmp_path / "corpus")
    used = {name for post in Model.of(posts).values() for name in post.labels}
    assert used <= set(NAMES)
    assert snapshot.manifest.label_names == sorted({*used, "other"})


def test_the_first_of_repeated_posts_is_kept(tmp_path: Path) -> None:
    ids = id_array(5, 7, 5, 9, 7)
    keep = select_posts(tmp_path, ids, drop_duplicates=True)
    assert keep.tolist() == [True, True, False, True, False]
    with pytest.raises(CorpusError, match=r"post_id 5 occurs more than once \(2 repeated rows\)"):
        select_posts(tmp_path, ids, drop_duplicates=False)
    with pytest.raises(CorpusError, match="holds no posts"):
        select_posts(tmp_path, np.zeros(0, np.uint64), drop_duplicates=True)
