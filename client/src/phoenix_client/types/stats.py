"""Statistics of the request queue and the device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ServingStats:
    """The current state of the request queue, and counts since the server became ready.

    A request is one unit of work for the device: a user to retrieve for or to encode (each query of
    a batch counts), the candidates of one call, or the posts of one call to score. Every request is
    accepted or rejected at once. Every accepted one ends as answered, failed, cancelled, expired,
    overrun or dropped.

    Attributes:
        waiting: Requests in the queue.
        prepared: Requests of the batch that is prepared while the device runs another.
        on_device: Requests of the batch on the device.
        accepted: Requests that the queue has accepted.
        answered: Requests that were answered.
        refused_full: Requests rejected because the queue was full.
        refused_late: Requests rejected because they, or others, would have missed their deadlines.
        dropped_late: Accepted requests rejected later, when the device took longer than forecast.
        expired: Requests whose deadlines passed before they reached the device.
        overrun: Requests whose deadlines passed while the device worked on them.
        cancelled: Requests that their callers cancelled before their deadlines.
        failed: Requests that failed on the device.
        batches: Batches of users that the device ran.
        batched_users: Users in those batches.
        device_s: Time that the device was busy, in seconds.
        uptime_s: Time since the server became ready, in seconds.
        slowness: Time of batches on the device, divided by the time measured at start-up.
        forecast_deviation: Mean relative deviation of that time from its forecast.
        reply_s: Time from the end of a batch on the device to its replies, in seconds.
        compilations_after_ready: Programs compiled while a caller waited; should be 0.
        user_cache_hits: Users who were in the server's user cache: no user tower ran for them.
        user_cache_misses: Users who were not; 0 if the server has no such cache.
        user_cache_users: Users in that cache.
    """

    waiting: int
    prepared: int
    on_device: int
    accepted: int
    answered: int
    refused_full: int
    refused_late: int
    dropped_late: int
    expired: int
    overrun: int
    cancelled: int
    failed: int
    batches: int
    batched_users: int
    device_s: float
    uptime_s: float
    slowness: float
    forecast_deviation: float
    reply_s: float
    compilations_after_ready: int
    user_cache_hits: int
    user_cache_misses: int
    user_cache_users: int
