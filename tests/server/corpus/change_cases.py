"""Cases for tests of a corpus that changes: posts and small corpora."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.changes import Change, Labels, Posts
from phoenix_server.corpus.disk.snapshot import Snapshot, open_snapshot, to_record_batch
from phoenix_server.corpus.disk.snapshot_writer import new_snapshot
from phoenix_server.corpus.memory.index import CorpusIndex
from phoenix_server.search.eligibility import FilterColumns
from phoenix_server.search.sharded import DeviceCorpus
from server.corpus.reference import Model

Ids = npt.NDArray[np.uint64]

WIDTH = 8
TOWER = "f"
NAMES = ("red", "green", "", 'a "b"\n', "\N{SNOWMAN}")
HALVES = np.array([2**32, 1], np.uint64)


class OwnTowers:
    """An encoder whose towers made all vectors."""

    tower = TOWER

    def encode_posts(self, post_ids: Ids, author_ids: Ids) -> npt.NDArray[np.float32]:
        raise AssertionError("all vectors are of these towers")


def id_array(*ids: int) -> Ids:
    """Return ids as an array."""
    return np.array(ids, np.uint64)


def posts_of(ids: Sequence[int], seed: int = 0, names: Sequence[str] = NAMES) -> Posts:
    """Draw posts of some ids: vectors of integers, and labels, of which some are unused."""
    rng = np.random.default_rng([seed, len(ids)])
    count = len(ids)
    has = rng.random((count, len(names))) < 0.3
    return Posts(
        post_ids=np.array(ids, np.uint64),
        author_ids=rng.integers(1, 2**64, count, np.uint64),
        created_at_unix_ms=rng.integers(0, 2**42, count),
        labels=Labels(
            tuple(names), has.sum(axis=1, dtype=np.int32), np.nonzero(has)[1].astype(np.int32)
        ),
        vectors=rng.integers(-3, 4, (count, WIDTH)).astype(np.float32),
        tower=TOWER,
    )


def unit_posts(ids: Sequence[int], seed: int) -> Posts:
    """Draw posts of some ids with unit vectors, as a server accepts them."""
    posts = posts_of(ids, seed)
    vectors = posts.vectors + np.float32(0.5)  # no vector is all zeros
    return replace(posts, vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def labelled(ids: Sequence[int], *names: str) -> Posts:
    """Return posts of some ids that all have the same labels."""
    posts, count = unit_posts(ids, 0), len(names)
    indices = np.tile(np.arange(count, dtype=np.int32), len(ids))
    return replace(posts, labels=Labels(names, np.full(len(ids), count, np.int32), indices))


def assert_same_change(change: Change, expected: Change) -> None:
    """Check that two changes are equal, bit for bit and in order."""
    if not isinstance(expected, Posts):
        assert not isinstance(change, Posts)
        np.testing.assert_array_equal(change, expected)
        return
    assert isinstance(change, Posts)
    assert list(Model.of(change).items()) == list(Model.of(expected).items())
    assert set(change.labels.names) == set(expected.labels.names)
    assert change.vectors.shape == expected.vectors.shape
    for column in ("post_ids", "author_ids", "created_at_unix_ms", "vectors"):
        assert getattr(change, column).dtype == getattr(expected, column).dtype


def written_corpus(path: Path, count: int) -> tuple[Snapshot, Model]:
    """Write a corpus of posts 1, 2, ..., whose vectors are unit vectors of integers."""
    ids = np.arange(1, count + 1, dtype=np.uint64)
    vectors = np.eye(WIDTH, dtype=np.float32)[np.arange(count) % WIDTH]
    labels = [np.arange(n % 3, dtype=np.int32) for n in range(count)]
    posts = Posts(
        post_ids=ids,
        author_ids=ids + np.uint64(100),
        created_at_unix_ms=ids.astype(np.int64),
        labels=Labels(NAMES, np.arange(count, dtype=np.int32) % 3, np.concatenate(labels)),
        vectors=vectors,
    )
    with new_snapshot(path, source=path, embedding_size=WIDTH, tower_fingerprint=TOWER) as snapshot:
        snapshot.write(to_record_batch(posts))
    return open_snapshot(path), Model.of(posts)


def held(index: CorpusIndex) -> Model:
    """Return what an index holds on the devices, and check that the host holds the same."""

    def read(device: DeviceCorpus, columns: FilterColumns) -> tuple[npt.NDArray[Any], ...]:
        return (
            np.array(device.shards.vectors),
            np.asarray(device.shards.longest).repeat(index.layout.padded_rows),
            np.asarray(device.shards.ids).astype(np.uint64) @ HALVES,
            np.asarray(columns.times).astype(np.uint64) @ HALVES,
            _bits(columns.labels),
            _bits(device.live)[0],
        )

    vectors, longest, ids, times, labels, live = index.arrays.use(read)
    rows = np.flatnonzero(live).astype(np.int32)
    np.testing.assert_array_equal(index.find(ids[rows]), rows)
    assert (np.linalg.norm(vectors[rows], axis=1) <= longest[rows]).all()
    post_ids, created_at = index.post_ids[rows], index.created_at_unix_ms[rows]
    np.testing.assert_array_equal(post_ids, ids[rows])
    np.testing.assert_array_equal(created_at, times[rows])
    names = index.labels.names
    posts, codes = np.nonzero(labels[:, rows].T)
    counts = np.bincount(posts, minlength=len(rows)).astype(np.int32)
    on_devices = Labels(names, counts, codes.astype(np.int32))
    model = Model.of(
        Posts(
            post_ids=post_ids,
            author_ids=index.author_ids[rows],
            created_at_unix_ms=created_at,
            labels=on_devices,
            vectors=vectors[rows],
        )
    )
    assert len(model) == len(rows) == len(index)
    on_host = index.labels.at(rows)
    assert on_host.counts.tolist() == on_devices.counts.tolist()
    assert [on_host.names[index] for index in on_host.indices] == [names[code] for code in codes]
    return model


def _bits(words: jax.Array) -> npt.NDArray[np.uint8]:
    """Return the bits of [n, R/32] words: [n, R]."""
    return np.unpackbits(np.asarray(words).view(np.uint8), axis=-1, bitorder="little")
