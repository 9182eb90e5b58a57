"""Commands reach the update worker in order, and changes in groups."""

import threading
from typing import Any

import numpy as np
import pytest

from phoenix_server.corpus.updates.command_queue import CommandQueue
from phoenix_server.corpus.updates.commands import PendingChange, SnapshotCommand
from phoenix_server.errors import NotReadyError, OverloadedError


def change(posts: int = 1) -> PendingChange:
    return PendingChange(np.arange(1, posts + 1, dtype=np.uint64))


@pytest.fixture
def queue() -> CommandQueue:
    return CommandQueue()


def take(queue: CommandQueue) -> Any:
    return queue.take(until_empty=True)


def test_consecutive_changes_are_taken_together_and_other_commands_alone(
    queue: CommandQueue,
) -> None:
    first, second, snapshot, third = change(), change(), SnapshotCommand(), change()
    for command in (first, second, snapshot, third):
        queue.put(command)
    assert take(queue) == [first, second]
    assert take(queue) is snapshot
    assert take(queue) == [third]


def test_a_group_ends_with_the_change_that_reaches_8192_posts(queue: CommandQueue) -> None:
    changes = [change(4096), change(4095), change(4096), change(1)]
    for each in changes:
        queue.put(each)
    assert take(queue) == changes[:3]
    assert take(queue) == changes[3:]


def test_more_than_65536_pending_posts_are_refused_until_some_are_taken(
    queue: CommandQueue,
) -> None:
    queue.put(change(60_000))
    with pytest.raises(OverloadedError, match="60000 posts are waiting to be written") as caught:
        queue.put(change(5_537))
    assert (caught.value.retry_after_s or 0) > 0
    queue.put(change(5_536))
    take(queue)
    take(queue)
    queue.put(change(100_000))  # one change always fits


def test_a_closed_queue_refuses_commands_and_ends_when_it_is_empty(queue: CommandQueue) -> None:
    pending = change()
    queue.put(pending)
    queue.close()
    for command in (change(), SnapshotCommand()):
        with pytest.raises(NotReadyError, match="shutting down"):
            queue.put(command)
    assert take(queue) == [pending]
    assert take(queue) is None


def test_a_closed_queue_still_takes_what_became_of_a_snapshot(queue: CommandQueue) -> None:
    queue.close()
    finished: Any = object()
    taken: list[Any] = []
    worker = threading.Thread(target=lambda: taken.append(queue.take(until_empty=False)))
    worker.start()
    queue.put_finished(finished)
    worker.join(30)
    assert taken == [finished]
