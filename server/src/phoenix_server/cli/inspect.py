"""Explain a bundle or a corpus in words."""

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from phoenix_server.artifacts import MANIFEST, verify_files
from phoenix_server.bundle.bundle import Bundle, open_bundle
from phoenix_server.corpus.disk import snapshot as snapshots
from phoenix_server.corpus.disk.compaction import list_snapshots
from phoenix_server.corpus.disk.snapshot import Snapshot, open_snapshot
from phoenix_server.corpus.disk.store import Store, read_steadily
from phoenix_server.engine.pairing import check_pair, generation_name
from phoenix_server.errors import ArtifactError, BundleError


def explain(paths: Sequence[Path], now: datetime) -> Iterator[str]:
    """Yield what is to be said of bundles and corpora, a line at a time.

    Args:
        paths: Directories of bundles and corpora.
        now: To tell whether programs have expired.

    Raises:
        ArtifactError: Something is wrong with one of them; the lines before say what is right.
    """
    opened = [_open(path) for path in paths]
    for artifact in opened:
        yield from _bundle(artifact, now) if isinstance(artifact, Bundle) else _corpus(artifact)
    found = [artifact for artifact in opened if isinstance(artifact, Bundle)]
    for bundle in found:
        for snapshot in (artifact for artifact in opened if isinstance(artifact, Snapshot)):
            check_pair(bundle, snapshot)
            yield (
                f"{snapshot.path} was built with the towers of {bundle.path}: they fit together, "
                f"as generation {generation_name(bundle, snapshot)}"
            )


def _open(path: Path) -> Bundle | Snapshot:
    """Open what lies at a path; its manifest tells which kind it is."""
    try:
        keys: object = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        keys = None
    if isinstance(keys, dict) and "user_tower" not in keys and "rows" in keys:
        return open_snapshot(path)
    if keys is None and path.is_dir() and not (path / MANIFEST).exists():
        raise ArtifactError(path, f"holds no {MANIFEST}: neither a bundle nor a corpus")
    return open_bundle(path)


def _bundle(bundle: Bundle, now: datetime) -> Iterator[str]:
    manifest, model = bundle.manifest, bundle.manifest.model
    yield f"{bundle.path} is a bundle: the towers of one checkpoint"
    yield (
        f"  model         {model.num_layers} layers, {model.embedding_size} wide, histories of up "
        f"to {model.history_length}, {model.num_actions} actions, in {manifest.compute_dtype}"
    )
    yield "  tables        " + ", ".join(
        f"{functions.vocab_size:,} {entity}s"
        for entity, functions in (
            ("user", manifest.user_hash),
            ("post", manifest.item_hash),
            ("author", manifest.author_hash),
        )
    )
    yield (
        f"  programs      for {', '.join(manifest.platforms)}, by JAX {manifest.jax_version}, "
        f"StableHLO {manifest.stablehlo_version}"
    )
    yield f"  towers        {manifest.tower_fingerprint}"
    yield from _files(len(manifest.files), sum(file.size_bytes for file in manifest.files))
    verify_files(bundle.path, [*bundle.serving_files(), *manifest.files], BundleError)
    bundle.check_fingerprint()
    yield "  sums          all hold"
    for program in (manifest.user_tower, manifest.candidate_tower):
        bundle.load_program(program)
    left = (bundle.expires_at - now).days
    yield f"  expires       on {bundle.expires_at:%Y-%m-%d}, " + (
        f"in {left} days" if left >= 0 else f"{-left} days ago"
    )
    bundle.check_current(now)


def _corpus(snapshot: Snapshot) -> Iterator[str]:
    manifest = snapshot.manifest
    yield f"{snapshot.path} is a corpus: posts and their vectors"
    yield f"  posts         {manifest.rows:,}, vectors {manifest.embedding_size} wide, float32"
    names = manifest.label_names
    listed = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    yield f"  labels        {listed or 'none'}"
    yield f"  written       {manifest.created_at.ToDatetime(UTC):%Y-%m-%d %H:%M} UTC"
    yield f"  built with    towers {manifest.tower_fingerprint}"
    yield from _files(len(manifest.files), sum(file.size_bytes for file in manifest.files))
    snapshots.verify(snapshot)
    yield "  sums          all hold"
    if snapshot.manifest.sequence == 0:
        yield from read_steadily(snapshot.path, _later)


def _later(store: Store) -> list[str]:
    """Say what became of a corpus since it was built, if anything did."""
    lines: list[str] = []
    for snapshot in list_snapshots(store)[1:]:
        manifest = snapshot.manifest
        inside = snapshot.path.relative_to(store.path).as_posix()
        line = f"through change {manifest.sequence:,}: {manifest.rows:,} posts, in {inside}"
        if manifest.tower_fingerprint != store.built.manifest.tower_fingerprint:
            line += f", built with towers {manifest.tower_fingerprint[:12]}"
        lines.append(f"  snapshot      {line}")
    if store.snapshot is not store.built:
        snapshots.verify(store.snapshot)
        lines.append(f"  sums          of {store.snapshot.path.name} hold")
    posts = changes = 0
    last = store.snapshot.manifest.sequence
    for number, change in store.changes():
        changes, posts, last = changes + 1, posts + len(change), number
    if changes:
        lines.append(
            f"  journal       {_counted(posts, 'post')} in {_counted(changes, 'change')} since, "
            f"through change {last:,}; the sums hold"
        )
    return lines


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _files(count: int, size_bytes: int) -> Iterator[str]:
    yield f"  files         {count}, {size_bytes / 1e6:,.1f} MB"


def inspect(paths: tuple[Path, ...], /) -> None:
    """Describe bundles and corpora, verify them, and check whether they fit together.

    Args:
        paths: Directories of bundles and corpora.
    """
    for line in explain(paths, datetime.now(UTC)):
        sys.stdout.write(f"{line}\n")
