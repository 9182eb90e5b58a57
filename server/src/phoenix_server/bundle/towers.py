"""The two towers on a device: weights, tables and compiled programs.

Shapes:
    B  users or posts of a compiled batch     H  engagements, of a compiled length
    D  width of a representation              n  posts of a call

Programs are compiled ahead, for a few sizes each. A size that was not compiled raises KeyError; it
is never compiled on the request path.
"""

import logging
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from phoenix_server.bundle.bundle import SELFTEST, TABLES, WEIGHTS, Bundle, table_path
from phoenix_server.bundle.exported_tower import DeviceArrays, ExportedTower, TowerArrays
from phoenix_server.bundle.features import HashFunctions, HostArrays
from phoenix_server.errors import BundleError
from phoenix_server.runtime.arrays import F32, U64
from phoenix_server.runtime.devices import Device, count_lanes
from phoenix_server.runtime.program_cache import ProgramCache, device_seconds

T = TypeVar("T")

_log = logging.getLogger(__name__)

_LARGE_ROWS = 1 << 14  # rows of a table that the device checks faster than numpy


class EncodedUsers(NamedTuple):
    """The results of the user tower for a batch, on its device.

    Attributes:
        representations: [B, D] f32 unit vectors; meaningless where there is no user.
        norms: [B] f32, the lengths of the vectors before normalisation.
    """

    representations: jax.Array
    norms: jax.Array


