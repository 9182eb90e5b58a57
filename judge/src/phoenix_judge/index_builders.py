"""Build approximate indexes of other libraries over the vectors of a corpus.

Row i of an index is row i of the vectors. The libraries are optional, and imported when used.

Shapes:
    N  posts        D  width of a vector
"""

import importlib
import importlib.metadata
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from phoenix_judge.errors import IndexOptionError, name_extra
from phoenix_server.errors import CorpusError

FAISS_FILE = "index.faiss"
SCANN_FOLDER = "scann"
_CHUNK_ROWS = 1 << 14
_MIN_HASHED = 16  # ScaNN's asymmetric hashing has 16 centres per block, and needs as many posts
_LOCATION = re.compile(r"^Error in .*? at \S+:\d+: ")  # the source location in errors of FAISS

Vectors = npt.NDArray[np.float32]
Report = Callable[[str, int, int], None]
"""Called with a step, and the number of posts done and in total."""


@dataclass(frozen=True, kw_only=True)
class FaissOptions:
    """A FAISS index, by inner product.

    Attributes:
        factory: The factory string of FAISS's `index_factory`.
        train_posts: The maximum number of posts for training, drawn at random. FAISS's k-means uses
            up to 256 per list and warns below 39, so the default trains 1,024 lists fully, and
            6,700 without a warning.
    """

    factory: str = "HNSW32"
    train_posts: int = 262_144

    def __post_init__(self) -> None:
        check_at_least_one(train_posts=self.train_posts)


@dataclass(frozen=True, kw_only=True)
class ScannOptions:
    """A ScaNN tree over asymmetric hashes of two dimensions each, reordered by exact products.

    Attributes:
        leaves: The leaves of the tree. None: the square root of N, which ScaNN's documentation
            advises.
        reorder: The number of best posts by hashes that are scored exactly.
        train_posts: The maximum number of posts for training, drawn by ScaNN.
    """

    leaves: int | None = None
    reorder: int = 250
    train_posts: int = 262_144

    def __post_init__(self) -> None:
        leaves = 1 if self.leaves is None else self.leaves
        check_at_least_one(leaves=leaves, reorder=self.reorder, train_posts=self.train_posts)


def check_at_least_one(**options: int) -> None:
    """Raise ValueError for an option below 1."""
    for name, value in options.items():
        if value < 1:
            raise ValueError(f"{name}: must be at least 1, is {value}")


class FaissBuilder:
    """Builds an index with FAISS."""

    format = "faiss"

    def __init__(self, options: FaissOptions, width: int) -> None:
        """Check that FAISS is installed and accepts the options.

        Raises:
            MissingPackageError: FAISS is not installed.
            IndexOptionError: FAISS does not accept the factory string.
        """
        with name_extra("--format faiss"):
            self._faiss: Any = importlib.import_module("faiss")
        self._options = options
        try:
            self._index = self._faiss.index_factory(
                width, options.factory, self._faiss.METRIC_INNER_PRODUCT
            )
        except RuntimeError as exc:
            raise self._refused(exc) from exc

    def describe(self) -> dict[str, object]:
        """Return the description of the index for `index.json`."""
        return {"factory": self._options.factory, "faiss_version": str(self._faiss.__version__)}

    def write(self, vectors: Vectors, directory: Path, report: Report) -> None:
        """Train an index, add [N, D] vectors to it, and write it.

        Raises:
            IndexOptionError: FAISS cannot build this index of these vectors.
            CorpusError: Writing fails.
        """
        rows = len(vectors)
        try:
            if not self._index.is_trained:
                report("training", 0, rows)
                self._index.train(_sample(vectors, self._options.train_posts))
            for start in range(0, rows, _CHUNK_ROWS):  # in chunks, so that it can be interrupted
                self._index.add(np.ascontiguousarray(vectors[start : start + _CHUNK_ROWS]))
                report("adding", min(start + _CHUNK_ROWS, rows), rows)
        except RuntimeError as exc:
            raise self._refused(exc) from exc
        path = directory / FAISS_FILE
        try:
            self._faiss.write_index(self._index, str(path))
        except RuntimeError as exc:
            raise CorpusError(path, f"cannot be written: {_reason(exc)}") from exc

    def _refused(self, exc: RuntimeError) -> IndexOptionError:
        return IndexOptionError(
            "--factory", f"FAISS refuses {self._options.factory!r}: {_reason(exc)}"
        )


