"""`phoenix-server build-corpus`."""

from pathlib import Path
from typing import Annotated

from phoenix_server.build import build
from phoenix_server.build.build import BuildConfig
from phoenix_server.cli.bundles import open_verified
from phoenix_server.cli.console import report_progress
from phoenix_server.config import FLAT, TRUSTED_KEY


def build_corpus(
    parquet: tuple[str, ...],
    /,
    *,
    bundle: Path,
    out: Path,
    trusted_key: Annotated[tuple[Path, ...], TRUSTED_KEY] = (),
    config: Annotated[BuildConfig, FLAT] = BuildConfig(),  # noqa: B008 - frozen
) -> None:
    """Write a corpus of posts, encoded by the bundle's candidate tower.

    Args:
        parquet: Parquet files, or directories of them, as paths or URIs (s3://, gs://, hdfs://).
            Columns: post_id, author_id and, optionally, created_at and labels.
        bundle: Directory of the bundle.
        out: Directory of the corpus to write; must not exist.
        trusted_key: PEM file of an Ed25519 public key. The bundle must be signed by such a key;
            repeat the option for several. Default: it need not be signed.
        config: How to build it.
    """
    opened = open_verified(bundle, trusted_key)
    with report_progress(out) as report:
        build.build_corpus(parquet, opened, out, config, report=report)
