"""Describe bundles and corpora for people: the command `inspect`."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from phoenix_server.artifacts import MANIFEST, verify_files
from phoenix_server.bundle.bundle import SIGNATURE, Bundle, open_bundle
from phoenix_server.cli.console import write_line
from phoenix_server.config import TRUSTED_KEY
from phoenix_server.corpus.disk import snapshot as snapshots
from phoenix_server.corpus.disk.snapshot import Snapshot, open_snapshot
from phoenix_server.corpus.disk.store import Store, read_with_retries
from phoenix_server.engine.pairing import check_pair, generation_name
from phoenix_server.errors import ArtifactError, BundleError
from phoenix_server.signatures import NO_KEYS, TrustedKeys, read_trusted_keys


def explain(paths: Sequence[Path], now: datetime, trusted: TrustedKeys = NO_KEYS) -> Iterator[str]:
    """Yield a description of bundles and corpora, line by line.

    Args:
        paths: Directories of bundles and corpora.
        now: The time at which programs may have expired.
        trusted: Keys of which one must have signed each bundle. Default: they need not be signed.

    Raises:
        ArtifactError: One of them is invalid; the lines before describe what is valid.
    """
    opened = [_open(path, trusted) for path in paths]
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


def _open(path: Path, trusted: TrustedKeys) -> Bundle | Snapshot:
    """Open a bundle or a corpus; its manifest tells which it is."""
    try:
        keys: object = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        keys = None
    if isinstance(keys, dict) and "user_tower" not in keys and "rows" in keys:
        return open_snapshot(path)
    if keys is None and path.is_dir() and not (path / MANIFEST).exists():
        raise ArtifactError(path, f"holds no {MANIFEST}: neither a bundle nor a corpus")
    return open_bundle(path, trusted)


def _bundle(bundle: Bundle, now: datetime) -> Iterator[str]:
    manifest, model = bundle.manifest, bundle.manifest.model
    yield f"{bundle.path} is a bundle: the towers of one checkpoint"
    yield (
        f"  model         {model.num_layers} layers, {model.embedding_size} wide, histories of up "
        f"to {model.history_length}, {model.num_actions} actions, in {manifest.compute_dtype}"
    )
    hashes = manifest.user_hash, manifest.item_hash, manifest.author_hash
    sizes = zip((each.vocab_size for each in hashes), ("users", "posts", "authors"), strict=True)
    yield "  tables        " + ", ".join(f"{size:,} {entities}" for size, entities in sizes)
    yield (
        f"  programs      for {', '.join(manifest.platforms)}, by JAX {manifest.jax_version}, "
        f"StableHLO {manifest.stablehlo_version}"
    )
    yield f"  towers        {manifest.tower_fingerprint}"
    if bundle.trusted:
        yield "  signature     by a trusted key"
    elif (bundle.path / SIGNATURE).exists():
        yield "  signature     not checked; --trusted-key checks it"
    yield from _files(len(manifest.files), sum(file.size_bytes for file in manifest.files))
    list(bundle.serving_files())  # raises an error if one of them is not listed
    verify_files(bundle.path, manifest.files, BundleError)
    bundle.check_manifest()
    yield "  checksums     all match"
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
    yield "  checksums     all match"
    if snapshot.manifest.sequence == 0:
        yield from read_with_retries(snapshot.path, _describe_changes)


def _describe_changes(store: Store) -> list[str]:
    """Describe the snapshots and changes of a corpus since it was built, if any."""
    lines: list[str] = []
    for snapshot in store.list_snapshots()[1:]:
        manifest = snapshot.manifest
        inside = snapshot.path.relative_to(store.path).as_posix()
        line = f"through change {manifest.sequence:,}: {manifest.rows:,} posts, in {inside}"
        if manifest.tower_fingerprint != store.built.manifest.tower_fingerprint:
            line += f", built with towers {manifest.tower_fingerprint[:12]}"
        lines.append(f"  snapshot      {line}")
    if store.snapshot is not store.built:
        snapshots.verify(store.snapshot)
        lines.append(f"  checksums     of {store.snapshot.path.name} match")
    last = store.snapshot.manifest.sequence
    history = store.read_history(last)
    if history.changes:
        posts, changes = len(history.post_ids), history.changes
        lines.append(
            f"  journal       {_count(posts, 'post')} in {_count(changes, 'change')} since, "
            f"through change {last + changes:,}; checksums match"
        )
    return lines


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _files(count: int, size_bytes: int) -> Iterator[str]:
    yield f"  files         {count}, {size_bytes / 1e6:,.1f} MB"


def inspect(
    paths: tuple[Path, ...],
    /,
    *,
    trusted_key: Annotated[tuple[Path, ...], TRUSTED_KEY] = (),
) -> None:
    """Describe bundles and corpora, verify them, and check whether they fit together.

    Args:
        paths: Directories of bundles and corpora.
        trusted_key: PEM file of an Ed25519 public key. Bundles must be signed by such a key; repeat
            the option for several. Default: they need not be signed.
    """
    for line in explain(paths, datetime.now(UTC), read_trusted_keys(trusted_key)):
        write_line(line)
