import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from bench.load.cases import a_model, serve_bytes
from phoenix_bench.load.calls import EXPIRED, OK, REFUSED
from phoenix_bench.load.open_loop import offer, send_all
from phoenix_bench.load.requests import RequestMix, draw_requests, write_requests
from phoenix_retrieval.v1.retrieval_service_pb2 import RetrieveResponse

PATIENT_S = 60.0


async def test_calls_begin_before_earlier_calls_have_ended() -> None:
    everybody = asyncio.Event()
    waiting = 0

    async def answer_when_all_are_here(request: bytes, context: Any) -> bytes:
        nonlocal waiting
        waiting += 1
        if waiting == 30:
            everybody.set()
        await everybody.wait()
        return b""

    async with serve_bytes(answer_when_all_are_here) as address:
        run = await send_all(address, [b"request"], np.zeros(30), PATIENT_S)
    assert run.calls.statuses() == {"OK": 30}


async def test_requests_are_sent_in_turn() -> None:
    seen: list[bytes] = []

    async def remember(request: bytes, context: Any) -> bytes:
        seen.append(request)
        return b""

    async with serve_bytes(remember) as address:
        await send_all(address, [b"a", b"b", b"c"], np.arange(5) / 100, PATIENT_S)
    assert sorted(seen) == [b"a", b"a", b"b", b"b", b"c"]


async def test_latency_counts_from_the_due_time() -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        return b""

    due = np.full(3, -5.0)  # the generator is five seconds late
    async with serve_bytes(answer) as address:
        run = await send_all(address, [b""], due, PATIENT_S)
    assert (run.calls.latencies_s() > 5).all()
    assert (run.calls.waits_s(OK) <= run.calls.latencies_s() - 5).all()


async def test_each_answer_names_its_generation() -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        if request == b"refuse":
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED)
        return RetrieveResponse(generation=request.decode(), post_ids=[1]).SerializeToString()

    async with serve_bytes(answer) as address:
        requests = [b"one", b"refuse", b"another"]
        run = await send_all(address, requests, np.zeros(6), PATIENT_S)
    assert run.generations.tolist() == ["one", "", "another"] * 2


async def test_each_error_is_counted_by_its_status() -> None:
    async def refuse_one(request: bytes, context: Any) -> bytes:
        if request == b"refuse":
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED)
        if request == b"forget":
            await asyncio.Event().wait()
        return b""

    async with serve_bytes(refuse_one) as address:
        requests = [b"refuse", b"forget", b"answer"]
        run = await send_all(address, requests, np.zeros(3), timeout_s=1.0)
    assert [run.calls.count(status) for status in (REFUSED, EXPIRED, OK)] == [1, 1, 1]
    assert run.calls.codes.tolist() == [8, 4, 0]


async def test_the_generator_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    write_requests(draw_requests(a_model(), RequestMix(count=5)), tmp_path / "requests.bin")

    async def answer(request: bytes, context: Any) -> bytes:
        return b""

    before_s = time.monotonic()
    async with serve_bytes(answer) as address:
        run = await asyncio.to_thread(
            offer,
            address,
            tmp_path / "requests.bin",
            rate=100,
            duration_s=0.5,
            timeout_s=PATIENT_S,
            seed=1,
        )
    assert run.calls.statuses() == {"OK": len(run.calls.due_s)}
    assert (np.diff(run.calls.due_s) >= 0).all()
    assert run.calls.due_s[-1] <= 0.5
    assert run.cpu_share > 0
    assert before_s < run.began_s < time.monotonic()


async def test_without_a_server_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phoenix_bench.load.open_loop._CONNECT_S", 0.05)
    with pytest.raises(TimeoutError):
        await send_all("127.0.0.1:1", [b""], np.zeros(1), PATIENT_S)