class Towers:
    """The towers of one bundle on one device.

    Attributes:
        lanes: How many runs of the user tower the device takes at once.
    """

    def __init__(
        self, bundle: Bundle, device: Device, programs: ProgramCache | None = None
    ) -> None:
        """Load programs, weights and tables.

        Args:
            bundle: The bundle; its files have been verified.
            device: Where the towers run.
            programs: A cache to share programs with. Default: none.

        Raises:
            BundleError: JAX cannot read a program, a weight or table is missing, or holds values
                that are not finite.
        """
        self._bundle = bundle
        self._device = device
        manifest = bundle.manifest
        programs = self._programs = ProgramCache(beside=programs)
        weights = {
            name: self._put(bundle.path / WEIGHTS, name, array)
            for name, array in bundle.load_weights()
        }
        tables = {
            name: self._put(bundle.path / table_path(name), name, bundle.load_table(name))
            for name in TABLES
        }
        arrays = TowerArrays(weights, tables, device)
        self._users = ExportedTower(bundle, manifest.user_tower, arrays, programs)
        self._candidates = ExportedTower(bundle, manifest.candidate_tower, arrays, programs)
        self.lanes = count_lanes(device)
        self._pool = ThreadPoolExecutor(max(1, self.lanes - 1), "lane")
        self._user_programs: dict[tuple[int, int], Callable[[DeviceArrays], DeviceArrays]] = {}
        self._user_seconds: dict[tuple[int, int], float] = {}
        self._candidate_programs: dict[int, Callable[[DeviceArrays], DeviceArrays]] = {}

    @property
    def user_sizes(self) -> Collection[tuple[int, int]]:
        """The [B, H] that the user tower is compiled for."""
        return self._user_programs.keys()

    def user_seconds(self, length: int) -> float:
        """Return the time per user with so many engagements in the largest batch, in seconds.

        It was measured when the program was compiled, with all lanes in use.
        """
        batch, padded = max((b, -h) for b, h in self._user_seconds if h >= length)
        return self._user_seconds[batch, -padded] / batch

    def compile_users(self, batch_size: int, length: int) -> None:
        """Compile the user tower for batches of [B, H], and measure its time."""
        size, sizes = (batch_size, length), {"b": batch_size, "s": length}
        program = self._users.compile(sizes)
        inputs = [self._bundle.features.users([], batch_size, length)] * self.lanes

        def encode(batch: HostArrays) -> DeviceArrays:
            return program(jax.device_put(batch, self._device))

        seconds = self._users.seconds(
            sizes, lambda: device_seconds(lambda: self._in_lanes(encode, inputs)) / self.lanes
        )
        # New dictionaries: another thread may be iterating over the old ones.
        self._user_seconds = {**self._user_seconds, size: seconds}
        self._user_programs = {**self._user_programs, size: program}

    @property
    def tower(self) -> str:
        """The fingerprint of the towers."""
        return self._bundle.manifest.tower_fingerprint

    def post_batches(self, count: int) -> Iterator[slice]:
        """Cut `count` posts into batches of the largest compiled size; the last may be shorter."""
        size = max(self._candidate_programs)
        return (slice(start, min(start + size, count)) for start in range(0, count, size))

    def encode_posts(
        self, post_ids: U64, author_ids: U64, *, between_batches: Callable[[], None] = lambda: None
    ) -> F32:
        """Return the unit vectors of posts, [n, D].

        Args:
            post_ids: [n] u64; n may be 0.
            author_ids: [n] u64.
            between_batches: Called after each batch, for example to throttle background work.
        """
        size = max(self._candidate_programs)
        vectors = np.empty((len(post_ids), self._bundle.manifest.model.embedding_size), np.float32)
        for batch in self.post_batches(len(post_ids)):
            inputs = self._bundle.features.candidates(post_ids[batch], author_ids[batch], size)
            encoded = np.asarray(self.run_candidate_tower(inputs))  # [size, D]
            vectors[batch] = encoded[: batch.stop - batch.start]
            between_batches()
        return vectors

    def compile_candidates(self, batch_size: int) -> None:
        """Compile the candidate tower for batches of B posts."""
        self._candidate_programs[batch_size] = self._candidates.compile({"n": batch_size})

    def encode_users(self, inputs: HostArrays) -> EncodedUsers:
        """Encode a batch of a compiled size, as `FeatureBuilder.users` returns it."""
        run = self._user_programs[inputs["history_product_surfaces"].shape]
        outputs = run(jax.device_put(inputs, self._device))
        return EncodedUsers(outputs["user_representation"], outputs["user_norm"])

    def encode_batches(self, batches: Sequence[HostArrays]) -> list[EncodedUsers]:
        """Encode batches as `encode_users` does, as many at once as there are lanes."""
        return self._in_lanes(self.encode_users, batches)

    def run_candidate_tower(self, inputs: HostArrays) -> jax.Array:
        """Encode a batch of a compiled size, as `FeatureBuilder.candidates` returns it: [B, D]."""
        run = self._candidate_programs[len(inputs["post_rows"])]
        return run(jax.device_put(inputs, self._device))["candidate_representation"]

    def self_test(self) -> None:
        """Check hashing and the largest compiled programs against the bundle's answers.

        Raises:
            BundleError: An answer differs by more than the bundle allows, or `selftest.npz` cannot
                be used.
        """
        path = self._bundle.path / SELFTEST
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            self._check_hashes(arrays)
            if self._user_programs:
                self._check_users(arrays)
            if self._candidate_programs:
                self._check_candidates(arrays)
        except (LookupError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as exc:
            raise BundleError(path, f"cannot be used: {exc}") from exc

    def _check_hashes(self, arrays: HostArrays) -> None:
        for entity in ("user", "item", "author"):
            functions: HashFunctions = getattr(self._bundle.features, f"{entity}_hash")
            ids, rows = arrays[f"ids/{entity}"].astype(np.uint64), arrays[f"rows/{entity}"]
            if not np.array_equal(functions.rows(ids), rows):
                raise BundleError(self._bundle.path / SELFTEST, f"{entity} ids hash to other rows")

    def _check_users(self, arrays: HostArrays) -> None:
        batch, length = max(self._user_programs)
        inputs = {
            name: _padded(array, 1, length) if name.startswith("history_") else array
            for name, array in _part(arrays, "user_tower/inputs/").items()
        }
        encoded = map(self.encode_users, _batches(inputs, batch))
        representations, norms = map(np.concatenate, zip(*encoded, strict=True))
        expected = arrays["user_tower/outputs/user_representation"]
        self._check_close("user_representation", representations[: len(expected)], expected)
        expected = arrays["user_tower/outputs/user_norm"]
        self._check_close("user_norm", norms[: len(expected)] / expected, np.ones_like(expected))

    def _check_candidates(self, arrays: HostArrays) -> None:
        batches = _batches(_part(arrays, "candidate_tower/inputs/"), max(self._candidate_programs))
        vectors = np.concatenate([np.asarray(self.run_candidate_tower(batch)) for batch in batches])
        expected = arrays["candidate_tower/outputs/candidate_representation"]
        self._check_close("candidate_representation", vectors[: len(expected)], expected)

    def _check_close(
        self, name: str, actual: npt.NDArray[np.generic], expected: npt.NDArray[np.generic]
    ) -> None:
        tolerance = self._bundle.manifest.selftest_tolerance
        worst = float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max())
        _log.debug("self-test: %s within %.2g", name, worst)
        if not worst <= tolerance:  # also true for NaN
            raise BundleError(
                self._bundle.path / SELFTEST,
                f"{name} differs by {worst:.2g} where {tolerance:.2g} is allowed: the programs do "
                f"not work on {self._device}",
            )

    def _in_lanes(self, run: Callable[[HostArrays], T], batches: Sequence[HostArrays]) -> list[T]:
        """Run batches in order, on the caller's thread and on those of the other lanes."""
        if self.lanes == 1 or len(batches) < 2:
            return list(map(run, batches))
        rest = [
            self._pool.submit(lambda batch: jax.block_until_ready(run(batch)), batch)
            for batch in batches[1:]
        ]
        own = {0: run(batches[0])}
        for number, (future, batch) in enumerate(zip(rest, batches[1:], strict=True), 1):
            if future.cancel():  # no other lane has taken it
                own[number] = run(batch)
        return [own[i] if i in own else rest[i - 1].result() for i in range(len(batches))]

    def _put(self, path: Path, name: str, array: F32) -> jax.Array:
        """Put an array on the device and check that it is finite."""
        # may_alias: a CPU device uses a mapped file without a copy.
        placed = jax.device_put(array, self._device, may_alias=True)
        large = array.ndim == 2 and len(array) > _LARGE_ROWS
        if not (self._all_finite(placed) if large else np.isfinite(array).all()):
            raise BundleError(path, f"{name} holds values that are not finite")
        return placed

    def _all_finite(self, array: jax.Array) -> jax.Array:
        """Check a table on the device; all tables of one shape share a program."""
        key = ("all finite", self._device, array.shape, array.dtype)
        return self._programs.compile(key, _all_finite, array)(array)


def _all_finite(array: jax.Array) -> jax.Array:
    return jnp.isfinite(array).all()


def _part(arrays: HostArrays, prefix: str) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays whose names start with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _batches(inputs: HostArrays, size: int) -> Iterator[HostArrays]:
    """Cut inputs into batches of `size`; the last is padded with zeros."""
    for start in range(0, max(map(len, inputs.values())), size):
        yield {
            name: _padded(array[start : start + size], 0, size) for name, array in inputs.items()
        }


def _padded(array: npt.NDArray[Any], axis: int, size: int) -> npt.NDArray[Any]:
    """Pad an axis to `size` with zeros."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return np.pad(array, widths)
