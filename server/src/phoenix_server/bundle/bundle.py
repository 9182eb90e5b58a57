"""Bundles on disk: the towers of one checkpoint as exported programs, with weights and tables.

JAX takes seconds to import, so only the functions that read a program import it; files can be
verified in the meantime.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from phoenix_retrieval.v1.manifest_pb2 import BundleManifest, File, Program
from phoenix_retrieval.v1.manifest_pb2 import HashFunctions as HashFunctionsMessage
from phoenix_server.artifacts import MANIFEST, read_manifest, verify_files
from phoenix_server.bundle.features import FeatureBuilder, HashFunctions
from phoenix_server.bundle.model_file import MODEL, check_model
from phoenix_server.bundle.safetensors_map import map_tensors
from phoenix_server.errors import BundleError
from phoenix_server.runtime.arrays import F32
from phoenix_server.signatures import NO_KEYS, TrustedKeys

if TYPE_CHECKING:
    from jax import export

FORMAT_VERSION = 1
SIGNATURE = "manifest.sig"
WEIGHTS = "weights.safetensors"
SELFTEST = "selftest.npz"
_MAX_SIZE = 2**31 - 1
_MAX_ACTIONS = 64  # bits of an action mask
TABLES = ("user_embeddings", "item_embeddings", "author_embeddings")


def table_path(name: str) -> str:
    """Return the path of an embedding table within a bundle."""
    return f"tables/{name}.safetensors"


_TABLE_FILES = set(map(table_path, TABLES))


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle on disk.

    Attributes:
        path: Its directory.
        manifest: Its `manifest.json`.
        trusted: The keys of which one signed it. None: it need not be signed.
    """

    path: Path
    manifest: BundleManifest
    trusted: TrustedKeys = NO_KEYS

    @cached_property
    def features(self) -> FeatureBuilder:
        """Builds the inputs of the towers from requests.

        Raises:
            BundleError: The manifest holds impossible hash functions.
        """
        manifest = self.manifest
        try:
            return FeatureBuilder(
                user_hash=_hash_functions(manifest.user_hash),
                item_hash=_hash_functions(manifest.item_hash),
                author_hash=_hash_functions(manifest.author_hash),
                history_length=manifest.model.history_length,
            )
        except ValueError as exc:
            raise BundleError(self.path, f"hash functions: {exc}") from exc

    @property
    def expires_at(self) -> datetime:
        """The time until which JAX guarantees to read the programs."""
        return self.manifest.expires_at.ToDatetime(UTC)

    def serving_files(self) -> Iterator[File]:
        """Yield the files that a server reads: all but the SavedModel and the StableHLO texts.

        Raises:
            BundleError: The manifest does not list one of them, or lists one twice.
        """
        programs = {self.manifest.user_tower.path, self.manifest.candidate_tower.path}
        listed: dict[str, File] = {}
        for file in self.manifest.files:
            if file.path in listed:
                raise BundleError(self.path / MANIFEST, f"lists {file.path} twice")
            listed[file.path] = file
        for path in sorted(programs | _TABLE_FILES | {WEIGHTS, SELFTEST, MODEL}):
            if path not in listed:
                what = "not in the manifest; this bundle is incomplete"
                if path == MODEL:
                    what += ", or an older phoenix-export wrote it: export the checkpoint again"
                raise BundleError(self.path / path, what)
            yield listed[path]

    def check_current(self, now: datetime) -> None:
        """Check that the programs have not expired.

        Raises:
            BundleError: They have expired.
        """
        if now >= self.expires_at:
            raise BundleError(
                self.path,
                f"its programs expired on {self.expires_at:%Y-%m-%d}: JAX guarantees to read a "
                "program for six months; export the checkpoint again",
            )

    def check_manifest(self) -> None:
        """Check the manifest against the files that it lists, whose sums have been verified.

        Raises:
            BundleError: A field differs from `model.json`, a size or the tolerance of the self-test
                is impossible, or the fingerprint does not match.
        """
        check_model(self.path, self.manifest)
        for field in self.manifest.model.DESCRIPTOR.fields:
            most = _MAX_ACTIONS if field.name == "num_actions" else _MAX_SIZE
            if not 1 <= (size := getattr(self.manifest.model, field.name)) <= most:
                what = f"model.{field.name} is {size}, not from 1 to {most}"
                raise BundleError(self.path / MANIFEST, what)
        if not 0 < (tolerance := self.manifest.selftest_tolerance) < 1:  # also true for NaN
            what = f"selftest_tolerance is {tolerance:g}, not above 0 and below 1"
            raise BundleError(self.path / MANIFEST, what)
        claimed, actual = self.manifest.tower_fingerprint, tower_fingerprint(self.manifest)
        if claimed != actual:
            what = f"tower_fingerprint is {claimed[:12]}, but these files have {actual[:12]}"
            raise BundleError(self.path / MANIFEST, what)

    def load_program(self, program: Program) -> export.Exported:
        """Read a program.

        Raises:
            BundleError: It was changed since it was verified, JAX cannot read it, it was not
                lowered for this platform, or it makes custom calls that this server does not know.
        """
        import jax
        from jax import export

        from phoenix_server.bundle.custom_calls import unknown_custom_calls

        path = self.path / program.path
        try:
            contents = path.read_bytes()
        except OSError as exc:
            raise BundleError(path, f"cannot be read: {exc.strerror}") from exc
        sums = {file.path: file.sha256 for file in self.manifest.files}
        if hashlib.sha256(contents).hexdigest() != sums.get(program.path):
            raise BundleError(path, "was changed since it was verified")
        try:
            exported = export.deserialize(bytearray(contents))
            unknown = unknown_custom_calls(exported)
        except Exception as exc:  # flatbuffers and JAX raise many types
            raise BundleError(path, f"JAX {jax.__version__} cannot read it: {exc}") from exc
        if (platform := _platform()) not in exported.platforms:
            raise BundleError(path, f"lowered for {exported.platforms}, not for {platform}")
        if unknown:
            what = f"makes the custom call {', '.join(unknown)}, which this server does not know"
            raise BundleError(path, what)
        return exported

    def load_weights(self) -> Iterator[tuple[str, F32]]:
        """Yield the weights by name, mapped from their file.

        Raises:
            BundleError: The file cannot be read.
        """
        yield from self._tensors(WEIGHTS)

    def load_table(self, name: str) -> F32:
        """Return one embedding table, [vocab_size, D] f32, mapped from its file.

        Raises:
            BundleError: The file cannot be read, or does not hold this table.
        """
        found = dict(self._tensors(table_path(name)))
        if list(found) != [name]:
            what = f"should hold {name}, holds {', '.join(found) or 'nothing'}"
            raise BundleError(self.path / table_path(name), what)
        return found[name]

    def _tensors(self, name: str) -> Iterator[tuple[str, F32]]:
        path = self.path / name
        try:
            yield from map_tensors(path)
        except (ValueError, OSError) as exc:
            raise BundleError(path, f"cannot be read: {exc}") from exc


