"""Which bundles and corpora can be loaded into a server, and which it finds by itself."""

from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from integration.generation_cases import assert_exact, refusal, retrieve, serve
from integration.wire import Stubs
from phoenix_retrieval.v1 import model_service_pb2 as pb
from phoenix_server.config import ServeConfig
from phoenix_server.generations import memory_budget
from server.cases import copied, flip_bit, resum


def test_a_load_that_cannot_be_is_refused_and_the_first_generation_stays_active(
    served: Stubs, others: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = retrieve(served)

    def refused(**request: object) -> tuple[grpc.StatusCode, str]:
        return refusal(lambda: served.load(**request))

    damaged = copied(others[0], tmp_path / "damaged")
    flip_bit(damaged / "weights.safetensors")
    code, reason = refused(bundle=str(damaged), activate=True)
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "was changed" in reason

    wrong = copied(others[0], tmp_path / "wrong")
    with np.load(wrong / "selftest.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["user_tower/outputs/user_representation"] += 0.5
    np.savez(wrong / "selftest.npz", **arrays)
    resum(wrong)
    code, reason = refused(bundle=str(wrong), activate=True)
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "user_representation differs by 0.5" in reason

    code, reason = refused(bundle="/etc")
    assert code == grpc.StatusCode.PERMISSION_DENIED
    assert reason.startswith("bundle: /etc is not in a directory that this server loads from")
    assert refused()[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert refused(corpus="a\0b")[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert refused(corpus=str(tmp_path / "none"))[0] == grpc.StatusCode.FAILED_PRECONDITION

    monkeypatch.setattr(memory_budget, "available_host_bytes", lambda: 10_000_000)
    code, reason = refused(bundle=str(others[0]))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "10 MB are free" in reason

    assert refusal(served.roll_back)[0] == grpc.StatusCode.FAILED_PRECONDITION
    assert retrieve(served) == before
    listed = served.generations()
    assert [each.state for each in listed.values()] == [
        pb.GENERATION_STATE_ACTIVE,
        *4 * [pb.GENERATION_STATE_FAILED],
    ]
    assert "was changed" in listed[2].reason


def test_a_generation_that_is_not_active_makes_room(
    served: Stubs, others: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    served.load(bundle=str(others[0]), activate=True)
    free = iter([10_000_000, 10**12])  # before the other is unloaded, and after
    monkeypatch.setattr(memory_budget, "available_host_bytes", lambda: next(free))
    served.load(bundle=str(others[1]), activate=True)
    assert list(served.generations()) == [2, 3]


def test_the_newest_bundle_of_a_watched_directory_is_activated(
    config: ServeConfig, others: list[Path], bundle_f32: Path, posts: list[int], tmp_path: Path
) -> None:
    watched = tmp_path / "watched"
    first = copied(bundle_f32, watched / "1")
    config = replace(config, bundle=first, watch=watched, watch_interval_s=0.02, encode_anew=True)

    def state_of(served: Stubs, bundle: Path) -> int:
        """Wait until a bundle is active or has failed."""
        while True:
            for each in served.generations().values():
                if each.bundle == str(bundle) and each.state in (
                    pb.GENERATION_STATE_ACTIVE,
                    pb.GENERATION_STATE_FAILED,
                ):
                    return each.state

    with serve(config) as served:
        served.upsert(1)
        damaged = copied(others[0], tmp_path / "damaged")
        flip_bit(damaged / "weights.safetensors")
        damaged.rename(watched / "2")
        assert state_of(served, watched / "2") == pb.GENERATION_STATE_FAILED
        assert served.generations()[1].state == pb.GENERATION_STATE_ACTIVE
        copied(others[1], tmp_path / "whole").rename(watched / "10")
        assert state_of(served, watched / "10") == pb.GENERATION_STATE_ACTIVE
        assert_exact(served, [*posts, 1])
