from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Action(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTION_UNSPECIFIED: _ClassVar[Action]
    ACTION_FAVORITE: _ClassVar[Action]
    ACTION_INDEX_2: _ClassVar[Action]
    ACTION_INDEX_3: _ClassVar[Action]
    ACTION_REPLY: _ClassVar[Action]
    ACTION_QUOTE: _ClassVar[Action]
    ACTION_REPOST: _ClassVar[Action]
    ACTION_INDEX_7: _ClassVar[Action]
    ACTION_INDEX_8: _ClassVar[Action]
    ACTION_INDEX_9: _ClassVar[Action]
    ACTION_INDEX_10: _ClassVar[Action]
    ACTION_DWELL: _ClassVar[Action]
    ACTION_INDEX_12: _ClassVar[Action]
    ACTION_VIDEO_QUALITY_VIEW: _ClassVar[Action]
    ACTION_INDEX_14: _ClassVar[Action]
    ACTION_INDEX_15: _ClassVar[Action]
    ACTION_INDEX_16: _ClassVar[Action]
    ACTION_INDEX_17: _ClassVar[Action]
    ACTION_INDEX_18: _ClassVar[Action]
ACTION_UNSPECIFIED: Action
ACTION_FAVORITE: Action
ACTION_INDEX_2: Action
ACTION_INDEX_3: Action
ACTION_REPLY: Action
ACTION_QUOTE: Action
ACTION_REPOST: Action
ACTION_INDEX_7: Action
ACTION_INDEX_8: Action
ACTION_INDEX_9: Action
ACTION_INDEX_10: Action
ACTION_DWELL: Action
ACTION_INDEX_12: Action
ACTION_VIDEO_QUALITY_VIEW: Action
ACTION_INDEX_14: Action
ACTION_INDEX_15: Action
ACTION_INDEX_16: Action
ACTION_INDEX_17: Action
ACTION_INDEX_18: Action

class User(_message.Message):
    __slots__ = ("user_id", "post_ids", "author_ids", "action_masks", "product_surfaces")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    POST_IDS_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_IDS_FIELD_NUMBER: _ClassVar[int]
    ACTION_MASKS_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_SURFACES_FIELD_NUMBER: _ClassVar[int]
    user_id: int
    post_ids: _containers.RepeatedScalarFieldContainer[int]
    author_ids: _containers.RepeatedScalarFieldContainer[int]
    action_masks: _containers.RepeatedScalarFieldContainer[int]
    product_surfaces: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, user_id: _Optional[int] = ..., post_ids: _Optional[_Iterable[int]] = ..., author_ids: _Optional[_Iterable[int]] = ..., action_masks: _Optional[_Iterable[int]] = ..., product_surfaces: _Optional[_Iterable[int]] = ...) -> None: ...
