"""A checkpoint, bundle and corpora of published size, made once and kept for the next run."""

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

# What decides the files below: once it has changed, the kept ones are made again.
_MAKERS = (
    *("phoenix_model", "phoenix_export"),
    *("phoenix_server.build.import_npz", "phoenix_server.corpus.disk.snapshot_writer"),
)
_KEY = "made-by"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large a checkpoint is.

    Attributes:
        posts: Rows of its corpus.
        vocab: Rows of each embedding table.
        layers: Of the transformer.
        seed: Of all that is drawn: other weights and posts.
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
    """What a server and the suites need; all of it is on disk.

    Attributes:
        sizes: How large it is.
        checkpoint: A directory in the published layout.
        bundle: The checkpoint exported, in bfloat16, without a SavedModel.
        corpus: The checkpoint's posts, imported with their vectors.
        posts: The same posts as Parquet without vectors, as `build-corpus` takes them.
    """

    sizes: Sizes
    checkpoint: Path
    bundle: Path
    corpus: Path
    posts: Path

    @property
    def table_bytes(self) -> int:
        """Bytes of the three embedding tables, as the server holds them."""
        return sum(path.stat().st_size for path in (self.bundle / "tables").iterdir())

    @property
    def corpus_bytes(self) -> int:
        """Bytes of the corpus on disk."""
        return (self.corpus / "posts.arrow").stat().st_size


def prepare(options: Options, sizes: Sizes = PUBLISHED) -> Artifacts:
    """Return the artefacts of a run, making what is missing; that takes a minute or two.

    Args:
        options: Of the run; with `quick`, they are small whatever `sizes` says.
        sizes: How large they are.

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
    """Copy a corpus as it was built, to be changed: without what other servers did to it."""
    to.mkdir(parents=True)
    for name in ("manifest.json", "posts.arrow"):
        shutil.copy(made.corpus / name, to)
    return to


def forget_compiled(made: Artifacts) -> None:
    """Remove what was compiled ahead: the other suites expect a bundle as it was exported."""
    shutil.rmtree(made.bundle / "compiled", ignore_errors=True)


def run_module(module: str, *arguments: object) -> None:
    """Run a command line of ours.

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
