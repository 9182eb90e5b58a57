"""How to reach the server: channels, their options, and time limits."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TypeAlias

import grpc
import grpc.aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
HEALTH_MESSAGES = (HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString)
"""How both methods of the health service write a request and read a reply."""

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
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": f"{_PACKAGE}.{service}"}
                    for service in ("RetrievalService", "ModelService", "CorpusService")
                ],
                "retryPolicy": _RETRY_POLICY,
            },
            {
                "name": [
                    {"service": f"{_PACKAGE}.ModelService", "method": method}
                    for method in ("LoadGeneration", "RollbackGeneration")
                ]
            },
        ]
    }
)

Options: TypeAlias = Sequence[tuple[str, str | int]]


def channel_options(max_request_bytes: int | None, max_response_bytes: int | None) -> Options:
    """Return the options of a channel; None stands for no limit."""
    sent, received = (-1 if n is None else n for n in (max_request_bytes, max_response_bytes))
    return [
        ("grpc.max_send_message_length", sent),
        ("grpc.max_receive_message_length", received),
        ("grpc.service_config", _SERVICE_CONFIG),
    ]


def open_channel(
    target: str, credentials: grpc.ChannelCredentials | None, options: Options
) -> grpc.Channel:
    """Return a channel, encrypted if there are credentials."""
    if credentials is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, credentials, options)


def open_async_channel(
    target: str, credentials: grpc.ChannelCredentials | None, options: Options
) -> grpc.aio.Channel:
    """Return a channel for the running event loop, encrypted if there are credentials."""
    if credentials is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, credentials, options)


def checked_timeout_s(timeout_s: float) -> float:
    """Return a time limit, checked to be above 0 and finite.

    Raises:
        ValueError: It is not.
    """
    if not 0 < timeout_s < math.inf:
        raise ValueError(f"timeout_s: must be above 0 and finite, is {timeout_s}")
    return timeout_s
