"""Cases for tests of a corpus that changes: posts, what is known of them, and small corpora."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.changes import Change, Labels, Posts
from phoenix_server.corpus.disk.snapshot import Snapshot, open_snapshot, to_record_batch
from phoenix_server.corpus.disk.snapshot_writer import new_snapshot
from phoenix_server.corpus.memory.index import CorpusIndex
from phoenix_server.search.eligibility import FilterColumns
from phoenix_server.search.sharded import DeviceCorpus

Ids = npt.NDArray[np.uint64]

WIDTH = 8
TOWER = "f"
NAMES = ("red", "green", "", 'a "b"\n', "\N{SNOWMAN}")
HALVES = np.array([2**32, 1], np.uint64)


class Post(NamedTuple):
    """All that is known of a post.

    Attributes:
        author_id: Its author.
        created_at_unix_ms: When it was created.
        labels: In order.
        vector: Its bytes.
    """

    author_id: int
    created_at_unix_ms: int
    labels: tuple[str, ...]
    vector: bytes


Model = dict[int, Post]
"""A corpus, by ids."""


class OwnTowers:
    """The towers that all vectors are of."""

    tower = TOWER

    def encode_posts(self, post_ids: Ids, author_ids: Ids) -> npt.NDArray[np.float32]:
        raise AssertionError("all vectors are of these towers")


def id_array(*ids: int) -> Ids:
    """Return ids as an array."""
    return np.array(ids, np.uint64)


def posts_of(ids: Sequence[int], seed: int = 0, names: Sequence[str] = NAMES) -> Posts:
    """Draw posts of some ids: vectors of whole numbers, and labels, of which some are unused."""
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
    """Draw posts of some ids, as a server takes them: with unit vectors."""
    posts = posts_of(ids, seed)
    vectors = posts.vectors + np.float32(0.5)  # none is zero throughout
    return replace(posts, vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def described(posts: Posts) -> Model:
    """Return posts by their ids."""
    labels = iter(posts.labels.indices.tolist())
    return {
        post_id: Post(
            author_id,
            created_at,
            tuple(posts.labels.names[next(labels)] for _ in range(count)),
            vector.tobytes(),
        )
        for post_id, author_id, created_at, count, vector in zip(
            posts.post_ids.tolist(),
            posts.author_ids.tolist(),
            posts.created_at_unix_ms.tolist(),
            posts.labels.counts.tolist(),
            posts.vectors,
            strict=True,
        )
    }


def change_model(model: Model, change: Change) -> None:
    """Make a change of a model."""
    if isinstance(change, Posts):
        model.update(described(change))
    else:
        for post_id in change.tolist():
            model.pop(post_id, None)


def assert_same_change(change: Change, expected: Change) -> None:
    """Check that two changes are equal, bit for bit and in order."""
    if not isinstance(expected, Posts):
        assert not isinstance(change, Posts)
        np.testing.assert_array_equal(change, expected)
        return
    assert isinstance(change, Posts)
    assert list(described(change).items()) == list(described(expected).items())
    assert set(change.labels.names) == set(expected.labels.names)
    assert change.vectors.shape == expected.vectors.shape
    for column in ("post_ids", "author_ids", "created_at_unix_ms", "vectors"):
        assert getattr(change, column).dtype == getattr(expected, column).dtype


def written_corpus(path: Path, count: int) -> tuple[Snapshot, Model]:
    """Write a corpus of posts 1, 2, ..., whose vectors are unit vectors of whole numbers."""
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
    return open_snapshot(path), described(posts)


def held(index: CorpusIndex) -> Model:
    """Return all that an index holds on the devices but for authors; the host has the same."""

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
    model = described(
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


def unordered(model: Model) -> dict[int, tuple[int, int, frozenset[str], bytes]]:
    """Return a model whose posts' labels have no order: an index has none."""
    return {
        post_id: (post.author_id, post.created_at_unix_ms, frozenset(post.labels), post.vector)
        for post_id, post in model.items()
    }
