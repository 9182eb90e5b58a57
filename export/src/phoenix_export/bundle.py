"""Write a bundle: everything that a server needs from a checkpoint."""

import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from google.protobuf import json_format
from jax import export

from phoenix_export.arrays import map_safetensor, write_safetensors
from phoenix_export.checkpoint import Checkpoint
from phoenix_export.directories import new_directory
from phoenix_export.programs import TowerProgram, candidate_program, user_program
from phoenix_export.saved_model import require_tensorflow, write_saved_model
from phoenix_export.selftest import TOLERANCES, selftest_arrays
from phoenix_retrieval.v1 import manifest_pb2

FORMAT_VERSION = 1
READABLE_FOR = timedelta(days=180)  # JAX guarantees to read exported programs for six months
MANIFEST = "manifest.json"
MODEL = "model.json"
WEIGHTS = "weights.safetensors"

Report = Callable[[str], None]


def write_bundle(
    checkpoint: Checkpoint, out: Path, *, saved_model: bool, report: Report = lambda step: None
) -> manifest_pb2.BundleManifest:
    """Export a checkpoint as a bundle.

    Args:
        checkpoint: The checkpoint.
        out: The directory to write; must not exist.
        saved_model: Also write a SavedModel; requires TensorFlow.
        report: Called with each step's name as it begins.

    Returns:
        The bundle's manifest.

    Raises:
        CheckpointError: The checkpoint is damaged or contains values that are not finite.
        ExportError: The bundle cannot be written, or TensorFlow is missing.
    """
    if saved_model:
        require_tensorflow()
    with new_directory(out) as directory:
        (directory / "programs").mkdir()
        (directory / "tables").mkdir()

        report("weights")
        write_safetensors(directory / WEIGHTS, checkpoint.parameter_shapes, checkpoint.parameter)
        for name, shape in checkpoint.table_shapes.items():
            report(f"table {name}")
            write_safetensors(_table(directory, name), {name: shape}, checkpoint.table)

        arguments = (checkpoint.model, checkpoint.parameter_shapes, checkpoint.table_shapes)
        users, candidates = user_program(*arguments), candidate_program(*arguments)
        towers = {"user_tower": users, "candidate_tower": candidates}
        manifest = _describe_model(checkpoint)
        for name, tower in towers.items():
            report(f"program {name}")
            exported = tower.export()
            getattr(manifest, name).CopyFrom(_write_program(directory, name, tower, exported))
            manifest.platforms[:] = exported.platforms
            manifest.stablehlo_version = _stablehlo_version(exported)

        def weights(name: str) -> npt.NDArray[np.float32]:
            return map_safetensor(directory / WEIGHTS, name)

        def tables(name: str) -> npt.NDArray[np.float32]:
            return map_safetensor(_table(directory, name), name)

        report("self-test")
        arrays = selftest_arrays(checkpoint, towers, weights, tables)
        np.savez(directory / "selftest.npz", allow_pickle=False, **arrays)
        if saved_model:
            report("SavedModel")
            write_saved_model(directory / "saved_model", towers, weights, tables)

        report("sums")
        _write_json(directory / MODEL, _model(manifest))
        manifest.files.extend(_describe_files(directory))
        manifest.tower_fingerprint = fingerprint(manifest)
        _write_json(directory / MANIFEST, manifest)
    return manifest


def _model(manifest: manifest_pb2.BundleManifest) -> manifest_pb2.BundleManifest:
    """Return what `model.json` holds: the manifest without times, sums and fingerprint.

    The manifest lists the sum of `model.json`. So a server sees if the sizes in the manifest are
    still those that were exported. Without the times, every export of a checkpoint writes the same.
    """
    model = manifest_pb2.BundleManifest()
    model.CopyFrom(manifest)
    for field in ("files", "tower_fingerprint", "created_at", "expires_at"):
        model.ClearField(field)
    return model


def _write_json(path: Path, manifest: manifest_pb2.BundleManifest) -> None:
    text = json_format.MessageToJson(manifest, preserving_proto_field_name=True, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def _describe_model(checkpoint: Checkpoint) -> manifest_pb2.BundleManifest:
    model = checkpoint.model
    dtype = np.dtype(model.fprop_dtype).name
    hashes: dict[str, Any] = {
        f"{entity}_hash": manifest_pb2.HashFunctions(**vars(functions))
        for entity, functions in checkpoint.hashes.items()
    }
    manifest = manifest_pb2.BundleManifest(
        format_version=FORMAT_VERSION,
        model=manifest_pb2.ModelSizes(
            embedding_size=model.emb_size,
            history_length=model.history_seq_len,
            num_actions=model.num_actions,
            product_surface_vocab_size=model.product_surface_vocab_size,
            num_layers=model.model.num_layers,
            num_query_heads=model.model.num_q_heads,
            num_key_value_heads=model.model.num_kv_heads,
            key_size=model.model.key_size,
        ),
        **hashes,
        compute_dtype=dtype,
        jax_version=jax.__version__,
        selftest_tolerance=TOLERANCES[dtype],
    )
    now = datetime.now(UTC).replace(microsecond=0)
    manifest.created_at.FromDatetime(now)
    manifest.expires_at.FromDatetime(now + READABLE_FOR)
    return manifest


def _write_program(
    directory: Path, name: str, tower: TowerProgram, exported: export.Exported
) -> manifest_pb2.Program:
    path, text_path = f"programs/{name}.jax", f"programs/{name}.stablehlo.mlir"
    (directory / path).write_bytes(exported.serialize())
    (directory / text_path).write_text(exported.mlir_module(), encoding="utf-8")
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    return manifest_pb2.Program(
        path=path,
        stablehlo_path=text_path,
        weights=tower.weights,
        tables=tower.tables,
        inputs=[_describe_array(key, spec) for key, spec in tower.inputs.items()],
        outputs=[_describe_array(key, aval) for key, aval in outputs.items()],
    )


def _describe_array(name: str, array: jax.ShapeDtypeStruct) -> manifest_pb2.ArraySignature:
    return manifest_pb2.ArraySignature(
        name=name, dtype=array.dtype.name, dimensions=map(str, array.shape)
    )


def _stablehlo_version(exported: export.Exported) -> str:
    """Return the StableHLO version in the first bytes of a serialized module."""
    found = re.search(rb"StableHLO_v([0-9.]+)", exported.mlir_module_serialized)
    return found[1].decode() if found else "unknown"


def fingerprint(manifest: manifest_pb2.BundleManifest) -> str:
    """Hash all inputs of an embedding: programs, weights, tables and hash constants."""
    programs = (manifest.user_tower.path, manifest.candidate_tower.path)
    digest = hashlib.sha256()
    for file in manifest.files:
        if file.path in programs or file.path == WEIGHTS or file.path.startswith("tables/"):
            digest.update(f"{file.path} {file.sha256}\n".encode())
    for functions in (manifest.user_hash, manifest.item_hash, manifest.author_hash):
        constants = (*functions.scales, *functions.biases, functions.modulus, functions.vocab_size)
        digest.update((" ".join(map(str, constants)) + "\n").encode())
    return digest.hexdigest()


def _describe_files(directory: Path) -> Iterator[manifest_pb2.File]:
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        yield manifest_pb2.File(
            path=path.relative_to(directory).as_posix(),
            size_bytes=path.stat().st_size,
            sha256=sha256(path),
        )


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _table(directory: Path, name: str) -> Path:
    return directory / "tables" / f"{name}.safetensors"
