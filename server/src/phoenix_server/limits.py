"""The largest requests that are taken."""

from dataclasses import dataclass

MOST_REQUEST_BYTES = (2**31 - 1) // 4  # gRPC's own limit, 4 times ours, is a signed 32-bit number


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest requests that are taken.

    Attributes:
        max_batch_users: Requests of a batch.
        max_candidates: Posts to encode or score in one call.
        max_excluded: Posts and authors that a request may exclude.
        max_request_bytes: Size of a request.
    """

    max_batch_users: int = 256
    max_candidates: int = 4096
    max_excluded: int = 1 << 15
    max_request_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        if min(self.max_batch_users, self.max_candidates, self.max_excluded) < 1:
            raise ValueError("max_batch_users, max_candidates, max_excluded: at least one of each")
        if not 1 <= self.max_request_bytes <= MOST_REQUEST_BYTES:
            raise ValueError(f"max_request_bytes: must be from 1 to {MOST_REQUEST_BYTES}")
