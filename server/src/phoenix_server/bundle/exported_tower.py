"""One tower's exported program, compiled for some sizes.

A program takes its weights and tables as arguments, besides the inputs of a batch. Its batch size
and history length are symbolic dimensions, which compiling fixes.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

from phoenix_retrieval.v1.manifest_pb2 import Program
from phoenix_server.bundle.bundle import Bundle
from phoenix_server.errors import BundleError
from phoenix_server.runtime.devices import Device
from phoenix_server.runtime.program_cache import ProgramCache

DeviceArrays = Mapping[str, jax.Array]

# Round to bfloat16 wherever the model does. Otherwise XLA keeps float32 between fused operations,
# which moves a user's bfloat16 representation by up to 5e-3 from the published model's. With this
# option the representation of a user alone is equal bit for bit, and no slower.
_COMPILER_OPTIONS: dict[str, str | bool] = {"xla_allow_excess_precision": False}


class TowerArrays(NamedTuple):
    """The arrays that the programs of a bundle take, and their device."""

    weights: DeviceArrays
    tables: DeviceArrays
    device: Device


class ExportedTower:
    """One exported program with its weights and tables."""

    def __init__(
        self, bundle: Bundle, program: Program, arrays: TowerArrays, programs: ProgramCache
    ) -> None:
        """Read a program, and select the arrays that it takes.

        Raises:
            BundleError: JAX cannot read it, or the bundle does not hold an array that it takes.
        """
        self._path = bundle.path / program.path
        self._exported: export.Exported = bundle.load_program(program)
        self._programs = programs
        try:
            self._weights = {name: arrays.weights[name] for name in program.weights}
            self._tables = {name: arrays.tables[name] for name in program.tables}
        except KeyError as exc:
            raise BundleError(self._path, f"takes {exc}, which the bundle does not hold") from exc
        self._inputs = program.inputs
        # The key of a program: other weights of the same shapes share it.
        sums = {file.path: file.sha256 for file in bundle.manifest.files}
        shapes = [
            (name, array.shape, str(array.dtype))
            for named in (self._weights, self._tables)
            for name, array in named.items()
        ]
        self._base_key = ("tower", sums[program.path], arrays.device, tuple(shapes))

    def compile(self, sizes: Mapping[str, int]) -> Callable[[DeviceArrays], DeviceArrays]:
        """Compile for some values of the symbolic dimensions."""
        compiled = self._programs.get(self._key(sizes), lambda: self._compile(sizes))
        return lambda arrays: compiled(self._weights, self._tables, arrays)

    def seconds(self, sizes: Mapping[str, int], measure: Callable[[], float]) -> float:
        """Return the time of a compiled program; see `ProgramCache.seconds`."""
        return self._programs.seconds(self._key(sizes), measure)

    def _key(self, sizes: Mapping[str, int]) -> Hashable:
        return (*self._base_key, *sorted(sizes.items()))

    def _compile(self, sizes: Mapping[str, int]) -> Any:
        try:
            inputs = {
                array.name: jax.ShapeDtypeStruct(
                    [sizes[d] if d in sizes else int(d) for d in array.dimensions],
                    np.dtype(array.dtype),
                )
                for array in self._inputs
            }
            lowered = jax.jit(self._exported.call).lower(self._weights, self._tables, inputs)
            return lowered.compile(compiler_options=_COMPILER_OPTIONS)
        except (TypeError, ValueError) as exc:
            what = f"does not take the arrays of this bundle: {exc}"
            raise BundleError(self._path, what) from exc
