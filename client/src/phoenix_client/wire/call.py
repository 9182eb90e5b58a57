"""A call as a value, which the sync and the async client send alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

Result = TypeVar("Result")


class Call(NamedTuple, Generic[Result]):
    """A unary call.

    Attributes:
        rpc: The name of the RPC; no two services have RPCs of the same name.
        request: The request.
        read: Turns the reply into the result.
    """

    rpc: str
    request: Message
    read: Callable[[Any], Result]
