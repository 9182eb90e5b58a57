"""Counts and estimates of the request queue."""

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, kw_only=True)
class QueueStats:
    """The queue now, and counts since it was created. A request is a query or a call.

    Every request that arrives is accepted, refused_full or refused_late. Every accepted request is
    in one of the other states (the docstring of `batching` has their table):

        accepted = waiting + prepared + on_device
                   + answered + failed + cancelled + expired + overrun + dropped_late

    This is exact while the device is idle. A request that is abandoned stays in `prepared` or
    `on_device` until its batch starts or ends; a result on its way to the event loop is in none.

    Attributes:
        waiting: Requests in the queue.
        prepared: Requests of the batch that waits for the device.
        on_device: Requests of the batch on the device.
        accepted: Requests admitted to the queue.
        answered: Requests that got their results.
        refused_full: Requests refused at arrival because the queue was full.
        refused_late: Requests refused at arrival because they or others would have been late.
        dropped_late: Accepted requests refused later because their deadlines could not be met.
        expired: Requests whose deadlines passed before they reached the device.
        overrun: Requests whose deadlines passed while they were on the device.
        cancelled: Requests that their callers cancelled.
        failed: Requests that failed.
        batches: Batches of queries that ran on the device.
        batched_users: Queries in those batches.
        device_s: Time that the device was busy, in seconds.
        slowness: Recent device time of queries / cost as measured at start-up.
        forecast_deviation: Mean of |device time / forecast - 1|.
        reply_s: Recent time from the end of a batch to its replies, in seconds.
        uptime_s: Time since the queue was created, in seconds.
        compilations_after_ready: Programs compiled since then while a caller waited.
        user_cache_hits: Users who were in the user cache when they were asked for.
        user_cache_misses: Users who were not, and were encoded; 0 without a cache.
        user_cache_users: Users in the cache, which queues share.
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
    user_cache_hits: int = 0
    user_cache_misses: int = 0
    user_cache_users: int = 0


_NOT_ADDED = {
    *("slowness", "forecast_deviation", "reply_s", "uptime_s"),
    *("compilations_after_ready", "user_cache_users"),
}


def add_stats(current: QueueStats, other: QueueStats) -> QueueStats:
    """Add the counts of another queue to the current queue's; the rest is the current's."""
    counts = (field.name for field in fields(QueueStats) if field.name not in _NOT_ADDED)
    return replace(
        current,
        # Each queue counts the compilations of the whole process.
        compilations_after_ready=max(each.compilations_after_ready for each in (current, other)),
        **{name: getattr(current, name) + getattr(other, name) for name in counts},
    )
