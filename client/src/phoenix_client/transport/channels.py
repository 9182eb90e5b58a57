"""The options of channels, and time limits."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TypeAlias

_PACKAGE = "phoenix_retrieval.v1"
_RETRY_POLICY = {
    "maxAttempts": 3,
    "initialBackoff": "0.05s",
    "maxBackoff": "0.5s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
# gRPC repeats a call that is UNAVAILABLE, which is safe: most calls only read, and writing or
# deleting the same posts again changes nothing more. It repeats a stream if its buffer holds all
# that was sent. Loading twice makes two generations, and rolling back twice is no rollback; a
# server may have done either before the connection broke, so those two calls are not repeated.
_SERVICES = ("RetrievalService", "ModelService", "CorpusService")
_NOT_REPEATED = ("LoadGeneration", "RollbackGeneration")
_REPEAT = {"name": [{"service": f"{_PACKAGE}.{name}"} for name in _SERVICES]}
_DO_NOT = {
    "name": [{"service": f"{_PACKAGE}.ModelService", "method": name} for name in _NOT_REPEATED]
}
_SERVICE_CONFIG = json.dumps({"methodConfig": [{**_REPEAT, "retryPolicy": _RETRY_POLICY}, _DO_NOT]})
_LONGEST_S = 1e9

Options: TypeAlias = Sequence[tuple[str, str | int]]


def channel_options(max_request_bytes: int | None, max_response_bytes: int | None) -> Options:
    """Return the options of a channel; None stands for no limit."""
    sent, received = (-1 if n is None else n for n in (max_request_bytes, max_response_bytes))
    return [
        ("grpc.max_send_message_length", sent),
        ("grpc.max_receive_message_length", received),
        ("grpc.service_config", _SERVICE_CONFIG),
    ]


def checked_timeout_s(timeout_s: float) -> float:
    """Return a time limit in seconds: the given one, or 1e9 s (31 years) if that is shorter.

    gRPC counts nanoseconds since 1970 in 64 bits: a deadline after 2262 would lie in the past.

    Raises:
        ValueError: It is not above 0 and finite.
    """
    if not 0 < timeout_s < math.inf:
        raise ValueError(f"timeout_s: must be above 0 and finite, is {timeout_s}")
    return min(timeout_s, _LONGEST_S)
