from phoenix_retrieval.v1 import manifest_pb2 as _manifest_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("generation", "bundle", "corpus", "corpus_rows", "shards", "devices", "max_top_k", "max_batch_users", "max_candidates", "max_request_bytes", "server_version")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    CORPUS_FIELD_NUMBER: _ClassVar[int]
    CORPUS_ROWS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    MAX_TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_USERS_FIELD_NUMBER: _ClassVar[int]
    MAX_CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    generation: str
    bundle: _manifest_pb2.BundleManifest
    corpus: _manifest_pb2.CorpusManifest
    corpus_rows: int
    shards: int
    devices: _containers.RepeatedScalarFieldContainer[str]
    max_top_k: int
    max_batch_users: int
    max_candidates: int
    max_request_bytes: int
    server_version: str
    def __init__(self, generation: _Optional[str] = ..., bundle: _Optional[_Union[_manifest_pb2.BundleManifest, _Mapping]] = ..., corpus: _Optional[_Union[_manifest_pb2.CorpusManifest, _Mapping]] = ..., corpus_rows: _Optional[int] = ..., shards: _Optional[int] = ..., devices: _Optional[_Iterable[str]] = ..., max_top_k: _Optional[int] = ..., max_batch_users: _Optional[int] = ..., max_candidates: _Optional[int] = ..., max_request_bytes: _Optional[int] = ..., server_version: _Optional[str] = ...) -> None: ...
