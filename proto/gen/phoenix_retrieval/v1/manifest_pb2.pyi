import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class File(_message.Message):
    __slots__ = ("path", "size_bytes", "sha256")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    path: str
    size_bytes: int
    sha256: str
    def __init__(self, path: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class HashFunctions(_message.Message):
    __slots__ = ("scales", "biases", "modulus", "vocab_size")
    SCALES_FIELD_NUMBER: _ClassVar[int]
    BIASES_FIELD_NUMBER: _ClassVar[int]
    MODULUS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    scales: _containers.RepeatedScalarFieldContainer[int]
    biases: _containers.RepeatedScalarFieldContainer[int]
    modulus: int
    vocab_size: int
    def __init__(self, scales: _Optional[_Iterable[int]] = ..., biases: _Optional[_Iterable[int]] = ..., modulus: _Optional[int] = ..., vocab_size: _Optional[int] = ...) -> None: ...

class ModelSizes(_message.Message):
    __slots__ = ("embedding_size", "history_length", "num_actions", "product_surface_vocab_size", "num_layers", "num_query_heads", "num_key_value_heads", "key_size")
    EMBEDDING_SIZE_FIELD_NUMBER: _ClassVar[int]
    HISTORY_LENGTH_FIELD_NUMBER: _ClassVar[int]
    NUM_ACTIONS_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_SURFACE_VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    NUM_LAYERS_FIELD_NUMBER: _ClassVar[int]
    NUM_QUERY_HEADS_FIELD_NUMBER: _ClassVar[int]
    NUM_KEY_VALUE_HEADS_FIELD_NUMBER: _ClassVar[int]
    KEY_SIZE_FIELD_NUMBER: _ClassVar[int]
    embedding_size: int
    history_length: int
    num_actions: int
    product_surface_vocab_size: int
    num_layers: int
    num_query_heads: int
    num_key_value_heads: int
    key_size: int
    def __init__(self, embedding_size: _Optional[int] = ..., history_length: _Optional[int] = ..., num_actions: _Optional[int] = ..., product_surface_vocab_size: _Optional[int] = ..., num_layers: _Optional[int] = ..., num_query_heads: _Optional[int] = ..., num_key_value_heads: _Optional[int] = ..., key_size: _Optional[int] = ...) -> None: ...

class ArraySignature(_message.Message):
    __slots__ = ("name", "dtype", "dimensions")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    dimensions: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., dimensions: _Optional[_Iterable[str]] = ...) -> None: ...

class Program(_message.Message):
    __slots__ = ("path", "stablehlo_path", "weights", "tables", "inputs", "outputs")
    PATH_FIELD_NUMBER: _ClassVar[int]
    STABLEHLO_PATH_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    path: str
    stablehlo_path: str
    weights: _containers.RepeatedScalarFieldContainer[str]
    tables: _containers.RepeatedScalarFieldContainer[str]
    inputs: _containers.RepeatedCompositeFieldContainer[ArraySignature]
    outputs: _containers.RepeatedCompositeFieldContainer[ArraySignature]
    def __init__(self, path: _Optional[str] = ..., stablehlo_path: _Optional[str] = ..., weights: _Optional[_Iterable[str]] = ..., tables: _Optional[_Iterable[str]] = ..., inputs: _Optional[_Iterable[_Union[ArraySignature, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[ArraySignature, _Mapping]]] = ...) -> None: ...

class BundleManifest(_message.Message):
    __slots__ = ("format_version", "tower_fingerprint", "model", "user_hash", "item_hash", "author_hash", "compute_dtype", "user_tower", "candidate_tower", "platforms", "jax_version", "stablehlo_version", "created_at", "expires_at", "files", "selftest_tolerance")
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    TOWER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    USER_HASH_FIELD_NUMBER: _ClassVar[int]
    ITEM_HASH_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_HASH_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    USER_TOWER_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_TOWER_FIELD_NUMBER: _ClassVar[int]
    PLATFORMS_FIELD_NUMBER: _ClassVar[int]
    JAX_VERSION_FIELD_NUMBER: _ClassVar[int]
    STABLEHLO_VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    SELFTEST_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    format_version: int
    tower_fingerprint: str
    model: ModelSizes
    user_hash: HashFunctions
    item_hash: HashFunctions
    author_hash: HashFunctions
    compute_dtype: str
    user_tower: Program
    candidate_tower: Program
    platforms: _containers.RepeatedScalarFieldContainer[str]
    jax_version: str
    stablehlo_version: str
    created_at: _timestamp_pb2.Timestamp
    expires_at: _timestamp_pb2.Timestamp
    files: _containers.RepeatedCompositeFieldContainer[File]
    selftest_tolerance: float
    def __init__(self, format_version: _Optional[int] = ..., tower_fingerprint: _Optional[str] = ..., model: _Optional[_Union[ModelSizes, _Mapping]] = ..., user_hash: _Optional[_Union[HashFunctions, _Mapping]] = ..., item_hash: _Optional[_Union[HashFunctions, _Mapping]] = ..., author_hash: _Optional[_Union[HashFunctions, _Mapping]] = ..., compute_dtype: _Optional[str] = ..., user_tower: _Optional[_Union[Program, _Mapping]] = ..., candidate_tower: _Optional[_Union[Program, _Mapping]] = ..., platforms: _Optional[_Iterable[str]] = ..., jax_version: _Optional[str] = ..., stablehlo_version: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., files: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., selftest_tolerance: _Optional[float] = ...) -> None: ...

class CorpusManifest(_message.Message):
    __slots__ = ("format_version", "tower_fingerprint", "rows", "embedding_size", "dtype", "label_names", "created_at", "files", "sequence", "built_as")
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    TOWER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_SIZE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    LABEL_NAMES_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    BUILT_AS_FIELD_NUMBER: _ClassVar[int]
    format_version: int
    tower_fingerprint: str
    rows: int
    embedding_size: int
    dtype: str
    label_names: _containers.RepeatedScalarFieldContainer[str]
    created_at: _timestamp_pb2.Timestamp
    files: _containers.RepeatedCompositeFieldContainer[File]
    sequence: int
    built_as: str
    def __init__(self, format_version: _Optional[int] = ..., tower_fingerprint: _Optional[str] = ..., rows: _Optional[int] = ..., embedding_size: _Optional[int] = ..., dtype: _Optional[str] = ..., label_names: _Optional[_Iterable[str]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., files: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., sequence: _Optional[int] = ..., built_as: _Optional[str] = ...) -> None: ...
