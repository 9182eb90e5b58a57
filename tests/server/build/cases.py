"""Cases for tests of builds: valid and invalid Parquet files of posts."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phoenix_server.artifacts import sha256
from phoenix_server.build.build import BuildConfig, build_corpus
from phoenix_server.build.dataset import Place
from phoenix_server.bundle.bundle import Bundle
from phoenix_server.corpus.disk.snapshot import open_snapshot, verify
from phoenix_server.errors import CorpusError
from server.cases import SMALL_ID

SNOWFLAKE_EPOCH_MS = 1_288_834_974_657
SNOWFLAKE = 2_004_433_092_001_269_499
SNOWFLAKE_MS = (SNOWFLAKE >> 22) + SNOWFLAKE_EPOCH_MS
IDS = [SNOWFLAKE, 2**64 - 1, SMALL_ID]
AUTHORS = [2**63, 1, 17]

SMALL = BuildConfig(batch_rows=64, part_rows=128)
"""Batches and parts so small that a few hundred posts fill several."""


def columns(**changes: Any) -> dict[str, Any]:
    """Return the columns of three posts; None removes one."""
    made = {"post_id": pa.array(IDS, pa.uint64()), "author_id": pa.array(AUTHORS, pa.uint64())}
    return {name: column for name, column in (made | changes).items() if column is not None}


def write(path: Path, **changes: Any) -> Path:
    """Write three posts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns(**changes)), path)
    return path


def built(bundle: Bundle, folder: Path, **changes: Any) -> pa.Table:
    """Build a corpus of three posts and return it."""
    parquet = write(folder / "posts.parquet", **changes)
    build_corpus([parquet], bundle, folder / "corpus", SMALL)
    return read(folder / "corpus")


def read(corpus: Path) -> pa.Table:
    """Verify a corpus and return it."""
    verify(open_snapshot(corpus))
    with pa.memory_map(str(corpus / "posts.arrow")) as source:
        return pa.ipc.open_file(source).read_all()


def digest(corpus: Path) -> str:
    """Verify a corpus and return the SHA-256 of its data."""
    verify(open_snapshot(corpus))
    return sha256(corpus / "posts.arrow")


def refused(
    places: Sequence[Place], bundle: Bundle, out: Path, config: BuildConfig = SMALL
) -> CorpusError:
    """Check that a build fails and leaves no files; return the error."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(CorpusError) as caught:
        build_corpus(places, bundle, out, config)
    assert sorted(out.parent.iterdir()) == before
    assert str(caught.value).startswith(f"{caught.value.path}: ")
    return caught.value


def random_posts(count: int, seed: int = 0) -> pa.Table:
    """Draw posts with all columns, some optional values missing."""
    rng = np.random.default_rng(seed)
    ids: npt.NDArray[np.uint64] = rng.integers(1, 2**64, count, np.uint64)
    times = rng.integers(10**11, 10**12, count)
    labels = [None if i % 5 == 0 else [f"label {i % 7}"] * (i % 3) for i in range(count)]
    return pa.table(
        {
            "author_id": rng.integers(1, 2**64, count, np.uint64),
            "labels": pa.array(labels, pa.list_(pa.string())),
            "created_at": pa.array(times, mask=times % 3 == 0).cast(pa.timestamp("ms", "UTC")),
            "post_id": np.where(np.arange(count) % 4 == 0, ids >> 42 | 1 << 21, ids),
        }
    )


def write_files(folder: Path, posts: pa.Table, cuts: Sequence[int], group_rows: int) -> Path:
    """Write posts as several files, cut where `cuts` say, and return their directory."""
    for index, piece in enumerate(_cut(posts, cuts)):
        (folder / f"{index:03}").mkdir(parents=True, exist_ok=True)
        pq.write_table(piece, folder / f"{index:03}" / "part.parquet", row_group_size=group_rows)
    return folder


def _cut(posts: pa.Table, cuts: Sequence[int]) -> Iterator[pa.Table]:
    bounds = [0, *sorted(cuts), posts.num_rows]
    for start, stop in itertools.pairwise(bounds):
        yield posts.slice(start, stop - start)
