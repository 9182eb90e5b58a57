"""Build a checkpoint, bundle and corpora of published size, and keep them for the next run."""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phoenix_bench.suites import Options

# Inputs of the files below. If they change, the kept files are built again.
_MAKERS = (
    *("phoenix_model", "phoenix_export"),
    *("phoenix_server.build.import_npz", "phoenix_server.corpus.disk.snapshot_writer"),
)
_KEY = "made-by"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Size of a checkpoint.

    Attributes:
        posts: Number of posts in its corpus.
        vocab: Number of rows of each embedding table.
        layers: Number of transformer layers.
        seed: Random seed; another seed gives other weights and posts.
    """

    posts: int
    vocab: int
    layers: int
    seed: int = 0

    def __str__(self) -> str:
        seed = f"-seed{self.seed}" if self.seed else ""
        return f"{self.posts}x{self.vocab}x{self.layers}{seed}"


PUBLISHED = Sizes(posts=500_000, vocab=1_000_000, layers=4)
LARGE = Sizes(posts=1_000_000, vocab=1_000_000, layers=4)
QUICK = Sizes(posts=2_000, vocab=10_000, layers=2)


@dataclass(frozen=True, kw_only=True)
class Artifacts:
    """Files that a server and the suites need.

    Attributes:
        sizes: Size of the checkpoint.
        checkpoint: A directory in the published layout.
        bundle: The checkpoint exported in bfloat16, without a SavedModel.
        corpus: The checkpoint's posts, imported with their vectors.
        posts: The same posts as Parquet without vectors, the input of `build-corpus`.
    """

    sizes: Sizes
    checkpoint: Path
    bundle: Path
    corpus: Path
    posts: Path

    @property
    def table_bytes(self) -> int:
        """Return the size of the three embedding tables in the server, in bytes."""
        return sum(path.stat().st_size for path in (self.bundle / "tables").iterdir())

    @property
    def corpus_bytes(self) -> int:
        """Return the size of the corpus on disk, in bytes."""
        return (self.corpus / "posts.arrow").stat().st_size


def prepare(options: Options, sizes: Sizes = PUBLISHED) -> Artifacts:
    """Return the artifacts of a run; build missing ones, which takes a minute or two.

    Args:
        options: Options of the run; with `quick`, the artifacts are small and `sizes` is ignored.
        sizes: Size of the checkpoint.

    Raises:
        subprocess.CalledProcessError: A step failed; it has said why on the terminal.
    """
    sizes = replace(QUICK, seed=sizes.seed) if options.quick else sizes
    root = options.build / str(sizes)
    key, kept = _makers_digest(), root / _KEY
    made = Artifacts(
        sizes=sizes,
        checkpoint=root / "checkpoint",
        bundle=root / "bundle" / "1",
        corpus=root / "corpus",
        posts=root / "posts.parquet",
    )
    if kept.exists() and kept.read_text(encoding="utf-8") == key:
        return made
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    _make(made)
    kept.write_text(key, encoding="utf-8")
    return made


def _make(made: Artifacts) -> None:
    sizes = made.sizes
    demo = ("--posts", sizes.posts, "--vocab", sizes.vocab, "--layers", sizes.layers)
    run_module("phoenix_export", "demo", made.checkpoint, *demo, "--seed", sizes.seed)
    run_module(
        "phoenix_export", "bundle", made.checkpoint, "--out", made.bundle, "--no-saved-model"
    )
    posts = made.checkpoint / "sports_corpus.npz"
    run_module(
        *("phoenix_server", "import-corpus", posts, "--bundle", made.bundle),
        *("--out", made.corpus),
    )
    with np.load(posts, allow_pickle=False) as columns:
        table = pa.table({
            "post_id": columns["post_ids"].astype(np.uint64),
            "author_id": columns["author_ids"].astype(np.uint64),
        })  # fmt: skip
    pq.write_table(table, made.posts)


def copy_corpus(made: Artifacts, to: Path) -> Path:
    """Copy a corpus as it was built, without its journal and snapshots, to be changed."""
    to.mkdir(parents=True)
    for name in ("manifest.json", "posts.arrow"):
        shutil.copy(made.corpus / name, to)
    return to


def forget_compiled(made: Artifacts) -> None:
    """Remove programs compiled ahead; the other suites expect a bundle as it was exported."""
    shutil.rmtree(made.bundle / "compiled", ignore_errors=True)


def run_module(module: str, *arguments: object) -> None:
    """Run a command line of this stack.

    Raises:
        subprocess.CalledProcessError: It failed; it has said why on the terminal.
    """
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True)


def _makers_digest() -> str:
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources() -> Iterator[Path]:
    for name in _MAKERS:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{name} is not installed")
        origin = Path(spec.origin)
        package = origin.name == "__init__.py"
        yield from sorted(origin.parent.rglob("*.py")) if package else (origin,)
