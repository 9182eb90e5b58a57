"""What the queue has done, in numbers."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class QueueStats:
    """The queue now, and counts since it was made. An entry is a query or another call.

    Every entry that comes is accepted or refused; every accepted one is answered, failed,
    cancelled, expired, overrun or dropped, or it still waits, is prepared or on the device.

    Attributes:
        waiting: Entries in the queue.
        prepared: Entries of the batch that waits for the device.
        on_device: Entries that the device works on.
        accepted: Entries that the queue took.
        answered: Entries that were answered.
        refused_full: Entries refused because the queue was full.
        refused_late: Entries refused when they came: they, or others, would have been late.
        dropped_late: Accepted entries refused later, when their deadlines could not be met.
        expired: Entries whose deadlines passed before they reached the device.
        overrun: Entries whose deadlines passed while the device worked on them.
        cancelled: Entries that their callers gave up.
        failed: Entries that failed.
        batches: Batches that the device ran.
        batched_users: Users in them.
        device_s: Time that the device was busy, in seconds.
        slowness: Device time of queries of late, over what was measured at start-up.
        forecast_deviation: How far device time is from its forecast on average, relative to that.
        reply_s: Time of late from a batch's end to its replies, in seconds.
        uptime_s: Time since the queue was made, in seconds.
        compilations_after_ready: Programs compiled since the queue was made, while a caller waited.
    """

    waiting: int = 0
    prepared: int = 0
    on_device: int = 0
    accepted: int = 0
    answered: int = 0
    refused_full: int = 0
    refused_late: int = 0
    dropped_late: int = 0
    expired: int = 0
    overrun: int = 0
    cancelled: int = 0
    failed: int = 0
    batches: int = 0
    batched_users: int = 0
    device_s: float = 0.0
    slowness: float = 1.0
    forecast_deviation: float = 0.0
    reply_s: float = 0.0
    uptime_s: float = 0.0
    compilations_after_ready: int = 0


_COUNTS = (
    "waiting",
    "prepared",
    "on_device",
    "accepted",
    "answered",
    "refused_full",
    "refused_late",
    "dropped_late",
    "expired",
    "overrun",
    "cancelled",
    "failed",
    "batches",
    "batched_users",
    "device_s",
)


def added(current: QueueStats, other: QueueStats) -> QueueStats:
    """Return the numbers of a queue with the counts of another; of late, the first one counts."""
    return replace(
        current,
        # Each counts those of the whole process.
        compilations_after_ready=max(
            current.compilations_after_ready, other.compilations_after_ready
        ),
        **{name: getattr(current, name) + getattr(other, name) for name in _COUNTS},
    )
