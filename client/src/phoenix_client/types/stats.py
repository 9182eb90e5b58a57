"""How busy the server is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ServingStats:
    """The queue before the device now, and counts since the server began to answer.

    An entry is what the device works on for one caller: a user to retrieve for or to encode (each
    query of a batch counts), the candidates of one call, or the posts of one call to score. Every
    entry that comes is accepted, or refused at once. Every accepted one ends as answered, failed,
    cancelled, expired, overrun or dropped.

    Attributes:
        waiting: Entries that wait in the queue.
        prepared: Entries of the batch that is prepared while the device works on another.
        on_device: Entries that the device works on.
        accepted: Entries that the queue has taken.
        answered: Entries that were answered.
        refused_full: Entries refused because the queue was full.
        refused_late: Entries refused because they, or others, would have been late.
        dropped_late: Accepted entries refused later, when the device took longer than was foreseen.
        expired: Entries whose deadlines passed before they reached the device.
        overrun: Entries whose deadlines passed while the device worked on them.
        cancelled: Entries that their callers gave up before their deadlines.
        failed: Entries that failed on the device.
        batches: Batches of users that the device ran.
        batched_users: Users in those batches.
        device_s: Time that the device was busy, in seconds.
        uptime_s: Time since the server began to answer, in seconds.
        slowness: Time that batches take on the device, over what was measured at start-up.
        forecast_deviation: How far that time is from its forecast on average, relative to that.
        reply_s: Time from the end of a batch on the device to its replies, in seconds.
        compilations_after_ready: Programs compiled while a caller waited; 0 as it should be.
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
