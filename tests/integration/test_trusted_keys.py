"""A server with a trusted key loads only signed bundles, whichever way they come."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc

from integration.generation_cases import refusal, retrieve, serve
from phoenix_export.signing import sign_bundle
from phoenix_retrieval.v1 import model_service_pb2 as pb
from phoenix_server.config import ServeConfig
from server.cases import copied
from signing_keys import new_keys

_WAIT_S = 300.0


def _await(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + _WAIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_bundle_is_loaded_once_it_is_signed(
    config: ServeConfig, others: list[Path], bundle_f32: Path, tmp_path: Path
) -> None:
    private, public = new_keys(tmp_path / "key")
    watched = tmp_path / "watched"
    sign_bundle(copied(bundle_f32, watched / "1"), private)
    config = replace(
        config,
        bundle=watched / "1",
        watch=watched,
        watch_interval_s=0.02,
        encode_anew=True,
        trusted_key=(public,),
    )
    with serve(config) as served:
        before = retrieve(served)
        code, reason = refusal(lambda: served.load(bundle=str(others[0]), activate=True))
        assert code == grpc.StatusCode.FAILED_PRECONDITION
        assert f"{others[0]}/manifest.sig: missing: nobody signed this" in reason
        assert retrieve(served) == before
        signed = copied(others[0], tmp_path / "signed")
        sign_bundle(signed, private)
        served.load(bundle=str(signed), activate=True)
        assert retrieve(served) != before

        copied(others[1], tmp_path / "new").rename(watched / "2")

        def state() -> int | None:
            """Return the state of the newest load of the watched bundle."""
            found = [
                each.state
                for each in served.generations().values()
                if each.bundle == str(watched / "2")
            ]
            return found[-1] if found else None

        _await(lambda: state() == pb.GENERATION_STATE_FAILED)
        sign_bundle(watched / "2", private)
        _await(lambda: state() == pb.GENERATION_STATE_ACTIVE)
