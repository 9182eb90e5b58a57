"""Build a corpus: encode posts with the exported candidate tower, part by part."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import pyarrow.fs as pafs

from phoenix_server.build.dataset import Dataset, Place, open_dataset
from phoenix_server.build.parts import Parts, Work, load_work, save_work
from phoenix_server.build.reader import check_posts
from phoenix_server.build.workdir import clear_joined, count_parts, publish, work_directory
from phoenix_server.bundle.bundle import Bundle
from phoenix_server.corpus.disk.snapshot_writer import new_snapshot
from phoenix_server.corpus.post_rules import clock_ms

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Options of a build.

    Attributes:
        drop_duplicates: Keep the first of posts that occur more than once.
        restart: Discard an interrupted build and start over.
        engine: Encode in this process or in Ray workers.
        workers: The number of Ray workers. Default: one per GPU of the cluster, else one per CPU.
        ray_address: The Ray cluster. Default: start one on this machine for the build.
        part_rows: The number of posts per part; an interruption loses at most one part per worker.
        batch_rows: The number of posts that are encoded at once.
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
        if self.part_rows >= 1 << 31:  # so batch_rows, too
            raise ValueError("part_rows: must be below 2**31")
        for name in ("workers", "ray_address"):
            if self.engine == "local" and getattr(self, name) is not None:
                raise ValueError(f"{name}: only for the engine ray")
        if self.workers is not None and self.workers < 1:
            raise ValueError("workers: must be positive")


class ProgressReport(Protocol):
    """A callback that receives the progress of a build."""

    def __call__(self, done: int, total: int, /, stage: str = "encoded", found: int = 0) -> None:
        """Receive the progress.

        Args:
            done: The number of posts that have passed `stage`.
            total: The number of posts in total.
            stage: "checked", then "encoded", then "written".
            found: The number of posts that were already encoded when this build started.
        """
        ...


def _ignore(done: int, total: int, /, stage: str = "encoded", found: int = 0) -> None: ...


def build_corpus(
    places: Sequence[Place],
    bundle: Bundle,
    out: Path,
    config: BuildConfig = BuildConfig(),
    *,
    filesystem: pafs.FileSystem | None = None,
    report: ProgressReport = _ignore,
) -> int:
    """Encode posts and write them as a corpus.

    Finished parts are kept beside `out` until the corpus is complete; after an interruption the
    same call continues from them. The bytes of the corpus do not depend on the engine, on
    interruptions, or on how the posts are divided into files.

    Args:
        places: Parquet files and directories of Parquet files, as local paths or URIs; see
            `open_dataset`. Columns: post_id and author_id, integers; optionally created_at, a
            timestamp since 1970, in UTC unless it has a time zone (default: the time encoded in
            the post id), and labels, a list of strings or a string.
        bundle: The bundle whose candidate tower encodes; its files have been verified.
        out: The directory to write; must not exist.
        config: The options.
        filesystem: The filesystem of the files. Default: local, or that of the URI.
        report: Called with the progress.

    Returns:
        The number of posts written.

    Raises:
        CorpusError: A file is damaged, incomplete or invalid; `out` cannot be written, is being
            built by another process, or an interrupted build of it had other inputs.
        BundleError: The bundle cannot be used, or its towers fail the self-test on this device.
        StartupError: Ray is missing, does not start, or loses a worker.
    """
    with work_directory(out, restart=config.restart) as path:
        dataset = open_dataset(places, filesystem)
        parts = _parts(path, dataset, bundle, config, report)
        try:
            _encode(bundle, dataset, parts, config, report)
            publish(_join(bundle, dataset, parts, report), out)
        except BaseException:
            if count := count_parts(path):
                _log.warning("%s keeps %d parts; the same command continues from them", path, count)
            raise
    return parts.posts


def _parts(
    path: Path, dataset: Dataset, bundle: Bundle, config: BuildConfig, report: ProgressReport
) -> Parts:
    """Return the parts of an interrupted build, or of a new one after all posts are checked."""
    work = Work(
        tower_fingerprint=bundle.manifest.tower_fingerprint,
        files=dataset.identity,
        rows=dataset.rows,
        drop_duplicates=config.drop_duplicates,
        part_rows=config.part_rows,
        batch_rows=config.batch_rows,
    )
    if found := load_work(path, work):
        return found
    now_ms = clock_ms()
    dropped = check_posts(
        dataset,
        drop_duplicates=config.drop_duplicates,
        now_ms=now_ms,
        report=lambda done: report(done, dataset.rows, stage="checked"),
    )
    return save_work(path, work, dropped, now_ms)


def _encode(
    bundle: Bundle, dataset: Dataset, parts: Parts, config: BuildConfig, report: ProgressReport
) -> None:
    """Encode the missing parts."""
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

        where = config.workers, config.ray_address
        encode_parts(bundle, dataset, parts, missing, *where, report=advance)
        return
    from phoenix_server.build.encoder import PartEncoder

    encoder = PartEncoder(bundle, dataset, parts)
    for part in missing:
        encoder.encode(part, advance)


def _join(bundle: Bundle, dataset: Dataset, parts: Parts, report: ProgressReport) -> Path:
    """Join all parts to one corpus beside them, and return its directory."""
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
