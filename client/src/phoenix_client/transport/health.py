"""The standard health check, for the sync and the async connection."""

from __future__ import annotations

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from phoenix_client.errors import DeadlineExceededError, UnavailableError
from phoenix_client.wire.call import Call

UNREACHABLE = (UnavailableError, DeadlineExceededError)
"""What a health check raises if it reaches no server."""


def health_check(service: str) -> Call[bool]:
    """Return the call that asks whether a service is serving."""
    return Call("Check", HealthCheckRequest(service=service), says_serving)


def says_serving(reply: HealthCheckResponse) -> bool:
    """Return whether a reply of the health check is SERVING."""
    return reply.status == HealthCheckResponse.SERVING


def never_served() -> UnavailableError:
    """Return the exception for a health check that ends before it says SERVING."""
    return UnavailableError("the health check ended before the server was serving")
