"""`phoenix-server import-corpus`."""

from pathlib import Path
from typing import Annotated

from phoenix_server.build import import_npz
from phoenix_server.build.sample_check import sample_vectors
from phoenix_server.cli.bundles import open_verified
from phoenix_server.cli.console import report_progress, say
from phoenix_server.config import TRUSTED_KEY
from phoenix_server.corpus.disk.snapshot import open_snapshot


def import_corpus(
    npz: Path,
    /,
    *,
    bundle: Path,
    out: Path,
    trusted_key: Annotated[tuple[Path, ...], TRUSTED_KEY] = (),
    trust_pickle: bool = False,
    drop_duplicates: bool = False,
) -> None:
    """Write a corpus of published posts, with the vectors that come with them.

    Args:
        npz: An .npz in the published layout.
        bundle: Directory of the bundle.
        out: Directory of the corpus to write; must not exist.
        trusted_key: PEM file of an Ed25519 public key. The bundle must be signed by such a key;
            repeat the option for several. Default: it need not be signed.
        trust_pickle: Read pickled arrays, which runs code that is in the file.
        drop_duplicates: Of posts with the same id, keep the first.
    """
    opened = open_verified(bundle, trusted_key)
    with report_progress(out) as report:
        import_npz.import_corpus(
            npz,
            opened,
            out,
            trust_pickle=trust_pickle,
            drop_duplicates=drop_duplicates,
            report=report,
        )
    sample = sample_vectors(open_snapshot(out), opened)
    if sample.foreign:
        say(
            f"warning: {sample.foreign} of {sample.posts} sampled vectors are not what the "
            f"candidate tower of {bundle} gives (post {sample.worst_post_id}: cosine "
            f"{sample.worst_cosine:.2f}); was this corpus made with another checkpoint?",
            style="yellow",
        )
