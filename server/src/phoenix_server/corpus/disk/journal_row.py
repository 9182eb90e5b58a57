"""A change as a row of the journal, and the checksums that hold rows together.

    changes(sequence, posts, post_ids, author_ids, created_at_unix_ms, labels, vectors, tower,
            checksum, chain)

`posts` is the number of posts. Columns of posts are blobs of little-endian numbers, `labels` is
JSON (null without labels), and `tower` is the fingerprint of the towers that made the vectors. A
deletion has `post_ids` only. `checksum` is the CRC-32 of the other columns, and `chain` a hash of
the checksums of this change and all before it.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.changes import Change, Labels, Posts
from phoenix_server.runtime.arrays import I32

TABLE = """
CREATE TABLE changes (
    sequence INTEGER PRIMARY KEY,
    posts INTEGER NOT NULL,
    post_ids BLOB NOT NULL,
    author_ids BLOB,
    created_at_unix_ms BLOB,
    labels TEXT,
    vectors BLOB,
    tower TEXT,
    checksum INTEGER NOT NULL,
    chain TEXT NOT NULL
) STRICT
"""
_CHAIN_BYTES = 8
_BLOBS = {"post_ids": "<u8", "author_ids": "<u8", "created_at_unix_ms": "<i8", "vectors": "<f4"}


class Row(NamedTuple):
    """A change as the database stores it, without sequence, checksum and chain.

    The columns of posts are bytes, `labels` and `tower` are text; all but the first two are None in
    a deletion.
    """

    posts: int
    post_ids: Any
    author_ids: Any = None
    created_at_unix_ms: Any = None
    labels: Any = None
    vectors: Any = None
    tower: Any = None


def encode(change: Change) -> Row:
    """Return a change as the database stores it."""
    if not isinstance(change, Posts):
        return Row(len(change), change.astype("<u8").tobytes())
    blobs = {name: getattr(change, name).astype(dtype).tobytes() for name, dtype in _BLOBS.items()}
    names, counts, indices = change.labels
    labels = json.dumps([names, counts.tolist(), indices.tolist()]) if names else None
    return Row(len(change), labels=labels, tower=change.tower, **blobs)


def decode(rows: Sequence[Row]) -> Posts:
    """Return the posts that changes of one tower write."""
    columns = {name: join(rows, name) for name in _BLOBS}
    columns["vectors"] = columns["vectors"].reshape(len(columns["post_ids"]), -1)
    return Posts(labels=_decode_labels(rows), tower=rows[0].tower, **columns)


def join(rows: Iterable[Row], name: str) -> npt.NDArray[Any]:
    """Return a column of the posts of several changes."""
    little_endian = np.dtype(_BLOBS[name])
    numbers = np.frombuffer(b"".join(getattr(row, name) for row in rows), little_endian)
    return numbers.astype(little_endian.newbyteorder("="), copy=False)


def _decode_labels(rows: Sequence[Row]) -> Labels:
    """Return the labels of the posts that changes write."""
    codes: dict[str, int] = {}
    no_labels = np.zeros(0, np.int32)

    @cache  # many changes have the same labels
    def decode(text: str) -> tuple[I32, I32]:
        names, counts, indices = json.loads(text)
        own = np.array([codes.setdefault(name, len(codes)) for name in names], np.int32)
        return np.array(counts, np.int32), own[indices]

    parts = [
        decode(row.labels) if row.labels else (np.zeros(row.posts, np.int32), no_labels)
        for row in rows
    ]
    counts, indices = (np.concatenate([no_labels, *column]) for column in zip(*parts, strict=True))
    return Labels(tuple(codes), counts, indices)


def checksum_of(columns: Sequence[object]) -> int:
    """Return the CRC-32 of a change as the database stores it."""
    total = 0
    for column in columns:
        data = column if isinstance(column, bytes) else repr(column).encode()
        total = zlib.crc32(data, total)
    return total


def link(chain: str, checksum: int) -> str:
    """Return the chain of a change with a checksum that follows a change with a chain."""
    content = f"{chain} {checksum}".encode()
    return hashlib.blake2b(content, digest_size=_CHAIN_BYTES).hexdigest()
