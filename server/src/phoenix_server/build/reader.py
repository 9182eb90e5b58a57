"""Stream the posts of a dataset, and look through all of them before anything is encoded.

Shapes:
    N  posts of the dataset        R  posts that repeat an earlier one
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from phoenix_server.build.columns import convert
from phoenix_server.build.dataset import Dataset, PostFile
from phoenix_server.errors import CorpusError

_BATCH_ROWS = 1 << 16  # looked through at once
_COMPARED = 1 << 20  # ids compared with their neighbours at once


def read_posts(dataset: Dataset, rows: range, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield posts as a corpus has them, all but the vectors.

    Args:
        dataset: Where they are.
        rows: Which.
        batch_rows: How many at a time; only the last batch may be smaller, whatever the files.

    Raises:
        CorpusError: A file is damaged, or holds what a post may not have.
    """
    waiting: list[pa.RecordBatch] = []
    missing = batch_rows
    for index, file in enumerate(dataset.files):
        start = dataset.starts[index]
        wanted = range(max(rows.start - start, 0), min(rows.stop - start, file.rows))
        for row, piece in _pieces(file, wanted, dataset.columns, batch_rows):
            posts = convert(file.name, piece, row)
            while posts.num_rows:
                taken = posts.slice(0, missing)
                posts = posts.slice(taken.num_rows)
                waiting.append(taken)
                missing -= taken.num_rows
                if not missing:
                    yield pa.concat_batches(waiting)
                    waiting, missing = [], batch_rows
    if waiting:
        yield pa.concat_batches(waiting)


def check_posts(
    dataset: Dataset, *, drop_duplicates: bool, report: Callable[[int], None]
) -> npt.NDArray[np.int64]:
    """Look through all posts.

    The ids of all posts are held meanwhile, 8 bytes a post, and of the rest what is being read.

    Args:
        dataset: The posts.
        drop_duplicates: Allow posts to come more than once.
        report: Called with the number of posts looked through.

    Returns:
        Which repeat an earlier one, [R] i64, ascending.

    Raises:
        CorpusError: A file is damaged, or holds what a post may not have; or a post comes more
            than once and `drop_duplicates` is off.
    """
    repeated = _repeated(_checked_ids(dataset, report))
    rows = _locate(dataset, repeated) if len(repeated) else np.zeros((2, 0), np.int64)
    if rows.size and not drop_duplicates:
        (name, later), (before, earlier) = (dataset.locate(int(row)) for row in rows[:, 0])
        post = next(read_posts(dataset, range(rows[0, 0], rows[0, 0] + 1), 1)).column("post_id")[0]
        raise CorpusError(
            name,
            f"post_id {post} comes more than once: in row {later}, and before in row {earlier} of "
            f"{before} ({rows.shape[1]} repeated rows); --drop-duplicates keeps the first of each",
        )
    return rows[0]


def _checked_ids(dataset: Dataset, report: Callable[[int], None]) -> npt.NDArray[np.uint64]:
    """Look through all posts, a file a thread, and return their ids, [N] u64."""
    post_ids = np.empty(dataset.rows, np.uint64)
    lock, stop, done = Lock(), Event(), 0

    def look_through(index: int) -> None:
        nonlocal done
        file, start = dataset.files[index], dataset.starts[index]
        for row, piece in _pieces(file, range(file.rows), dataset.columns, _BATCH_ROWS):
            posts = convert(file.name, piece, row)
            rows = slice(start + row, start + row + posts.num_rows)
            post_ids[rows] = posts.column("post_id").to_numpy()
            with lock:
                done += posts.num_rows
                report(done)
            if stop.is_set():
                return

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            list(pool.map(look_through, range(len(dataset.files))))
        finally:
            stop.set()  # for whoever still reads when another file is at fault
    return post_ids


def _repeated(post_ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the ids that come more than once, ascending; sorts all [N] ids where they are."""
    post_ids.sort()
    found = [
        post_ids[start + 1 : start + 1 + _COMPARED][same]
        for start in range(0, len(post_ids) - 1, _COMPARED)
        if (same := _equal(post_ids[start : start + 1 + _COMPARED])).any()
    ]
    return np.unique(np.concatenate([*found, np.zeros(0, np.uint64)]))


def _equal(ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    return ids[1:] == ids[:-1]


def _locate(dataset: Dataset, repeated: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Find the posts that repeat an earlier one: [2, R] i64, they and the first of each."""
    first = np.full(len(repeated), -1, np.int64)  # of each id, where it came first
    found = [np.zeros((2, 0), np.int64)]
    for index, file in enumerate(dataset.files):
        for row, piece in _pieces(file, range(file.rows), ("post_id",), _BATCH_ROWS):
            ids = piece.column("post_id").to_numpy(zero_copy_only=False).astype(np.uint64)
            which = np.minimum(np.searchsorted(repeated, ids), len(repeated) - 1)
            here = np.flatnonzero(repeated[which] == ids)
            which, rows = which[here], dataset.starts[index] + row + here
            new, at = np.unique(which, return_index=True)
            first[new] = np.where(first[new] < 0, rows[at], first[new])
            again = first[which] != rows
            found.append(np.stack([rows[again], first[which[again]]]))
    return np.concatenate(found, axis=1)


def _pieces(
    file: PostFile, rows: range, columns: Sequence[str], batch_rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the columns of some rows of a file, at most `batch_rows` at a time, with their row."""
    if not rows:
        return
    with file.open() as opened:
        row = 0
        for group, count in enumerate(file.group_rows):
            if row < rows.stop and row + count > rows.start:
                yield from _group_pieces(opened, group, row, rows, columns, batch_rows)
            row += count


def _group_pieces(
    file: pq.ParquetFile,
    group: int,
    row: int,
    rows: range,
    columns: Sequence[str],
    batch_rows: int,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield those of `rows` that are in a row group, which begins at `row`."""
    for batch in file.iter_batches(batch_rows, row_groups=[group], columns=list(columns)):
        start = max(rows.start - row, 0)
        piece = batch.slice(start, max(min(rows.stop - row, batch.num_rows) - start, 0))
        if piece.num_rows:
            yield row + start, piece
        row += batch.num_rows
        if row >= rows.stop:
            return
