"""Encode the parts of a corpus in Ray workers.

Each worker is a process that loads the towers once. Only numbers of parts pass through Ray; posts
come from the dataset, and vectors go to the directory of the build, which all workers share.

The workers are actors of Ray Core. Ray Data restarts a dead worker without limit (the option that
limits it, `max_restarts`, is removed in Ray 2.64), but a build must end with an error, to be
continued later.
"""

import logging
import os
import socket
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from phoenix_server.build.dataset import Dataset
from phoenix_server.build.encoder import PartEncoder
from phoenix_server.build.parts import Parts
from phoenix_server.bundle.bundle import Bundle, open_bundle, verify
from phoenix_server.errors import BundleError, CorpusError, PhoenixServerError, StartupError
from phoenix_server.signatures import TrustedKeys

_OBJECTS_BYTES = 128 << 20  # only small objects pass through Ray
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0: only on this machine, also on Linux
_CONNECT_S = 10.0


def encode_parts(
    bundle: Bundle,
    dataset: Dataset,
    parts: Parts,
    missing: Sequence[int],
    workers: int | None,
    address: str | None,
    *,
    report: Callable[[int], None],
) -> None:
    """Encode parts in Ray workers.

    Args:
        bundle: The bundle whose candidate tower encodes; workers open it at the same path.
        dataset: The posts.
        parts: The parts of the build; workers write below the same path.
        missing: The parts to encode.
        workers: The number of workers. Default: one per GPU of the cluster, else one per CPU.
        address: The Ray cluster. Default: start one on this machine for the build.
        report: Called with the number of posts in each finished part.

    Raises:
        StartupError: Ray is not installed, does not start, or loses a worker.
        ArtifactError: A worker failed to read a file or the bundle, or to write.
    """
    parts = replace(parts, path=parts.path.absolute())
    with cluster(address, workers) as ray:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        count = min(workers or gpus or int(resources.get("CPU", 1)), len(missing))
        made = ray.remote(num_cpus=1, num_gpus=min(gpus, 1), max_restarts=0)(_Worker)
        opening = bundle.path.absolute(), bundle.trusted, dataset, parts
        pool = [made.remote(*opening) for _ in range(count)]
        try:
            for part in _map(ray, pool, missing):
                report(parts.part_posts(part))
        except ray.exceptions.RayError as exc:
            cause = getattr(exc, "cause", None)
            if isinstance(cause, PhoenixServerError):
                raise cause from None
            reason = f"{type(cause or exc).__name__}: {str(cause or exc).strip().splitlines()[0]}"
            raise StartupError(f"a Ray worker failed: {reason}") from exc
        finally:
            for worker in pool:
                ray.kill(worker)


def _map(ray: Any, pool: Sequence[Any], missing: Sequence[int]) -> Generator[int, None, None]:
    """Give each worker a run of parts; idle workers take parts from the longest run left."""
    runs = [deque(run.tolist()) for run in np.array_split(missing, len(pool))]
    running: dict[Any, tuple[int, int]] = {}

    def start(worker: int) -> None:
        longest = max(runs, key=len)
        if longest:
            part = runs[worker].popleft() if runs[worker] else longest.pop()
            running[pool[worker].encode.remote(part)] = worker, part

    for worker in range(len(pool)):
        start(worker)
    while running:
        (done, *_), _ = ray.wait(list(running), num_returns=1)
        worker, part = running.pop(done)
        ray.get(done)  # raises what the worker raised
        yield part
        start(worker)


class _Worker:
    """Encodes parts in a process of its own."""

    def __init__(
        self, bundle_path: Path, trusted: TrustedKeys, dataset: Dataset, parts: Parts
    ) -> None:
        self._opening = bundle_path, trusted, dataset, parts
        self._encoder: PartEncoder | None = None

    def encode(self, part: int) -> None:
        """Encode a part; raises the errors of `PartEncoder`."""
        if self._encoder is None:  # not in __init__, whose errors Ray does not pass on
            self._encoder = _open(*self._opening)
        self._encoder.encode(part)


def _open(bundle_path: Path, trusted: TrustedKeys, dataset: Dataset, parts: Parts) -> PartEncoder:
    """Open the inputs of a worker, and check that they are those of the others."""
    here = os.uname().nodename
    if not parts.path.is_dir():
        raise CorpusError(parts.path, f"is not on {here}; all machines must share the directory")
    bundle = open_bundle(bundle_path, trusted)
    verify(bundle)
    if bundle.manifest.tower_fingerprint != parts.work.tower_fingerprint:
        raise BundleError(bundle_path, f"is another bundle on {here}")
    return PartEncoder(bundle, dataset, parts)


@contextmanager
def cluster(address: str | None, workers: int | None) -> Generator[Any, None, None]:
    """Yield Ray, connected; a process that is connected already keeps its connection.

    Raises:
        StartupError: Ray is not installed, or does not start.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # no reports to its developers
    if address:
        _check_address(address)
    else:  # otherwise Ray listens on all interfaces and runs what it is sent; read at import
        os.environ[_CLUSTERS] = "0"
    try:
        import ray
    except ImportError as exc:
        raise StartupError(
            "the engine ray needs Ray, which is not installed: install phoenix-server[ray], "
            f"or take the engine local ({exc})"
        ) from exc
    if ray.is_initialized():
        yield ray
        return
    where: dict[str, Any] = {"address": address}
    if not address:  # a private cluster on this machine
        where = {"address": "local", "num_cpus": workers, "include_dashboard": False}
        where["object_store_memory"] = _OBJECTS_BYTES
    try:
        with warnings.catch_warnings():
            # JAX does not survive a fork, but the processes that Ray forks exec at once.
            warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
    except Exception as exc:  # Ray raises a plain one if its node has not started within 30 s
        raise StartupError(f"Ray at {address or 'this machine'} does not answer: {exc}") from exc
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Check that a process listens at host:port; Ray would retry for minutes."""
    host, _, port = address.rpartition(":")
    if "/" in address or not port.isdecimal():
        return  # "auto" or a URI, which Ray resolves
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, OverflowError) as exc:
        raise StartupError(f"--ray-address: no Ray at {address}: {exc}") from exc
