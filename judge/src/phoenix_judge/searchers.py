"""Search FAISS and ScaNN indexes, one query at a time, on one core.

Shapes:
    D  width of a vector        n  results, at most k
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from phoenix_client.errors import FileError
from phoenix_judge.index_builders import FAISS_FILE, SCANN_FOLDER, import_scann
from phoenix_judge.sweeps import Sweep, doubling

_MIN_BEAM, _MAX_BEAM = 16, 8  # of the default sweep of a graph; the latter times k
_PICKLED = "scann_docids.pkl"


class FaissSearcher:
    """Searches with FAISS."""

    def __init__(self, directory: Path) -> None:
        """Read an index.

        Raises:
            FileError: It cannot be read.
        """
        path = directory / FAISS_FILE
        self._faiss: Any = importlib.import_module("faiss")
        self._faiss.omp_set_num_threads(1)
        if not path.is_file():
            raise FileError(str(path), "", "is missing")
        try:
            self._index = self._faiss.read_index(str(path))
        except RuntimeError as error:
            raise FileError(str(path), "", f"is not an index that FAISS reads: {error}") from error
        self._space = self._faiss.ParameterSpace()
        self.rows: int = self._index.ntotal
        self.width: int = self._index.d

    def default_sweep(self, top_k: int) -> Sweep | None:
        """Return numbers of lists to probe, up to all, or beam widths of a graph."""
        if self.takes("nprobe"):
            return doubling("nprobe", 1, self._faiss.extract_index_ivf(self._index).nlist)
        if self.takes("efSearch"):
            return doubling("efSearch", _MIN_BEAM, _MAX_BEAM * top_k)
        return None

    def takes(self, parameter: str) -> bool:
        """Return whether the index has a parameter of this name."""
        try:
            self._space.set_index_parameter(self._index, parameter, 1)
        except RuntimeError:
            return False
        return True

    def set(self, parameter: str, value: int) -> None:
        """Set a parameter that the index takes."""
        self._space.set_index_parameter(self._index, parameter, value)

    def search(self, query: npt.NDArray[np.float32], top_k: int) -> Sequence[int]:
        """Return the rows found for a query [D], best first: [n]."""
        _, rows = self._index.search(query[None], top_k)
        return cast("list[int]", rows[0][rows[0] >= 0].tolist())  # -1 fills ranks without a result


class ScannSearcher:
    """Searches with ScaNN."""

    def __init__(self, directory: Path, *, leaves: int, reorder: int, width: int) -> None:
        """Read a searcher.

        Args:
            directory: The exported index.
            leaves: Number of leaves of its tree.
            reorder: Number of the best results by hash that it scores exactly; at least k.
            width: D.

        Raises:
            FileError: It cannot be read.
        """
        folder = directory / SCANN_FOLDER
        module = import_scann()
        if not folder.is_dir():
            raise FileError(str(folder), "", "is missing")
        if (folder / _PICKLED).exists():
            raise FileError(str(folder / _PICKLED), "", "is a pickle; an export has none")
        try:
            self._searcher = module.load_searcher(str(folder))
        except (OSError, RuntimeError, ValueError) as error:
            raise FileError(str(folder), "", f"is not what ScaNN reads: {error}") from error
        self._leaves = leaves
        self._reorder = reorder
        self._searched = leaves
        self.rows: int = self._searcher.size()
        self.width = width

    def default_sweep(self, top_k: int) -> Sweep | None:
        """Return numbers of leaves to search, up to all."""
        return doubling("leaves_to_search", 1, self._leaves)

    def takes(self, parameter: str) -> bool:
        """Return whether the parameter is `leaves_to_search`, the only one."""
        return parameter == "leaves_to_search"

    def set(self, parameter: str, value: int) -> None:
        """Set how many leaves to search, at most all."""
        self._searched = min(value, self._leaves)

    def search(self, query: npt.NDArray[np.float32], top_k: int) -> Sequence[int]:
        """Return the rows found for a query [D], best first: [n]."""
        rows, _ = self._searcher.search(
            query,
            final_num_neighbors=top_k,
            pre_reorder_num_neighbors=max(self._reorder, top_k),
            leaves_to_search=self._searched,
        )
        return cast("list[int]", rows.tolist())


Searcher = FaissSearcher | ScannSearcher
"""Searches an index."""
