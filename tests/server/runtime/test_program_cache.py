"""Programs are compiled and timed once for all handles of a cache."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from phoenix_server.runtime.program_cache import ProgramCache, device_seconds


def test_a_program_is_compiled_once_however_many_ask_at_once() -> None:
    programs = ProgramCache()
    compiled: list[str] = []
    started, release = threading.Event(), threading.Event()

    def compile_slowly() -> str:
        started.set()
        release.wait()
        compiled.append("slow")
        return "program"

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(programs.get, "key", compile_slowly) for _ in range(3)]
        started.wait()
        # A request for another program does not wait for it.
        assert pool.submit(programs.get, "other", lambda: "another").result() == "another"
        release.set()
        assert [each.result() for each in asked] == ["program"] * 3
    assert compiled == ["slow"]


def test_a_program_that_fails_to_compile_is_compiled_again() -> None:
    programs = ProgramCache()

    def fail() -> str:
        raise MemoryError

    for _ in range(2):
        try:
            programs.get("key", fail)
        except MemoryError:
            continue
        raise AssertionError("it was not compiled")
    assert programs.get("key", lambda: "program") == "program"


def test_a_program_lives_while_a_handle_that_requested_it_lives() -> None:
    programs = ProgramCache()
    compiled: list[str] = []

    def compile_one() -> str:
        compiled.append("again")
        return "program"

    first, second = ProgramCache(beside=programs), ProgramCache(beside=programs)
    for each in (first, second, first):
        assert each.get("key", compile_one) == "program"
    assert len(compiled) == 1
    del first, each
    third = ProgramCache(beside=second)
    assert third.get("key", compile_one) == "program"
    del second
    assert len(compiled) == 1
    del third
    assert ProgramCache(beside=programs).get("key", compile_one) == "program"
    assert len(compiled) == 2
    assert programs.seconds("key", lambda: 2.0) == 2.0
    assert ProgramCache(beside=programs).seconds("key", lambda: 3.0) == 2.0


def test_a_program_is_timed_once() -> None:
    programs = ProgramCache()
    assert programs.seconds("key", lambda: 2.0) == 2.0
    assert programs.seconds("key", lambda: 3.0) == 2.0
    assert programs.seconds("other", lambda: 3.0) == 3.0


def test_work_is_timed_the_second_time_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    clock = iter([3.0, 3.5])
    timer = SimpleNamespace(perf_counter=lambda: next(clock) if len(runs) else pytest.fail())
    monkeypatch.setattr("phoenix_server.runtime.program_cache.time", timer)
    assert device_seconds(lambda: runs.append(1)) == 0.5
    assert len(runs) == 2
