"""Make a corpus of posts: the exported candidate tower encodes them, part by part."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import pyarrow.fs as pafs

from phoenix_server.build.dataset import Dataset, Place, open_dataset
from phoenix_server.build.parts import Parts, describe_work, find_work, keep_work
from phoenix_server.build.reader import check_posts
from phoenix_server.build.workdir import clear_joined, count_parts, publish, workplace
from phoenix_server.bundle.bundle import Bundle
from phoenix_server.corpus.disk.snapshot_writer import new_snapshot

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How a corpus is built.

    Attributes:
        drop_duplicates: Keep the first of posts that come more than once.
        restart: Throw away what an interrupted build left, and start over.
        engine: What encodes: this process, or workers of Ray.
        workers: How many of Ray's. Default: one a GPU of the cluster, or one a CPU.
        ray_address: The cluster. Default: one is started on this machine, and stopped again.
        part_rows: How many posts make a part, which is what an interruption costs at most.
        batch_rows: How many are encoded at once.
    """

    drop_duplicates: bool = False
    restart: bool = False
    engine: Literal["local", "ray"] = "local"
    workers: int | None = None
    ray_address: str | None = None
    part_rows: int = 1 << 18
    batch_rows: int = 1 << 13

    def __post_init__(self) -> None:
        if self.batch_rows < 1 or self.part_rows < 1 or self.part_rows % self.batch_rows:
            raise ValueError("part_rows: must be a multiple of batch_rows, both positive")
        for name in ("workers", "ray_address"):
            if self.engine == "local" and getattr(self, name) is not None:
                raise ValueError(f"{name}: only for the engine ray")
        if self.workers is not None and self.workers < 1:
            raise ValueError("workers: must be positive")


class Report(Protocol):
    """Is told how far a build has come."""

    def __call__(self, done: int, total: int, /, stage: str = "encoded", found: int = 0) -> None:
        """Take the state.

        Args:
            done: Posts checked, encoded or written, as `stage` says.
            total: How many there are.
            stage: "checked", then "encoded", then "written".
            found: How many were encoded already when this build began.
        """
        ...


def _silent(done: int, total: int, /, stage: str = "encoded", found: int = 0) -> None: ...


def build_corpus(
    places: Sequence[Place],
    bundle: Bundle,
    out: Path,
    config: BuildConfig = BuildConfig(),
    *,
    filesystem: pafs.FileSystem | None = None,
    report: Report = _silent,
) -> int:
    """Encode posts and write them as a corpus.

    What is done is kept beside `out` until all is; the same call goes on from there when it was
    interrupted. The corpus is the same, byte for byte, whatever the engine, the number of
    interruptions and the way in which the posts are cut into files.

    Args:
        places: Parquet files and directories of such, on this machine or as URIs; see
            `open_dataset`. Columns: post_id and author_id, integers; if they like created_at, a
            timestamp since 1970, in UTC unless it names a zone (default: the time that a post id
            carries), and labels, a list of strings or a string.
        bundle: The bundle whose candidate tower encodes; its files have been verified.
        out: The directory to write; must not exist.
        config: How.
        filesystem: What the files are on. Default: this machine, or what a URI says.
        report: Called as the build goes on.

    Returns:
        How many posts were written.

    Raises:
        CorpusError: A file is damaged, incomplete or odd, `out` cannot be written, or is being
            built by another, or was begun to be built of something else.
        BundleError: The bundle cannot be used, or its towers fail the self-test on this device.
        StartupError: Ray is missing, does not start, or loses a worker.
    """
    with workplace(out, restart=config.restart) as path:
        dataset = open_dataset(places, filesystem)
        parts = _parts(path, dataset, bundle, config, report)
        try:
            _encode(bundle, dataset, parts, config, report)
            publish(_join(bundle, dataset, parts, report), out)
        except BaseException:
            if count := count_parts(path):
                _log.warning("%s keeps %d parts: the same command goes on from there", path, count)
            raise
    return parts.posts


def _parts(
    path: Path, dataset: Dataset, bundle: Bundle, config: BuildConfig, report: Report
) -> Parts:
    """Return the parts to be made: as they were begun, or anew when all posts were checked."""
    work = describe_work(
        dataset,
        bundle.manifest.tower_fingerprint,
        drop_duplicates=config.drop_duplicates,
        part_rows=config.part_rows,
        batch_rows=config.batch_rows,
    )
    if found := find_work(path, work):
        return found
    dropped = check_posts(
        dataset,
        drop_duplicates=config.drop_duplicates,
        report=lambda done: report(done, dataset.rows, stage="checked"),
    )
    return keep_work(path, work, dropped)


def _encode(
    bundle: Bundle, dataset: Dataset, parts: Parts, config: BuildConfig, report: Report
) -> None:
    """Encode the parts that are missing."""
    there = set(parts.find())
    missing = [n for n in range(parts.count) if n not in there and parts.part_posts(n)]
    found = done = sum(map(parts.part_posts, there))

    def advance(posts: int) -> None:
        nonlocal done
        done += posts
        report(done, parts.posts, stage="encoded", found=found)

    advance(0)
    if not missing:
        return
    if config.engine == "ray":
        from phoenix_server.build.ray import encode_parts

        encode_parts(
            bundle,
            dataset,
            parts,
            missing,
            workers=config.workers,
            address=config.ray_address,
            report=advance,
        )
        return
    from phoenix_server.build.encoder import PartEncoder

    encoder = PartEncoder(bundle, dataset, parts)
    for part in missing:
        encoder.encode(part, advance)


def _join(bundle: Bundle, dataset: Dataset, parts: Parts, report: Report) -> Path:
    """Write all parts as one corpus beside them, and return where."""
    joined = clear_joined(parts.path)
    with new_snapshot(
        joined,
        source=dataset.name,
        embedding_size=bundle.manifest.model.embedding_size,
        tower_fingerprint=parts.work.tower_fingerprint,
    ) as writer:
        for part in filter(parts.part_posts, range(parts.count)):
            for posts in parts.open_part(part).batches():
                writer.write(posts)
                report(writer.rows, parts.posts, stage="written")
    return joined
