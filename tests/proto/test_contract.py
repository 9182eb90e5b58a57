from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

from phoenix_retrieval.v1 import (
    corpus_service_pb2,
    corpus_service_pb2_grpc,
    manifest_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    retrieval_service_pb2,
    retrieval_service_pb2_grpc,
    user_pb2,
)

FILES: list[FileDescriptor] = [
    corpus_service_pb2.DESCRIPTOR,
    manifest_pb2.DESCRIPTOR,
    model_service_pb2.DESCRIPTOR,
    retrieval_service_pb2.DESCRIPTOR,
    user_pb2.DESCRIPTOR,
]
SERVICES = {
    "RetrievalService": [
        "Retrieve",
        "BatchRetrieve",
        "Search",
        "EncodeUser",
        "EncodeCandidates",
        "ScorePosts",
    ],
    "ModelService": [
        "LoadGeneration",
        "ActivateGeneration",
        "RollbackGeneration",
        "ListGenerations",
        "GetModel",
        "GetServingStats",
    ],
    "CorpusService": [
        "UpsertPosts",
        "StreamUpsertPosts",
        "DeletePosts",
        "GetPosts",
        "GetCorpus",
        "CreateSnapshot",
        "ListSnapshots",
    ],
}
GRPC = {
    "RetrievalService": retrieval_service_pb2_grpc,
    "ModelService": model_service_pb2_grpc,
    "CorpusService": corpus_service_pb2_grpc,
}


def _messages() -> Iterator[Descriptor]:
    for file in FILES:
        yield from file.message_types_by_name.values()


def _fields() -> Iterator[FieldDescriptor]:
    for message in _messages():
        yield from message.fields


def test_the_path_of_a_file_is_its_package() -> None:
    for file in FILES:
        assert file.package == "phoenix_retrieval.v1"
        assert file.name.startswith("phoenix_retrieval/v1/")


def test_each_action_is_a_bit_of_the_mask() -> None:
    values = user_pb2.Action.values()
    assert sorted(values) == list(range(19))
    assert max(values) < 64
    everything = sum(1 << value for value in values)
    user = user_pb2.User(action_masks=[everything, 1 << 63])
    assert list(user_pb2.User.FromString(user.SerializeToString()).action_masks) == [
        2**19 - 1,
        2**63,
    ]


def test_named_actions_are_those_of_the_published_model() -> None:
    named = {
        name.removeprefix("ACTION_"): value
        for name, value in user_pb2.Action.items()
        if "INDEX" not in name
    }
    assert named == {
        "UNSPECIFIED": 0,
        "FAVORITE": 1,
        "REPLY": 4,
        "QUOTE": 5,
        "REPOST": 6,
        "DWELL": 11,
        "VIDEO_QUALITY_VIEW": 13,
    }
    for name, value in user_pb2.Action.items():
        assert "INDEX" not in name or name == f"ACTION_INDEX_{value}"


@pytest.mark.parametrize("name", SERVICES)
def test_every_method_has_its_own_request_and_response(name: str) -> None:
    pool = descriptor_pool.Default()
    service = pool.FindServiceByName(f"phoenix_retrieval.v1.{name}")
    assert [method.name for method in service.methods] == SERVICES[name]
    for method in service.methods:
        assert method.input_type.full_name == f"phoenix_retrieval.v1.{method.name}Request"
        assert method.output_type.full_name == f"phoenix_retrieval.v1.{method.name}Response"
        assert method.client_streaming == method.name.startswith("Stream")
        assert not method.server_streaming


@pytest.mark.parametrize("name", SERVICES)
def test_the_stubs_have_every_method(name: str) -> None:
    servicer = getattr(GRPC[name], f"{name}Servicer")
    assert callable(getattr(GRPC[name], f"add_{name}Servicer_to_server"))
    for method in SERVICES[name]:
        assert callable(getattr(servicer, method))


