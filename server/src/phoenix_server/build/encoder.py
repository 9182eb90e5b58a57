"""Encode one part of a corpus after the other with a bundle's candidate tower."""

# pyarrow makes the functions of `pc` when it is imported, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import TypeVar

import jax
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from phoenix_server.build.dataset import Dataset
from phoenix_server.build.parts import Parts
from phoenix_server.build.reader import read_posts
from phoenix_server.bundle.bundle import Bundle
from phoenix_server.bundle.towers import Towers
from phoenix_server.corpus.disk.snapshot import ArrowPosts
from phoenix_server.corpus.disk.snapshot_writer import new_snapshot
from phoenix_server.runtime.devices import Device
from phoenix_server.runtime.persistent_cache import compiled_path

_T = TypeVar("_T")


class PartEncoder:
    """Encodes parts on the first device."""

    def __init__(self, bundle: Bundle, dataset: Dataset, parts: Parts) -> None:
        """Load the towers.

        Raises:
            BundleError: The bundle cannot be used, or its towers fail the self-test here.
            CorpusError: Other parts were encoded by something else.
        """
        device = jax.devices()[0]
        self._bundle, self._dataset, self._parts = bundle, dataset, parts
        self._batch_rows = parts.work.batch_rows
        self._towers = Towers(bundle, device)
        self._towers.compile_candidates(self._batch_rows)
        self._towers.self_test()
        self._posts: Iterator[pa.RecordBatch] = iter(())
        self._next = -1  # the part that `_posts` goes on with
        parts.claim(_describe(bundle, device))

    def encode(self, part: int, report: Callable[[int], None] = lambda posts: None) -> None:
        """Encode a part and write it, as one step.

        Args:
            part: Which.
            report: Called with the number of posts each time that some are written.

        Raises:
            CorpusError: A file is damaged, or the disk refuses.
        """
        with new_snapshot(
            self._parts.part_path(part),
            source=self._dataset.name,
            embedding_size=self._bundle.manifest.model.embedding_size,
            tower_fingerprint=self._parts.work.tower_fingerprint,
            durable=False,  # a part that a power failure spoils is encoded again
        ) as writer:
            for posts, vectors in _one_ahead(self._encoded(part)):
                writer.write(_with_vectors(posts, np.asarray(vectors)))
                report(posts.num_rows)
        self._next = part + 1

    def _encoded(self, part: int) -> Iterator[tuple[pa.RecordBatch, jax.Array]]:
        """Yield the posts of a part, and their vectors as soon as the device works on them."""
        rows = self._parts.rows(part)
        if part != self._next:  # or go on where the last part ended, without finding the place
            self._posts = read_posts(
                self._dataset, range(rows.start, self._parts.work.rows), self._batch_rows
            )
        self._next = -1
        for start in range(rows.start, rows.stop, self._batch_rows):
            keep = self._parts.kept(range(start, min(start + self._batch_rows, rows.stop)))
            posts = next(self._posts).filter(pa.array(keep))
            if posts.num_rows:
                post_ids, author_ids = (posts.column(i).to_numpy() for i in range(2))
                inputs = self._bundle.features.candidates(post_ids, author_ids, self._batch_rows)
                yield posts, self._towers.run_candidate_tower(inputs)


def _one_ahead(items: Iterator[_T]) -> Iterator[_T]:
    """Yield items, each when the next has been begun."""
    waiting: list[_T] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting


def _with_vectors(posts: pa.RecordBatch, vectors: npt.NDArray[np.float32]) -> ArrowPosts:
    """Return posts as they are written, with the first of the vectors."""
    return ArrowPosts(
        post_ids=posts.column("post_id").to_numpy(),
        author_ids=posts.column("author_id").to_numpy(),
        created_at=_plain(posts.column("created_at")),
        labels=posts.column("labels"),
        vectors=vectors[: posts.num_rows],
    )


def _plain(times: pa.Array) -> pa.Array:
    """Return the same times, with nothing behind a null: equal times are equal bytes."""
    milliseconds = times.cast(pa.int64()).fill_null(0).to_numpy()
    mask = pc.is_null(times).to_numpy(zero_copy_only=False)
    return pa.array(milliseconds, mask=mask).cast(times.type)


def _describe(bundle: Bundle, device: Device) -> str:
    """Return what decides the last bits of a vector, besides the bundle."""
    kind = device.device_kind
    if device.platform == "cpu":  # XLA compiles for the instructions that it has
        kind = compiled_path(bundle.path, device).name
    return f"jaxlib {version('jaxlib')} on {kind}"
