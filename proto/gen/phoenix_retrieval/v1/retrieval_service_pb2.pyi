import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from phoenix_retrieval.v1 import user_pb2 as _user_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RetrieveRequest(_message.Message):
    __slots__ = ("user", "top_k", "return_user_representation", "return_author_ids", "return_labels", "return_created_at", "min_sequence", "filter")
    USER_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    RETURN_USER_REPRESENTATION_FIELD_NUMBER: _ClassVar[int]
    RETURN_AUTHOR_IDS_FIELD_NUMBER: _ClassVar[int]
    RETURN_LABELS_FIELD_NUMBER: _ClassVar[int]
    RETURN_CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    MIN_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    user: _user_pb2.User
    top_k: int
    return_user_representation: bool
    return_author_ids: bool
    return_labels: bool
    return_created_at: bool
    min_sequence: int
    filter: Filter
    def __init__(self, user: _Optional[_Union[_user_pb2.User, _Mapping]] = ..., top_k: _Optional[int] = ..., return_user_representation: _Optional[bool] = ..., return_author_ids: _Optional[bool] = ..., return_labels: _Optional[bool] = ..., return_created_at: _Optional[bool] = ..., min_sequence: _Optional[int] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("created_since_unix_ms", "created_before_unix_ms", "any_labels", "all_labels", "none_labels", "excluded_post_ids", "excluded_author_ids", "min_score")
    CREATED_SINCE_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    CREATED_BEFORE_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    ANY_LABELS_FIELD_NUMBER: _ClassVar[int]
    ALL_LABELS_FIELD_NUMBER: _ClassVar[int]
    NONE_LABELS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_POST_IDS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_AUTHOR_IDS_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    created_since_unix_ms: int
    created_before_unix_ms: int
    any_labels: _containers.RepeatedScalarFieldContainer[str]
    all_labels: _containers.RepeatedScalarFieldContainer[str]
    none_labels: _containers.RepeatedScalarFieldContainer[str]
    excluded_post_ids: _containers.RepeatedScalarFieldContainer[int]
    excluded_author_ids: _containers.RepeatedScalarFieldContainer[int]
    min_score: float
    def __init__(self, created_since_unix_ms: _Optional[int] = ..., created_before_unix_ms: _Optional[int] = ..., any_labels: _Optional[_Iterable[str]] = ..., all_labels: _Optional[_Iterable[str]] = ..., none_labels: _Optional[_Iterable[str]] = ..., excluded_post_ids: _Optional[_Iterable[int]] = ..., excluded_author_ids: _Optional[_Iterable[int]] = ..., min_score: _Optional[float] = ...) -> None: ...

class RetrieveResponse(_message.Message):
    __slots__ = ("generation", "rows_scanned", "rows_eligible", "post_ids", "scores", "author_ids", "created_at_unix_ms", "label_names", "label_counts", "label_indices", "user_representation", "sequence")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ROWS_SCANNED_FIELD_NUMBER: _ClassVar[int]
    ROWS_ELIGIBLE_FIELD_NUMBER: _ClassVar[int]
    POST_IDS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_IDS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    LABEL_NAMES_FIELD_NUMBER: _ClassVar[int]
    LABEL_COUNTS_FIELD_NUMBER: _ClassVar[int]
    LABEL_INDICES_FIELD_NUMBER: _ClassVar[int]
    USER_REPRESENTATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    generation: str
    rows_scanned: int
    rows_eligible: int
    post_ids: _containers.RepeatedScalarFieldContainer[int]
    scores: _containers.RepeatedScalarFieldContainer[float]
    author_ids: _containers.RepeatedScalarFieldContainer[int]
    created_at_unix_ms: _containers.RepeatedScalarFieldContainer[int]
    label_names: _containers.RepeatedScalarFieldContainer[str]
    label_counts: _containers.RepeatedScalarFieldContainer[int]
    label_indices: _containers.RepeatedScalarFieldContainer[int]
    user_representation: _containers.RepeatedScalarFieldContainer[float]
    sequence: int
    def __init__(self, generation: _Optional[str] = ..., rows_scanned: _Optional[int] = ..., rows_eligible: _Optional[int] = ..., post_ids: _Optional[_Iterable[int]] = ..., scores: _Optional[_Iterable[float]] = ..., author_ids: _Optional[_Iterable[int]] = ..., created_at_unix_ms: _Optional[_Iterable[int]] = ..., label_names: _Optional[_Iterable[str]] = ..., label_counts: _Optional[_Iterable[int]] = ..., label_indices: _Optional[_Iterable[int]] = ..., user_representation: _Optional[_Iterable[float]] = ..., sequence: _Optional[int] = ...) -> None: ...

class BatchRetrieveRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[RetrieveRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[RetrieveRequest, _Mapping]]] = ...) -> None: ...

class BatchRetrieveResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RetrieveResult]
    def __init__(self, results: _Optional[_Iterable[_Union[RetrieveResult, _Mapping]]] = ...) -> None: ...

