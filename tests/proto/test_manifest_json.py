from __future__ import annotations

import json

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from phoenix_retrieval.v1 import manifest_pb2

I64 = st.integers(-(2**63), 2**63 - 1)
U64 = st.integers(0, 2**64 - 1)


def _round_trip(manifest: manifest_pb2.BundleManifest) -> manifest_pb2.BundleManifest:
    text = json_format.MessageToJson(manifest, preserving_proto_field_name=True)
    return json_format.Parse(text, manifest_pb2.BundleManifest())


@given(st.lists(I64, min_size=1), st.lists(I64, min_size=1), I64, U64)
def test_hash_constants_keep_all_64_bits_in_json(
    scales: list[int], biases: list[int], modulus: int, vocab_size: int
) -> None:
    functions = manifest_pb2.HashFunctions(
        scales=scales, biases=biases, modulus=modulus, vocab_size=vocab_size
    )
    manifest = manifest_pb2.BundleManifest(user_hash=functions)
    assert _round_trip(manifest) == manifest
    found = _round_trip(manifest).user_hash
    assert (list(found.scales), list(found.biases)) == (scales, biases)
    assert (found.modulus, found.vocab_size) == (modulus, vocab_size)


def test_json_holds_64_bit_integers_as_strings() -> None:
    manifest = manifest_pb2.BundleManifest(
        user_hash=manifest_pb2.HashFunctions(scales=[2**53 + 1], modulus=2**61 - 1),
        files=[manifest_pb2.File(path="a", size_bytes=2**63)],
    )
    found = json.loads(json_format.MessageToJson(manifest, preserving_proto_field_name=True))
    assert found["user_hash"] == {"scales": [str(2**53 + 1)], "modulus": str(2**61 - 1)}
    assert found["files"] == [{"path": "a", "size_bytes": str(2**63)}]


def test_a_full_manifest_round_trips_through_json() -> None:
    array = manifest_pb2.ArraySignature(name="user_rows", dtype="int32", dimensions=["b", "2"])
    program = manifest_pb2.Program(
        path="programs/user_tower.jax",
        stablehlo_path="programs/user_tower.stablehlo.mlir",
        weights=["transformer/decoder_layer_0/linear/w"],
        tables=["user_embeddings"],
        inputs=[array],
        outputs=[array],
    )
    manifest = manifest_pb2.BundleManifest(
        format_version=1,
        tower_fingerprint="f00d",
        model=manifest_pb2.ModelSizes(embedding_size=128),
        user_tower=program,
        candidate_tower=program,
        platforms=["cpu", "cuda"],
        created_at=Timestamp(seconds=1_700_000_000),
        expires_at=Timestamp(seconds=1_715_552_000),
        selftest_tolerance=5e-3,
    )
    assert _round_trip(manifest) == manifest
    assert manifest_pb2.BundleManifest.FromString(manifest.SerializeToString()) == manifest