def test_every_empty_message_round_trips() -> None:
    for message in _messages():
        made = message_factory.GetMessageClass(message)()
        assert made.SerializeToString() == b""
        assert made == type(made).FromString(b"")


def test_ids_masks_and_times_are_fixed64() -> None:
    ids = [
        field
        for field in _fields()
        if field.type != FieldDescriptor.TYPE_BOOL
        and field.name.endswith(("_id", "_ids", "_masks", "_unix_ms", "scales", "biases"))
    ]
    assert {field.name for field in ids} == {
        "action_masks",
        "author_ids",
        "biases",
        "created_at_unix_ms",
        "created_before_unix_ms",
        "created_since_unix_ms",
        "excluded_author_ids",
        "excluded_post_ids",
        "missing_post_ids",
        "newest_created_at_unix_ms",
        "post_ids",
        "scales",
        "user_id",
    }
    single = (
        "user_id",
        "created_before_unix_ms",
        "created_since_unix_ms",
        "newest_created_at_unix_ms",
    )
    for field in ids:
        signed = field.name in ("scales", "biases")
        wanted = FieldDescriptor.TYPE_SFIXED64 if signed else FieldDescriptor.TYPE_FIXED64
        assert field.type == wanted, field.full_name
        assert field.is_repeated == (field.name not in single), field.full_name


def test_scores_and_vectors_are_packed_float32() -> None:
    floats = [f for f in _fields() if f.type == FieldDescriptor.TYPE_FLOAT]
    assert {field.full_name.removeprefix("phoenix_retrieval.v1.") for field in floats} == {
        "RetrieveResponse.scores",
        "RetrieveResponse.user_representation",
        "SearchRequest.vectors",
        "EncodeUserResponse.user_representation",
        "EncodeUserResponse.user_norm",
        "EncodeCandidatesResponse.candidate_representations",
        "ScorePostsResponse.scores",
        "Filter.min_score",
        "UpsertPostsRequest.vectors",
    }


def test_columns_of_numbers_are_packed() -> None:
    columns = [
        field
        for field in _fields()
        if field.is_repeated
        and field.type not in (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_STRING)
    ]
    assert columns and all(field.is_packed for field in columns)
    reply = retrieval_service_pb2.RetrieveResponse(post_ids=[2**64 - 1] * 200, scores=[0.5] * 200)
    assert len(reply.SerializeToString()) < 200 * 12 + 10


def test_a_search_asks_for_columns_as_retrieve_does() -> None:
    retrieve, search = (
        {field.name: (field.type, field.message_type) for field in message.DESCRIPTOR.fields}
        for message in (retrieval_service_pb2.RetrieveRequest, retrieval_service_pb2.SearchRequest)
    )
    del retrieve["user"]
    assert retrieve.items() <= search.items()


def test_a_result_of_a_batch_has_the_response_and_status_of_a_call() -> None:
    types = {
        (message.name, field.name): field.message_type.full_name
        for message in _messages()
        for field in message.fields
        if field.message_type is not None
    }
    assert types["RequestStatus", "retry_delay"] == "google.protobuf.Duration"
    expected = {
        ("BatchRetrieveRequest", "requests"): "RetrieveRequest",
        ("BatchRetrieveResponse", "results"): "RetrieveResult",
        ("RequestStatus", "field_violations"): "FieldViolation",
        ("SearchResponse", "results"): "RetrieveResult",
        ("RetrieveResult", "response"): "RetrieveResponse",
        ("RetrieveResult", "status"): "RequestStatus",
    }
    for place, name in expected.items():
        assert types[place] == f"phoenix_retrieval.v1.{name}"


def test_get_model_returns_both_manifests() -> None:
    fields = model_service_pb2.GetModelResponse.DESCRIPTOR.fields_by_name
    assert fields["bundle"].message_type is manifest_pb2.BundleManifest.DESCRIPTOR
    assert fields["corpus"].message_type is manifest_pb2.CorpusManifest.DESCRIPTOR
