"""Import a corpus from the published `.npz`: the given vectors, checked."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phoenix_server.bundle.bundle import Bundle
from phoenix_server.corpus.changes import Labels, Posts
from phoenix_server.corpus.disk.snapshot import to_record_batch
from phoenix_server.corpus.disk.snapshot_writer import new_snapshot, select_posts
from phoenix_server.corpus.post_rules import (
    Fault,
    carried_times,
    clock_ms,
    find_bad_ids,
    find_bad_labels,
)
from phoenix_server.errors import CorpusError
from phoenix_server.runtime.arrays import U64

_CHUNK_ROWS = 16_384
_IDS = ("post_ids", "author_ids")
_VECTORS = "candidate_representations"
_TOPICS = "topics"

Arrays = dict[str, npt.NDArray[Any]]


def import_corpus(
    path: Path,
    bundle: Bundle,
    out: Path,
    *,
    trust_pickle: bool = False,
    drop_duplicates: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write a corpus from an `.npz` in the published layout.

    Args:
        path: The `.npz`: post_ids [N] u64, author_ids [N] u64, candidate_representations [N, D]
            f32 and optionally topics [N], strings, which become labels.
        bundle: The bundle whose candidate tower made the vectors.
        out: The directory to write; must not exist.
        trust_pickle: Read object arrays, which runs code that the file contains.
        drop_duplicates: Keep the first of posts that occur more than once.
        report: Called with the number of posts written so far and in total.

    Returns:
        The number of posts written.

    Raises:
        CorpusError: The file is damaged, incomplete or invalid, or `out` cannot be written.
    """
    arrays = _load(path, trust_pickle)
    width = bundle.manifest.model.embedding_size
    _check(path, arrays, width)
    post_ids = arrays["post_ids"]
    keep = select_posts(path, post_ids, drop_duplicates=drop_duplicates)
    posts = Posts(
        post_ids=post_ids,
        author_ids=arrays["author_ids"],
        created_at_unix_ms=carried_times(post_ids, clock_ms()),
        labels=_labels(path, arrays.get(_TOPICS), len(post_ids)),
        vectors=arrays[_VECTORS].astype(np.float32, copy=False),
    )
    batch = to_record_batch(posts if keep.all() else posts.take(np.flatnonzero(keep)))
    with new_snapshot(
        out, source=path, embedding_size=width, tower_fingerprint=bundle.manifest.tower_fingerprint
    ) as writer:
        for start in range(0, batch.num_rows, _CHUNK_ROWS):
            writer.write(batch.slice(start, _CHUNK_ROWS))
            report(writer.rows, batch.num_rows)
    return batch.num_rows


def _load(path: Path, trust_pickle: bool) -> Arrays:
    arrays: Arrays = {}
    name = ""
    try:
        with path.open("rb") as opened:
            if not zipfile.is_zipfile(opened):  # numpy would read it as a pickle
                raise zipfile.BadZipFile("it is not an .npz, or is truncated")
            opened.seek(0)
            with np.load(opened, allow_pickle=trust_pickle) as file:
                for name in (*_IDS, _VECTORS, _TOPICS):
                    if name in file.files:
                        arrays[name] = np.asarray(file[name])
    except FileNotFoundError:
        raise CorpusError(path, "no such file") from None
    except Exception as exc:  # zip, zlib, numpy and pickle raise many types
        if "allow_pickle" in str(exc):
            raise CorpusError(
                path,
                f"{name} is pickled, and unpickling runs code that the file contains; "
                "pass --trust-pickle if you trust its origin",
            ) from exc
        raise CorpusError(path, f"cannot be read: {exc}") from exc
    return arrays


def _check(path: Path, arrays: Arrays, width: int) -> None:
    for name in (*_IDS, _VECTORS):
        if name not in arrays:
            raise CorpusError(path, f"{name} is missing")
    if arrays["post_ids"].ndim != 1:
        raise CorpusError(path, f"post_ids has shape {arrays['post_ids'].shape}, should be a list")
    rows = len(arrays["post_ids"])
    for name in _IDS:
        arrays[name] = _ids(path, name, arrays[name])
    for name, shape in (("author_ids", (rows,)), (_VECTORS, (rows, width)), (_TOPICS, (rows,))):
        if name in arrays and arrays[name].shape != shape:
            raise CorpusError(path, f"{name} has shape {arrays[name].shape}, should have {shape}")
    if arrays[_VECTORS].dtype.kind != "f":
        raise CorpusError(path, f"{_VECTORS} is {arrays[_VECTORS].dtype}, should be float32")


def _ids(path: Path, name: str, array: npt.NDArray[np.generic]) -> U64:
    if array.dtype.kind not in "ui":
        raise CorpusError(path, f"{name} is {array.dtype}, should be uint64")
    if array.dtype.kind == "i" and (negative := np.flatnonzero(np.less(array, 0))).size:
        raise CorpusError(path, f"{name}[{negative[0]}] is negative")
    ids = array.astype(np.uint64, copy=False)
    _refuse(path, name, find_bad_ids(ids))
    return ids


def _refuse(path: Path, name: str, faults: Sequence[Fault]) -> None:
    """Raise an error for the first fault of an array, if there is one."""
    for i, what in faults:
        raise CorpusError(path, f"{name}[{i}] {what}")


def _texts(path: Path, topics: npt.NDArray[np.generic]) -> list[str]:
    """Return topics as strings; a missing topic (None, or NaN as in pandas) becomes empty."""
    if topics.dtype.kind not in "UO":
        raise CorpusError(path, f"{_TOPICS} is {topics.dtype}, should be strings")
    texts: list[str] = []
    for i, topic in enumerate(topics.tolist()):
        if isinstance(topic, str):
            texts.append(topic)
        elif topic is None or (isinstance(topic, float | np.floating) and np.isnan(topic)):
            texts.append("")
        else:
            raise CorpusError(path, f"{_TOPICS}[{i}] is of type {type(topic).__name__}, not str")
    return texts


def _labels(path: Path, topics: npt.NDArray[np.generic] | None, count: int) -> Labels:
    """Return one label per post, or none where the topic is empty or missing.

    Raises:
        CorpusError: A topic is not a string, or cannot be a label.
    """
    if topics is None:
        return Labels.none(count)
    texts = _texts(path, topics)
    first: dict[str, int] = {}  # the first row of each topic
    for i, text in enumerate(texts):
        if text:
            first.setdefault(text, i)
    for i, what in find_bad_labels(list(first)):
        raise CorpusError(path, f"{_TOPICS}[{list(first.values())[i]}] {what}")
    names = sorted(first)
    index = {name: i for i, name in enumerate(names)}
    counts = np.array([bool(text) for text in texts], np.int32)
    return Labels(tuple(names), counts, np.array([index[t] for t in texts if t], np.int32))