class ScannBuilder:
    """Builds an index with ScaNN."""

    format = "scann"

    def __init__(self, options: ScannOptions, rows: int) -> None:
        """Check that ScaNN is installed and that there are enough posts.

        Raises:
            MissingPackageError: ScaNN is not installed.
            IndexOptionError: There are fewer posts than an option needs.
        """
        with name_extra("--format scann"):
            self._module = import_scann()
        self._options = options
        self._leaves = options.leaves or max(1, round(rows**0.5))
        if self._leaves > rows:
            raise IndexOptionError("--leaves", f"is {self._leaves}, there are {rows} posts")
        if min(rows, options.train_posts) < _MIN_HASHED:
            raise IndexOptionError(
                "--format", f"scann needs {_MIN_HASHED} posts or more to train on"
            )

    def describe(self) -> dict[str, object]:
        """Return the description of the index for `index.json`."""
        version = importlib.metadata.version("scann")
        return {"leaves": self._leaves, "reorder": self._options.reorder, "scann_version": version}

    def write(self, vectors: Vectors, directory: Path, report: Report) -> None:
        """Train an index of [N, D] vectors, and write it.

        Raises:
            IndexOptionError: ScaNN cannot build this index of these vectors.
            CorpusError: Writing fails.
        """
        rows = len(vectors)
        report("building", 0, rows)
        trained = min(rows, self._options.train_posts)
        try:
            searcher = (
                self._module.builder(vectors, 1, "dot_product")
                .tree(
                    num_leaves=self._leaves,
                    num_leaves_to_search=max(1, self._leaves // 10),
                    training_sample_size=trained,
                )
                .score_ah(2, anisotropic_quantization_threshold=0.2, training_sample_size=trained)
                .reorder(self._options.reorder)
                .build()
            )
        except (RuntimeError, ValueError) as exc:
            raise IndexOptionError("--format", f"ScaNN refuses: {exc}") from exc
        folder = directory / SCANN_FOLDER
        folder.mkdir()
        try:
            searcher.serialize(str(folder), relative_path=True)  # the directory will be renamed
        except RuntimeError as exc:
            raise CorpusError(folder, f"cannot be written: {exc}") from exc
        report("building", rows, rows)


Options = FaissOptions | ScannOptions | None
"""The index to build besides the posts; None for the posts only."""


def make_builder(options: Options, rows: int, width: int) -> FaissBuilder | ScannBuilder | None:
    """Return the builder of an index of `rows` vectors; errors as by the builders."""
    match options:
        case FaissOptions():
            return FaissBuilder(options, width)
        case ScannOptions():
            return ScannBuilder(options, rows)
        case None:
            return None


def _sample(vectors: Vectors, limit: int) -> Vectors:
    """Draw up to `limit` vectors, in order."""
    if len(vectors) <= limit:
        return np.ascontiguousarray(vectors)
    rows = np.random.default_rng(0).choice(len(vectors), limit, replace=False)
    return vectors[np.sort(rows)]


def import_scann() -> Any:
    """Import ScaNN without TensorFlow.

    ScaNN does not need it, and importing another version of TensorFlow than its own fails.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    modules = cast("dict[str, object]", sys.modules)
    before = {name: module for name, module in modules.items() if name == "tensorflow"}
    modules["tensorflow"] = None
    try:
        return importlib.import_module("scann.scann_ops.py.scann_ops_pybind")
    finally:
        del modules["tensorflow"]
        modules.update(before)


def _reason(exc: RuntimeError) -> str:
    """Return the message of FAISS without the location in its source."""
    return _LOCATION.sub("", str(exc)).strip()
