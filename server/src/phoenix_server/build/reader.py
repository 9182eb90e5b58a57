"""Stream the posts of a dataset, and check all of them before any is encoded.

Shapes:
    N  posts of the dataset        n  posts that repeat an earlier one
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock

import numpy as np
import pyarrow as pa

from phoenix_server.build.columns import convert
from phoenix_server.build.dataset import Dataset, PostFile
from phoenix_server.errors import CorpusError
from phoenix_server.runtime.arrays import I64, U64

_BATCH_ROWS = 1 << 16  # posts checked at once
_COMPARED = 1 << 20  # ids compared at once


def read_posts(
    dataset: Dataset, rows: range, batch_rows: int, now_ms: int
) -> Iterator[pa.RecordBatch]:
    """Yield posts with the columns of `corpus_schema`, without vectors.

    Args:
        dataset: The dataset.
        rows: The rows to read.
        batch_rows: The size of the batches; only the last may be smaller, whatever the files.
        now_ms: The time at which the build began, in milliseconds since 1970 UTC.

    Raises:
        CorpusError: A file is damaged, or holds an invalid value.
    """
    pieces: list[pa.RecordBatch] = []
    missing = batch_rows
    for index, file in enumerate(dataset.files):
        start = dataset.starts[index]
        rows_here = range(max(rows.start - start, 0), min(rows.stop - start, file.rows))
        for row, piece in _pieces(file, rows_here, dataset.columns, batch_rows):
            posts = convert(file.name, piece, row, now_ms)
            while posts.num_rows:
                taken = posts.slice(0, missing)
                posts = posts.slice(taken.num_rows)
                pieces.append(taken)
                missing -= taken.num_rows
                if not missing:
                    yield pa.concat_batches(pieces)
                    pieces, missing = [], batch_rows
    if pieces:
        yield pa.concat_batches(pieces)


def check_posts(
    dataset: Dataset, *, drop_duplicates: bool, now_ms: int, report: Callable[[int], None]
) -> I64:
    """Check all posts of a dataset.

    Memory: the ids of all posts, 8 bytes each, and the batches being read.

    Args:
        dataset: The posts.
        drop_duplicates: Allow posts to occur more than once.
        now_ms: The time at which the build began, in milliseconds since 1970 UTC.
        report: Called with the number of posts checked so far.

    Returns:
        The rows that repeat an earlier post, [n] i64, ascending.

    Raises:
        CorpusError: A file is damaged or holds an invalid value, or a post occurs more than once
            and `drop_duplicates` is False.
    """
    repeated = _repeated(_checked_ids(dataset, now_ms, report))
    rows = _locate(dataset, repeated) if len(repeated) else np.zeros((2, 0), np.int64)
    if rows.size and not drop_duplicates:
        (name, later), (before, earlier) = (dataset.locate(int(row)) for row in rows[:, 0])
        row = int(rows[0, 0])
        post = next(read_posts(dataset, range(row, row + 1), 1, now_ms)).column("post_id")[0]
        raise CorpusError(
            name,
            f"post_id {post} occurs more than once: in row {later}, and before in row {earlier} of "
            f"{before} ({rows.shape[1]} repeated rows); --drop-duplicates keeps the first of each",
        )
    return rows[0]


def _checked_ids(dataset: Dataset, now_ms: int, report: Callable[[int], None]) -> U64:
    """Check all posts, one file per thread, and return their ids, [N] u64."""
    post_ids = np.empty(dataset.rows, np.uint64)
    lock, stop, done = Lock(), Event(), 0

    def check_file(index: int) -> None:
        nonlocal done
        file, start = dataset.files[index], dataset.starts[index]
        for row, piece in _pieces(file, range(file.rows), dataset.columns, _BATCH_ROWS):
            posts = convert(file.name, piece, row, now_ms)
            rows = slice(start + row, start + row + posts.num_rows)
            post_ids[rows] = posts.column("post_id").to_numpy()
            with lock:
                done += posts.num_rows
                report(done)
            if stop.is_set():
                return

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            list(pool.map(check_file, range(len(dataset.files))))
        finally:
            stop.set()  # ends the other threads after an error
    return post_ids


def _repeated(post_ids: U64) -> U64:
    """Return the ids that occur more than once, ascending; sorts the [N] ids in place."""
    post_ids.sort()
    starts = range(0, len(post_ids) - 1, _COMPARED)
    pieces = (post_ids[start : start + 1 + _COMPARED] for start in starts)
    found = [ids[1:][ids[1:] == ids[:-1]] for ids in pieces]
    return np.unique(np.concatenate([*found, np.zeros(0, np.uint64)]))


def _locate(dataset: Dataset, repeated: U64) -> I64:
    """Find the rows that repeat an earlier post, and the first row of that post: [2, n] i64."""
    first = np.full(len(repeated), -1, np.int64)  # the first row of each id
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
    """Yield columns of some rows of a file, up to `batch_rows` at a time, with their first row."""
    if not rows:
        return
    with file.open() as opened:
        end = 0
        for group, count in enumerate(file.group_rows):
            row, end = end, end + count
            if row >= rows.stop or end <= rows.start:
                continue
            for batch in opened.iter_batches(batch_rows, row_groups=[group], columns=list(columns)):
                start, stop = max(rows.start - row, 0), min(rows.stop - row, batch.num_rows)
                if start < stop:
                    yield row + start, batch.slice(start, stop - start)
                row += batch.num_rows
                if row >= rows.stop:
                    return
