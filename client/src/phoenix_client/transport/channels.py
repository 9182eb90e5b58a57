"""How to reach the server: channel options, time limits, and the standard health check."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TypeAlias

import grpc
import grpc.aio
from google.protobuf import wrappers_pb2

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
_SERVING = 1

# gRPC may repeat a call that found no server at work: most only read, and to write or delete the
# same posts again changes nothing more. It repeats a stream if its buffer holds all that was sent.
# But loading twice makes two generations, and going back twice is no going back: a server may have
# done either before the connection broke.
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": "phoenix_retrieval.v1.RetrievalService"},
                    {"service": "phoenix_retrieval.v1.ModelService"},
                    {"service": "phoenix_retrieval.v1.CorpusService"},
                ],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            },
            {
                "name": [
                    {"service": "phoenix_retrieval.v1.ModelService", "method": "LoadGeneration"},
                    {
                        "service": "phoenix_retrieval.v1.ModelService",
                        "method": "RollbackGeneration",
                    },
                ],
            },
        ]
    }
)


Options: TypeAlias = Sequence[tuple[str, str | int]]


def channel_options(max_request_bytes: int | None, max_response_bytes: int | None) -> Options:
    """Return the options of a channel; None stands for no limit."""
    return [
        ("grpc.max_send_message_length", -1 if max_request_bytes is None else max_request_bytes),
        (
            "grpc.max_receive_message_length",
            -1 if max_response_bytes is None else max_response_bytes,
        ),
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
    """Return a time limit that is one.

    Raises:
        ValueError: It is not above 0, or infinite.
    """
    if not 0 < timeout_s < math.inf:
        raise ValueError(f"timeout_s: must be above 0 and finite, is {timeout_s}")
    return timeout_s


# The messages of grpc.health.v1 have one field each, number 1: a string in the request, an enum in
# the reply. On the wire they are protobuf's StringValue and Int32Value.


def write_health_request(service: str) -> bytes:
    """Serialise a `grpc.health.v1.HealthCheckRequest`; an empty name asks for the whole server."""
    return wrappers_pb2.StringValue(value=service).SerializeToString()


def read_health_reply(data: bytes) -> bool:
    """Parse a `grpc.health.v1.HealthCheckResponse`: whether its status is SERVING."""
    return wrappers_pb2.Int32Value.FromString(data).value == _SERVING


HEALTH_MESSAGES = (write_health_request, read_health_reply)
"""How both calls of the health check write what they ask and read what they are told."""
