import ipaddress
import os
import socket
import sys
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from phoenix_server.build import ray as ray_engine
from phoenix_server.build.build import BuildConfig, build_corpus
from phoenix_server.bundle.bundle import Bundle
from phoenix_server.errors import BundleError, CorpusError, StartupError
from phoenix_server.signatures import TrustedKeys
from server.build.cases import SMALL, digest, random_posts, write_files

_LOCAL = replace(SMALL, part_rows=64)
_RAY = replace(_LOCAL, engine="ray")


@pytest.fixture(scope="module")
def cluster() -> Generator[None, None, None]:
    """Start Ray as a build does, but once for all tests of this module."""
    with ray_engine.cluster(address=None, workers=1):
        yield


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    return write_files(tmp_path / "posts", random_posts(300), [100], 64)


@pytest.mark.usefixtures("cluster")
def test_ray_workers_build_the_same_corpus(posts: Path, bundle: Bundle, tmp_path: Path) -> None:
    build_corpus([posts], bundle, tmp_path / "local", _LOCAL)
    reported: list[tuple[str, int]] = []

    def report(done: int, total: int, /, stage: str = "", found: int = 0) -> None:
        reported.append((stage, done))

    assert build_corpus([posts], bundle, tmp_path / "ray", _RAY, report=report) == 300
    assert digest(tmp_path / "ray") == digest(tmp_path / "local")  # eight devices here, one there
    assert sorted(tmp_path.iterdir()) == [tmp_path / "local", posts, tmp_path / "ray"]
    encoded = [done for stage, done in reported if stage == "encoded"]
    assert encoded == [0, 64, 128, 192, 256, 300]
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.usefixtures("cluster")
def test_ray_workers_want_the_signatures_that_the_build_wants(
    posts: Path, bundle: Bundle, tmp_path: Path
) -> None:
    wanted = replace(bundle, trusted=TrustedKeys((bytes(32),)))
    with pytest.raises(BundleError, match=r"manifest\.sig: missing: nobody signed this"):
        build_corpus([posts], wanted, tmp_path / "ray", _RAY)


@pytest.mark.usefixtures("cluster")
def test_ray_listens_on_the_loopback_interface_only() -> None:
    listening = [
        ipaddress.ip_address(connection.laddr.ip.removeprefix("::ffff:"))
        for process in psutil.Process().children(recursive=True)
        for connection in _connections(process)
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert all(address.is_loopback for address in listening)


def _connections(process: psutil.Process) -> list[Any]:
    """Return the open sockets of a process, none if it has ended."""
    try:
        return process.net_connections(kind="inet")
    except psutil.NoSuchProcess:
        return []


@pytest.mark.usefixtures("cluster")
def test_finished_parts_survive_the_death_of_a_worker(
    posts: Path, bundle: Bundle, tmp_path: Path
) -> None:
    def kill(done: int, total: int, /, stage: str = "", found: int = 0) -> None:
        if stage == "encoded" and done == 64:
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # some end by themselves
                    if "ray::_Worker" in " ".join(child.cmdline()):
                        child.kill()

    with pytest.raises(StartupError, match=r"^a Ray worker failed: ActorDiedError: "):
        build_corpus([posts], bundle, tmp_path / "ray", _RAY, report=kill)
    told: list[int] = []

    def note(done: int, total: int, /, stage: str = "", found: int = 0) -> None:
        told.append(found)

    build_corpus(
        [posts], bundle, tmp_path / "ray", _LOCAL, report=note
    )  # the other engine continues
    assert max(told) in (64, 128)  # the worker may have done another part before it died
    build_corpus([posts], bundle, tmp_path / "local", _LOCAL)
    assert digest(tmp_path / "ray") == digest(tmp_path / "local")


@pytest.mark.usefixtures("cluster")
def test_errors_of_workers_are_raised(posts: Path, bundle: Bundle, tmp_path: Path) -> None:
    spoiled = posts / "001" / "part.parquet"

    def spoil(done: int, total: int, /, stage: str = "", found: int = 0) -> None:
        if stage == "encoded":
            spoiled.write_bytes(b"")

    with pytest.raises(CorpusError) as caught:
        build_corpus([posts], bundle, tmp_path / "corpus", _RAY, report=spoil)
    assert (caught.value.path, caught.value.reason) == (
        spoiled,
        "was changed while a corpus is built from it",
    )


def test_an_unreachable_cluster_is_reported(posts: Path, bundle: Bundle, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        config = replace(_RAY, ray_address=address)
        with pytest.raises(StartupError, match=f"^--ray-address: no Ray at {address}: "):
            build_corpus([posts], bundle, tmp_path / "corpus", config)
    assert list(tmp_path.iterdir()) == [posts]


def test_a_cluster_that_does_not_start_is_reported(
    posts: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def time_out(**_: Any) -> None:
        raise Exception("The current node timed out during startup.")

    ray: Any = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", time_out)
    with pytest.raises(
        StartupError,
        match=r"^Ray at this machine does not answer: The current node timed out during startup\.",
    ):
        build_corpus([posts], bundle, tmp_path / "corpus", _RAY)
    assert not (tmp_path / "corpus").exists()


def test_a_missing_ray_package_is_reported_with_the_extra(
    posts: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(StartupError, match=r"needs Ray.*install phoenix-server\[ray\]"):
        build_corpus([posts], bundle, tmp_path / "corpus", _RAY)
    assert list(tmp_path.iterdir()) == [posts]


def test_options_of_ray_are_refused_without_it() -> None:
    with pytest.raises(ValueError, match="workers: only for the engine ray"):
        BuildConfig(workers=2)
    with pytest.raises(ValueError, match="workers: must be positive"):
        BuildConfig(engine="ray", workers=0)
