"""The queue's limits."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class QueueConfig:
    """The queue's limits.

    Attributes:
        max_waiting: Most entries that wait; further ones are refused.
        default_timeout_s: Calls without a deadline queue as if they had this one, in seconds.
        reply_margin_s: Time kept for a reply to reach its caller, besides what is measured.
    """

    max_waiting: int = 1024
    default_timeout_s: float = 10.0
    reply_margin_s: float = 0.005

    def __post_init__(self) -> None:
        if self.max_waiting < 1:
            raise ValueError(f"max_waiting: {self.max_waiting} is not positive")
        if not self.default_timeout_s > 0:
            raise ValueError(f"default_timeout_s: {self.default_timeout_s} is not positive")
        if not self.reply_margin_s >= 0:
            raise ValueError(f"reply_margin_s: {self.reply_margin_s} is negative")
