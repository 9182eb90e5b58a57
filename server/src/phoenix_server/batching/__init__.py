"""The request queue before the device: admission by deadline, batches, and the two threads.

The event loop admits requests (`Batcher`). The device thread runs batches, the preparation thread
prepares the next one (`Executor`). All three share the state of `Scheduler`, under its lock.

States of a request:

| from | to | when | where | on thread |
| --- | --- | --- | --- | --- |
| arrival | refused_full | the queue holds `max_waiting` requests | Scheduler.admit | event loop |
| arrival | refused_late | it or another would miss its deadline | Scheduler.admit | event loop |
| arrival | waiting (accepted) | otherwise | Scheduler.admit | event loop |
| waiting | prepared | its batch forms | Scheduler._form | device, preparation |
| waiting | dropped_late | no batch can meet its deadline any more | Scheduler._form | the same two |
| waiting | expired | its deadline passed before its batch forms | Scheduler._form | the same two |
| prepared | expired | its deadline passed before the launch | Scheduler.start | device |
| prepared | on device | its batch is launched | Scheduler.start | device |
| on device | answered, failed | its result reaches the caller's future | Batcher._resolve | event loop |
| waiting, prepared, on device | cancelled | its caller left before its deadline - \
`reply_margin_s` | Scheduler.abandon | event loop |
| waiting, prepared | expired | its caller left later than that | Scheduler.abandon | event loop |
| on device | overrun | its caller left later than that | Scheduler.abandon | event loop |

A batch that fails runs again query by query; only queries that fail alone are `failed`. A request
that leaves the prepared batch has the batch prepared again without it. A request that is
abandoned on the device stays in its batch; its result is discarded.
"""
