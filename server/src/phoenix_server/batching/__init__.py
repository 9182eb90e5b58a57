"""The request queue before the device: admission by deadline, batches, and the device thread.

Threads: the event loop admits requests and resolves their futures (`Batcher`); the device thread
runs batches and the preparation thread prepares the next one (`Executor`). They share the state of
`Scheduler` under its lock. "workers" below are the device and the preparation thread.

States of a request:

    from           to            when                                  where              thread
    (arrival)      refused_full  the queue holds `max_waiting`         Scheduler.admit    loop
    (arrival)      refused_late  it or another would be late           Scheduler.admit    loop
    (arrival)      refused_late  it would be, as the last one was      .check_room        loop
    (arrival)      waiting       otherwise; counted as accepted        Scheduler.admit    loop
    waiting        prepared      its batch forms                       Scheduler._form    workers
    waiting        expired       its deadline has passed               Scheduler._form    workers
    waiting        dropped_late  no batch can meet its deadline        Scheduler._form    workers
    prepared       on device     its batch is launched                 Scheduler.start    device
    prepared       expired       its deadline has passed               Scheduler.start    device
    on device      answered      it has a result                       Batcher._resolve   loop
    on device      failed        it failed, alone too                  Batcher._resolve   loop
    any of these   cancelled     the caller left before the deadline   Scheduler.abandon  loop
    waiting        expired       the caller left at the deadline       Scheduler.abandon  loop
    prepared       expired       the caller left at the deadline       Scheduler.abandon  loop
    on device      overrun       the caller left at the deadline       Scheduler.abandon  loop

"At the deadline" starts `QueueConfig.reply_margin_s` before it. A request that leaves a prepared
batch has the batch prepared again without it. One that leaves on the device stays in its batch, and
its result is discarded. A batch that fails runs again query by query; only the queries that fail
alone are `failed`.
"""