class RetrieveResult(_message.Message):
    __slots__ = ("status", "response")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    status: RequestStatus
    response: RetrieveResponse
    def __init__(self, status: _Optional[_Union[RequestStatus, _Mapping]] = ..., response: _Optional[_Union[RetrieveResponse, _Mapping]] = ...) -> None: ...

class RequestStatus(_message.Message):
    __slots__ = ("code", "message", "field_violations", "retry_delay")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    RETRY_DELAY_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    field_violations: _containers.RepeatedCompositeFieldContainer[FieldViolation]
    retry_delay: _duration_pb2.Duration
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., field_violations: _Optional[_Iterable[_Union[FieldViolation, _Mapping]]] = ..., retry_delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class FieldViolation(_message.Message):
    __slots__ = ("field", "description")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    field: str
    description: str
    def __init__(self, field: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("vectors", "post_ids", "include_query_posts", "top_k", "return_user_representation", "return_author_ids", "return_labels", "return_created_at", "min_sequence", "filter")
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    POST_IDS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_QUERY_POSTS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    RETURN_USER_REPRESENTATION_FIELD_NUMBER: _ClassVar[int]
    RETURN_AUTHOR_IDS_FIELD_NUMBER: _ClassVar[int]
    RETURN_LABELS_FIELD_NUMBER: _ClassVar[int]
    RETURN_CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    MIN_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    vectors: _containers.RepeatedScalarFieldContainer[float]
    post_ids: _containers.RepeatedScalarFieldContainer[int]
    include_query_posts: bool
    top_k: int
    return_user_representation: bool
    return_author_ids: bool
    return_labels: bool
    return_created_at: bool
    min_sequence: int
    filter: Filter
    def __init__(self, vectors: _Optional[_Iterable[float]] = ..., post_ids: _Optional[_Iterable[int]] = ..., include_query_posts: _Optional[bool] = ..., top_k: _Optional[int] = ..., return_user_representation: _Optional[bool] = ..., return_author_ids: _Optional[bool] = ..., return_labels: _Optional[bool] = ..., return_created_at: _Optional[bool] = ..., min_sequence: _Optional[int] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RetrieveResult]
    def __init__(self, results: _Optional[_Iterable[_Union[RetrieveResult, _Mapping]]] = ...) -> None: ...

class EncodeUserRequest(_message.Message):
    __slots__ = ("user",)
    USER_FIELD_NUMBER: _ClassVar[int]
    user: _user_pb2.User
    def __init__(self, user: _Optional[_Union[_user_pb2.User, _Mapping]] = ...) -> None: ...

class EncodeUserResponse(_message.Message):
    __slots__ = ("generation", "user_representation", "user_norm")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    USER_REPRESENTATION_FIELD_NUMBER: _ClassVar[int]
    USER_NORM_FIELD_NUMBER: _ClassVar[int]
    generation: str
    user_representation: _containers.RepeatedScalarFieldContainer[float]
    user_norm: float
    def __init__(self, generation: _Optional[str] = ..., user_representation: _Optional[_Iterable[float]] = ..., user_norm: _Optional[float] = ...) -> None: ...

class EncodeCandidatesRequest(_message.Message):
    __slots__ = ("post_ids", "author_ids")
    POST_IDS_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_IDS_FIELD_NUMBER: _ClassVar[int]
    post_ids: _containers.RepeatedScalarFieldContainer[int]
    author_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, post_ids: _Optional[_Iterable[int]] = ..., author_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class EncodeCandidatesResponse(_message.Message):
    __slots__ = ("generation", "embedding_size", "candidate_representations")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_SIZE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_REPRESENTATIONS_FIELD_NUMBER: _ClassVar[int]
    generation: str
    embedding_size: int
    candidate_representations: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, generation: _Optional[str] = ..., embedding_size: _Optional[int] = ..., candidate_representations: _Optional[_Iterable[float]] = ...) -> None: ...

class ScorePostsRequest(_message.Message):
    __slots__ = ("user", "post_ids")
    USER_FIELD_NUMBER: _ClassVar[int]
    POST_IDS_FIELD_NUMBER: _ClassVar[int]
    user: _user_pb2.User
    post_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, user: _Optional[_Union[_user_pb2.User, _Mapping]] = ..., post_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class ScorePostsResponse(_message.Message):
    __slots__ = ("generation", "rows_scanned", "rows_eligible", "scores", "ranks", "sequence")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ROWS_SCANNED_FIELD_NUMBER: _ClassVar[int]
    ROWS_ELIGIBLE_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    generation: str
    rows_scanned: int
    rows_eligible: int
    scores: _containers.RepeatedScalarFieldContainer[float]
    ranks: _containers.RepeatedScalarFieldContainer[int]
    sequence: int
    def __init__(self, generation: _Optional[str] = ..., rows_scanned: _Optional[int] = ..., rows_eligible: _Optional[int] = ..., scores: _Optional[_Iterable[float]] = ..., ranks: _Optional[_Iterable[int]] = ..., sequence: _Optional[int] = ...) -> None: ...