def open_bundle(path: Path, trusted: TrustedKeys = NO_KEYS) -> Bundle:
    """Read a bundle's manifest. The contents of its files are checked by `verify`.

    Args:
        path: The bundle's directory.
        trusted: Keys of which one must have signed the manifest. Default: it need not be signed.

    Raises:
        BundleError: It is not a bundle, has a format version that this server cannot read, or is
            not signed by a trusted key.
    """

    def check(contents: bytes) -> None:
        if problem := trusted.find_problem(contents, path / SIGNATURE):
            raise BundleError(path / SIGNATURE, problem)

    manifest = read_manifest(
        path, BundleManifest(), BundleError, version=FORMAT_VERSION, check=check
    )
    return Bundle(path=path, manifest=manifest, trusted=trusted)


def verify(bundle: Bundle) -> None:
    """Check the contents of the files that a server reads, and the manifest against them.

    Raises:
        BundleError: A file is missing, truncated or changed, or the manifest does not match.
    """
    verify_programs(bundle)
    verify_tables(bundle)


def verify_programs(bundle: Bundle) -> None:
    """Do the part of `verify` that takes milliseconds: all but the contents of the tables."""
    files = (file for file in bundle.serving_files() if file.path not in _TABLE_FILES)
    verify_files(bundle.path, files, BundleError)
    bundle.check_manifest()


def verify_tables(bundle: Bundle) -> None:
    """Do the rest of `verify`: the contents of the tables."""
    files = (file for file in bundle.serving_files() if file.path in _TABLE_FILES)
    verify_files(bundle.path, files, BundleError)


def tower_fingerprint(manifest: BundleManifest) -> str:
    """Return the fingerprint as `BundleManifest.tower_fingerprint` defines it."""
    hashed = {manifest.user_tower.path, manifest.candidate_tower.path, WEIGHTS, *_TABLE_FILES}
    lines = [f"{file.path} {file.sha256}" for file in manifest.files if file.path in hashed]
    for functions in (manifest.user_hash, manifest.item_hash, manifest.author_hash):
        constants = (*functions.scales, *functions.biases, functions.modulus, functions.vocab_size)
        lines.append(" ".join(map(str, constants)))
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def _hash_functions(message: HashFunctionsMessage) -> HashFunctions:
    return HashFunctions(
        scales=np.array(message.scales, np.int64),
        biases=np.array(message.biases, np.int64),
        modulus=message.modulus,
        vocab_size=message.vocab_size,
    )


def _platform() -> str:
    """Return the platform of the default device, as `jax.export` names it."""
    import jax
    import jax.extend

    from phoenix_server.runtime.devices import all_devices

    all_devices()  # checks that there is one
    backend = jax.default_backend()
    if backend != "gpu":
        return backend
    return "rocm" if "rocm" in jax.extend.backend.get_backend().platform_version else "cuda"
