"""Encode the parts of a corpus with a bundle's candidate tower."""

# pyarrow creates the functions of `pc` at import, which type checkers cannot see.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import TypeVar

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from phoenix_server.build.dataset import Dataset
from phoenix_server.build.parts import Parts
from phoenix_server.build.reader import read_posts
from phoenix_server.bundle.bundle import Bundle
from phoenix_server.bundle.towers import Towers
from phoenix_server.corpus.disk.snapshot import with_vectors
from phoenix_server.corpus.disk.snapshot_writer import new_snapshot
from phoenix_server.runtime.devices import Device, all_devices
from phoenix_server.runtime.persistent_cache import compiled_path, forget_unsigned

_T = TypeVar("_T")


class PartEncoder:
    """Encodes parts on the first device."""

    def __init__(self, bundle: Bundle, dataset: Dataset, parts: Parts) -> None:
        """Load the towers.

        Raises:
            BundleError: The bundle cannot be used, or its towers fail the self-test here.
            CorpusError: Other parts were encoded by another kind of device or jaxlib.
        """
        forget_unsigned(bundle.trusted)
        device = all_devices()[0]
        self._bundle, self._dataset, self._parts = bundle, dataset, parts
        self._batch_rows = parts.work.batch_rows
        self._towers = Towers(bundle, device)
        self._towers.compile_candidates(self._batch_rows)
        self._towers.self_test()
        self._posts: Iterator[pa.RecordBatch] = iter(())
        self._next = -1  # the part with which `_posts` continues
        parts.claim(_describe(bundle, device))

    def encode(self, part: int, report: Callable[[int], None] = lambda posts: None) -> None:
        """Encode and write a part; it appears when it is complete.

        Args:
            part: The number of the part.
            report: Called with the number of posts in each batch that is written.

        Raises:
            CorpusError: A file is damaged, or writing fails.
        """
        with new_snapshot(
            self._parts.part_path(part),
            source=self._dataset.name,
            embedding_size=self._bundle.manifest.model.embedding_size,
            tower_fingerprint=self._parts.work.tower_fingerprint,
            durable=False,  # a part that a power failure damages is encoded again
        ) as writer:
            for posts, vectors in _one_ahead(self._encoded(part)):
                writer.write(with_vectors(posts, np.asarray(vectors)[: posts.num_rows]))
                report(posts.num_rows)
        self._next = part + 1

    def _encoded(self, part: int) -> Iterator[tuple[pa.RecordBatch, jax.Array]]:
        """Yield batches of a part with their vectors, which the device may still be computing."""
        rows = self._parts.rows(part)
        if part != self._next:  # else continue where the last part ended, without a seek
            left = range(rows.start, self._parts.work.rows)
            now_ms = self._parts.now_ms
            self._posts = read_posts(self._dataset, left, self._batch_rows, now_ms)
        self._next = -1
        for start in range(rows.start, rows.stop, self._batch_rows):
            keep = self._parts.kept(range(start, min(start + self._batch_rows, rows.stop)))
            posts = _without_hidden_times(next(self._posts).filter(pa.array(keep)))
            if posts.num_rows:
                post_ids, author_ids = (posts.column(i).to_numpy() for i in range(2))
                inputs = self._bundle.features.candidates(post_ids, author_ids, self._batch_rows)
                yield posts, self._towers.run_candidate_tower(inputs)


def _one_ahead(items: Iterator[_T]) -> Iterator[_T]:
    """Yield each item after the next one has been started."""
    started: list[_T] = []
    for item in items:
        yield from started
        started = [item]
    yield from started


def _without_hidden_times(posts: pa.RecordBatch) -> pa.RecordBatch:
    """Zero the values stored under nulls, so that equal times have equal bytes on disk."""
    times = posts.column("created_at")
    milliseconds = times.cast(pa.int64()).fill_null(0).to_numpy()
    mask = pc.is_null(times).to_numpy(zero_copy_only=False)
    plain = pa.array(milliseconds, mask=mask).cast(times.type)
    return posts.set_column(posts.schema.get_field_index("created_at"), "created_at", plain)


def _describe(bundle: Bundle, device: Device) -> str:
    """Return the jaxlib and the device, which affect the last bits of a vector."""
    kind = device.device_kind
    if device.platform == "cpu":  # XLA compiles for its instruction set
        kind = compiled_path(bundle.path, device).name
    return f"jaxlib {version('jaxlib')} on {kind}"
