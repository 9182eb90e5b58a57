"""Generations that are loaded, activated and rolled back to while the server answers."""

import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from integration.generation_cases import assert_exact, refusal, retrieve, serve
from integration.wire import Stubs
from phoenix_retrieval.v1 import model_service_pb2 as pb
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from phoenix_server.config import QueueConfig, ServeConfig
from phoenix_server.corpus.disk.store import Store
from phoenix_server.engine.engine import Engine
from phoenix_server.generations.generation import Generation
from phoenix_server.runtime.program_cache import ProgramCache


def test_other_weights_answer_over_all_changes_and_compile_nothing(
    served: Stubs, others: list[Path], posts: list[int]
) -> None:
    served.upsert(1, 2, 3)
    before = retrieve(served)
    assert_exact(served, [*posts, 1, 2, 3], before)
    answered = served.stats().answered
    loaded = served.load(bundle=str(others[0]))
    assert (loaded.number, loaded.state, loaded.sequence) == (2, pb.GENERATION_STATE_READY, 1)
    assert retrieve(served) == before  # the first one is still active
    served.upsert(4)  # after it was loaded
    active = served.activate(2)
    assert (active.state, active.sequence) == (pb.GENERATION_STATE_ACTIVE, 2)
    served.upsert(5)
    after = retrieve(served)
    assert after.generation == active.generation != before.generation
    assert after.user_representation != before.user_representation
    assert_exact(served, [*posts, 1, 2, 3, 4, 5], after)
    stats = served.stats()
    assert stats.compilations_after_ready == 0
    assert stats.answered > answered  # those of the first one are among them


def test_a_rollback_has_all_changes(served: Stubs, others: list[Path], posts: list[int]) -> None:
    first = retrieve(served)
    served.load(bundle=str(others[0]), activate=True)
    served.upsert(1)
    served.snapshot()  # the journal is empty then
    served.upsert(2)
    assert served.generations()[1].previous
    back = served.roll_back()
    assert (back.number, back.sequence) == (1, 2)
    hits = served.stats().user_cache_hits
    again = retrieve(served)
    assert again.generation == first.generation
    assert again.user_representation == first.user_representation
    assert served.stats().user_cache_hits == hits + 1  # the first generation's is still there
    assert_exact(served, [*posts, 1, 2], again)
    assert served.roll_back().number == 2
    assert_exact(served, [*posts, 1, 2])


def test_two_generations_are_kept(served: Stubs, others: list[Path]) -> None:
    served.load(bundle=str(others[0]), activate=True)
    served.load(bundle=str(others[1]), activate=True)
    assert list(served.generations()) == [2, 3]
    assert refusal(lambda: served.activate(1))[0] == grpc.StatusCode.NOT_FOUND
    assert served.roll_back().number == 2


class Census:
    """A count of the engines in memory, which one can wait for."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()  # reentrant: an engine may go in any thread

    def add(self, engine: Engine) -> None:
        """Count an engine until it is garbage."""
        with self._changed:
            self._count += 1
        weakref.finalize(engine, self._remove)

    def await_count(self, count: int) -> None:
        """Wait until there are so many."""
        with self._changed:
            self._changed.wait_for(lambda: self._count == count)

    def _remove(self) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()


@pytest.fixture
def census(monkeypatch: pytest.MonkeyPatch) -> Census:
    """Return a count of the engines of servers that start from now on."""
    census = Census()

    attach = Generation.attach

    def counted(generation: Generation, engine: Engine, store: Store, queue: QueueConfig) -> None:
        census.add(engine)
        attach(generation, engine, store, queue)

    monkeypatch.setattr(Generation, "attach", counted)
    return census


def test_a_generation_that_is_not_kept_leaves_memory_and_threads_keep_their_priority(
    census: Census, config: ServeConfig, others: list[Path]
) -> None:
    with serve(config, programs=ProgramCache()) as served:  # programs that are not kept
        before = os.getpriority(os.PRIO_PROCESS, 0)
        for bundle in (*others, *others):
            retrieve(served)
            served.load(bundle=str(bundle), activate=True)
            assert len(served.generations()) == 2
            census.await_count(2)
        assert served.stats().answered >= 4
        threads = [each for each in threading.enumerate() if each.name in ("device", "preparation")]
        assert threads
        for thread in threads:
            assert thread.native_id is not None
            assert os.getpriority(os.PRIO_PROCESS, thread.native_id) == before


def test_a_generation_that_misses_changes_is_not_activated(
    served: Stubs, others: list[Path], posts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    served.load(bundle=str(others[0]), activate=True)
    served.upsert(1)

    def fail(generation: Generation) -> None:
        raise MemoryError("no room on the device")

    with monkeypatch.context() as patch:
        patch.setattr(Generation, "catch_up", fail)
        served.snapshot()  # trims the journal
    assert refusal(served.roll_back)[0] == grpc.StatusCode.FAILED_PRECONDITION
    assert served.upsert(2).sequence == 2
    assert_exact(served, [*posts, 1, 2])


def test_no_call_fails_while_generations_change(served: Stubs, others: list[Path]) -> None:
    names = {retrieve(served).generation}
    stop = threading.Event()
    answers: list[retrieval_pb.RetrieveResponse] = []
    sequences: list[int] = []
    errors: list[Exception] = []

    def repeat(call: Callable[[int], None]) -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                call(number)
        except Exception as exc:
            errors.append(exc)

    def write(number: int) -> None:
        sequence = served.upsert(number).sequence
        answer = retrieve(served, min_sequence=sequence)
        assert answer.sequence >= sequence
        sequences.append(sequence)

    threads = [
        threading.Thread(target=repeat, args=(lambda _: answers.append(retrieve(served, 5)),)),
        threading.Thread(target=repeat, args=(write,)),
    ]
    for thread in threads:
        thread.start()
    try:
        names.add(served.load(bundle=str(others[0]), activate=True).generation)
        served.snapshot()
        served.roll_back()
        names.add(served.load(bundle=str(others[1]), activate=True).generation)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors
    assert len(names) == 3
    assert {answer.generation for answer in answers} <= names
    assert sequences == list(range(1, len(sequences) + 1))
    assert not served.missing(*range(1, len(sequences) + 1))
