import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UpsertPostsRequest(_message.Message):
    __slots__ = ("post_ids", "author_ids", "created_at_unix_ms", "label_names", "label_counts", "label_indices", "vectors")
    POST_IDS_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_IDS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    LABEL_NAMES_FIELD_NUMBER: _ClassVar[int]
    LABEL_COUNTS_FIELD_NUMBER: _ClassVar[int]
    LABEL_INDICES_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    post_ids: _containers.RepeatedScalarFieldContainer[int]
    author_ids: _containers.RepeatedScalarFieldContainer[int]
    created_at_unix_ms: _containers.RepeatedScalarFieldContainer[int]
    label_names: _containers.RepeatedScalarFieldContainer[str]
    label_counts: _containers.RepeatedScalarFieldContainer[int]
    label_indices: _containers.RepeatedScalarFieldContainer[int]
    vectors: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, post_ids: _Optional[_Iterable[int]] = ..., author_ids: _Optional[_Iterable[int]] = ..., created_at_unix_ms: _Optional[_Iterable[int]] = ..., label_names: _Optional[_Iterable[str]] = ..., label_counts: _Optional[_Iterable[int]] = ..., label_indices: _Optional[_Iterable[int]] = ..., vectors: _Optional[_Iterable[float]] = ...) -> None: ...

class UpsertPostsResponse(_message.Message):
    __slots__ = ("sequence", "inserted", "replaced", "evicted")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    INSERTED_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    EVICTED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    inserted: int
    replaced: int
    evicted: int
    def __init__(self, sequence: _Optional[int] = ..., inserted: _Optional[int] = ..., replaced: _Optional[int] = ..., evicted: _Optional[int] = ...) -> None: ...

class StreamUpsertPostsRequest(_message.Message):
    __slots__ = ("change",)
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    change: UpsertPostsRequest
    def __init__(self, change: _Optional[_Union[UpsertPostsRequest, _Mapping]] = ...) -> None: ...

class StreamUpsertPostsResponse(_message.Message):
    __slots__ = ("sequence", "inserted", "replaced", "evicted")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    INSERTED_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    EVICTED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    inserted: int
    replaced: int
    evicted: int
    def __init__(self, sequence: _Optional[int] = ..., inserted: _Optional[int] = ..., replaced: _Optional[int] = ..., evicted: _Optional[int] = ...) -> None: ...

class DeletePostsRequest(_message.Message):
    __slots__ = ("post_ids",)
    POST_IDS_FIELD_NUMBER: _ClassVar[int]
    post_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, post_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class DeletePostsResponse(_message.Message):
    __slots__ = ("sequence", "deleted")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    deleted: int
    def __init__(self, sequence: _Optional[int] = ..., deleted: _Optional[int] = ...) -> None: ...

class GetPostsRequest(_message.Message):
    __slots__ = ("post_ids",)
    POST_IDS_FIELD_NUMBER: _ClassVar[int]
    post_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, post_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class GetPostsResponse(_message.Message):
    __slots__ = ("post_ids", "author_ids", "created_at_unix_ms", "label_names", "label_counts", "label_indices", "missing_post_ids", "sequence")
    POST_IDS_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_IDS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    LABEL_NAMES_FIELD_NUMBER: _ClassVar[int]
    LABEL_COUNTS_FIELD_NUMBER: _ClassVar[int]
    LABEL_INDICES_FIELD_NUMBER: _ClassVar[int]
    MISSING_POST_IDS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    post_ids: _containers.RepeatedScalarFieldContainer[int]
    author_ids: _containers.RepeatedScalarFieldContainer[int]
    created_at_unix_ms: _containers.RepeatedScalarFieldContainer[int]
    label_names: _containers.RepeatedScalarFieldContainer[str]
    label_counts: _containers.RepeatedScalarFieldContainer[int]
    label_indices: _containers.RepeatedScalarFieldContainer[int]
    missing_post_ids: _containers.RepeatedScalarFieldContainer[int]
    sequence: int
    def __init__(self, post_ids: _Optional[_Iterable[int]] = ..., author_ids: _Optional[_Iterable[int]] = ..., created_at_unix_ms: _Optional[_Iterable[int]] = ..., label_names: _Optional[_Iterable[str]] = ..., label_counts: _Optional[_Iterable[int]] = ..., label_indices: _Optional[_Iterable[int]] = ..., missing_post_ids: _Optional[_Iterable[int]] = ..., sequence: _Optional[int] = ...) -> None: ...

class GetCorpusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCorpusResponse(_message.Message):
    __slots__ = ("rows", "capacity", "label_names", "max_labels", "sequence", "snapshot_sequence", "journal_posts", "newest_created_at_unix_ms", "read_only", "evict_oldest")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    LABEL_NAMES_FIELD_NUMBER: _ClassVar[int]
    MAX_LABELS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_POSTS_FIELD_NUMBER: _ClassVar[int]
    NEWEST_CREATED_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    EVICT_OLDEST_FIELD_NUMBER: _ClassVar[int]
    rows: int
    capacity: int
    label_names: _containers.RepeatedScalarFieldContainer[str]
    max_labels: int
    sequence: int
    snapshot_sequence: int
    journal_posts: int
    newest_created_at_unix_ms: int
    read_only: bool
    evict_oldest: bool
    def __init__(self, rows: _Optional[int] = ..., capacity: _Optional[int] = ..., label_names: _Optional[_Iterable[str]] = ..., max_labels: _Optional[int] = ..., sequence: _Optional[int] = ..., snapshot_sequence: _Optional[int] = ..., journal_posts: _Optional[int] = ..., newest_created_at_unix_ms: _Optional[int] = ..., read_only: _Optional[bool] = ..., evict_oldest: _Optional[bool] = ...) -> None: ...

class CreateSnapshotRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CreateSnapshotResponse(_message.Message):
    __slots__ = ("snapshot",)
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    snapshot: CorpusSnapshot
    def __init__(self, snapshot: _Optional[_Union[CorpusSnapshot, _Mapping]] = ...) -> None: ...

class ListSnapshotsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSnapshotsResponse(_message.Message):
    __slots__ = ("snapshots",)
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    snapshots: _containers.RepeatedCompositeFieldContainer[CorpusSnapshot]
    def __init__(self, snapshots: _Optional[_Iterable[_Union[CorpusSnapshot, _Mapping]]] = ...) -> None: ...

class CorpusSnapshot(_message.Message):
    __slots__ = ("sequence", "rows", "size_bytes", "created_at", "directory")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    rows: int
    size_bytes: int
    created_at: _timestamp_pb2.Timestamp
    directory: str
    def __init__(self, sequence: _Optional[int] = ..., rows: _Optional[int] = ..., size_bytes: _Optional[int] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., directory: _Optional[str] = ...) -> None: ...
