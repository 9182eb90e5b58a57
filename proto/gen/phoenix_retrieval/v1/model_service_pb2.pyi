from phoenix_retrieval.v1 import manifest_pb2 as _manifest_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GenerationState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GENERATION_STATE_UNSPECIFIED: _ClassVar[GenerationState]
    GENERATION_STATE_LOADING: _ClassVar[GenerationState]
    GENERATION_STATE_READY: _ClassVar[GenerationState]
    GENERATION_STATE_ACTIVE: _ClassVar[GenerationState]
    GENERATION_STATE_FAILED: _ClassVar[GenerationState]
GENERATION_STATE_UNSPECIFIED: GenerationState
GENERATION_STATE_LOADING: GenerationState
GENERATION_STATE_READY: GenerationState
GENERATION_STATE_ACTIVE: GenerationState
GENERATION_STATE_FAILED: GenerationState

class GetModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("generation", "bundle", "corpus", "corpus_rows", "shards", "devices", "max_top_k", "max_batch_users", "max_candidates", "max_request_bytes", "max_excluded", "max_history", "server_version", "search", "search_lack")
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
    MAX_EXCLUDED_FIELD_NUMBER: _ClassVar[int]
    MAX_HISTORY_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    SEARCH_LACK_FIELD_NUMBER: _ClassVar[int]
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
    max_excluded: int
    max_history: int
    server_version: str
    search: str
    search_lack: str
    def __init__(self, generation: _Optional[str] = ..., bundle: _Optional[_Union[_manifest_pb2.BundleManifest, _Mapping]] = ..., corpus: _Optional[_Union[_manifest_pb2.CorpusManifest, _Mapping]] = ..., corpus_rows: _Optional[int] = ..., shards: _Optional[int] = ..., devices: _Optional[_Iterable[str]] = ..., max_top_k: _Optional[int] = ..., max_batch_users: _Optional[int] = ..., max_candidates: _Optional[int] = ..., max_request_bytes: _Optional[int] = ..., max_excluded: _Optional[int] = ..., max_history: _Optional[int] = ..., server_version: _Optional[str] = ..., search: _Optional[str] = ..., search_lack: _Optional[str] = ...) -> None: ...

class GetServingStatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServingStatsResponse(_message.Message):
    __slots__ = ("waiting", "prepared", "on_device", "accepted", "answered", "refused_full", "refused_late", "dropped_late", "expired", "overrun", "cancelled", "failed", "batches", "batched_users", "device_s", "uptime_s", "slowness", "forecast_deviation", "reply_s", "compilations_after_ready", "user_cache_hits", "user_cache_misses", "user_cache_users")
    WAITING_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    ON_DEVICE_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FULL_FIELD_NUMBER: _ClassVar[int]
    REFUSED_LATE_FIELD_NUMBER: _ClassVar[int]
    DROPPED_LATE_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    OVERRUN_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    BATCHED_USERS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_S_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    SLOWNESS_FIELD_NUMBER: _ClassVar[int]
    FORECAST_DEVIATION_FIELD_NUMBER: _ClassVar[int]
    REPLY_S_FIELD_NUMBER: _ClassVar[int]
    COMPILATIONS_AFTER_READY_FIELD_NUMBER: _ClassVar[int]
    USER_CACHE_HITS_FIELD_NUMBER: _ClassVar[int]
    USER_CACHE_MISSES_FIELD_NUMBER: _ClassVar[int]
    USER_CACHE_USERS_FIELD_NUMBER: _ClassVar[int]
    waiting: int
    prepared: int
    on_device: int
    accepted: int
    answered: int
    refused_full: int
    refused_late: int
    dropped_late: int
    expired: int
    overrun: int
    cancelled: int
    failed: int
    batches: int
    batched_users: int
    device_s: float
    uptime_s: float
    slowness: float
    forecast_deviation: float
    reply_s: float
    compilations_after_ready: int
    user_cache_hits: int
    user_cache_misses: int
    user_cache_users: int
    def __init__(self, waiting: _Optional[int] = ..., prepared: _Optional[int] = ..., on_device: _Optional[int] = ..., accepted: _Optional[int] = ..., answered: _Optional[int] = ..., refused_full: _Optional[int] = ..., refused_late: _Optional[int] = ..., dropped_late: _Optional[int] = ..., expired: _Optional[int] = ..., overrun: _Optional[int] = ..., cancelled: _Optional[int] = ..., failed: _Optional[int] = ..., batches: _Optional[int] = ..., batched_users: _Optional[int] = ..., device_s: _Optional[float] = ..., uptime_s: _Optional[float] = ..., slowness: _Optional[float] = ..., forecast_deviation: _Optional[float] = ..., reply_s: _Optional[float] = ..., compilations_after_ready: _Optional[int] = ..., user_cache_hits: _Optional[int] = ..., user_cache_misses: _Optional[int] = ..., user_cache_users: _Optional[int] = ...) -> None: ...

class Generation(_message.Message):
    __slots__ = ("number", "state", "generation", "bundle", "corpus", "tower_fingerprint", "corpus_rows", "sequence", "previous", "reason")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    CORPUS_FIELD_NUMBER: _ClassVar[int]
    TOWER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    CORPUS_ROWS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    number: int
    state: GenerationState
    generation: str
    bundle: str
    corpus: str
    tower_fingerprint: str
    corpus_rows: int
    sequence: int
    previous: bool
    reason: str
    def __init__(self, number: _Optional[int] = ..., state: _Optional[_Union[GenerationState, str]] = ..., generation: _Optional[str] = ..., bundle: _Optional[str] = ..., corpus: _Optional[str] = ..., tower_fingerprint: _Optional[str] = ..., corpus_rows: _Optional[int] = ..., sequence: _Optional[int] = ..., previous: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class LoadGenerationRequest(_message.Message):
    __slots__ = ("bundle", "corpus", "activate")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    CORPUS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATE_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    corpus: str
    activate: bool
    def __init__(self, bundle: _Optional[str] = ..., corpus: _Optional[str] = ..., activate: _Optional[bool] = ...) -> None: ...

class LoadGenerationResponse(_message.Message):
    __slots__ = ("generation",)
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: Generation
    def __init__(self, generation: _Optional[_Union[Generation, _Mapping]] = ...) -> None: ...

class ActivateGenerationRequest(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class ActivateGenerationResponse(_message.Message):
    __slots__ = ("generation",)
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: Generation
    def __init__(self, generation: _Optional[_Union[Generation, _Mapping]] = ...) -> None: ...

class RollbackGenerationRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RollbackGenerationResponse(_message.Message):
    __slots__ = ("generation",)
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: Generation
    def __init__(self, generation: _Optional[_Union[Generation, _Mapping]] = ...) -> None: ...

class ListGenerationsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListGenerationsResponse(_message.Message):
    __slots__ = ("generations",)
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    generations: _containers.RepeatedCompositeFieldContainer[Generation]
    def __init__(self, generations: _Optional[_Iterable[_Union[Generation, _Mapping]]] = ...) -> None: ...
