"""Encode the parts of a corpus on workers of Ray.

Each worker is a process that loads the towers once. What goes through Ray are the numbers of parts;
posts come from the dataset, and vectors go to the directory of parts, which all workers must see.

Actors of Ray Core, not Ray Data: that restarts a worker without end when it dies (and bounding it,
`max_restarts`, goes with Ray 2.64), where here the build must end with an error and go on later.
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

_OBJECTS_BYTES = 128 << 20  # what passes through Ray is small
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0: on this machine alone, on Linux too
_CONNECT_S = 10.0


def encode_parts(
    bundle: Bundle,
    dataset: Dataset,
    parts: Parts,
    missing: Sequence[int],
    *,
    workers: int | None,
    address: str | None,
    report: Callable[[int], None],
) -> None:
    """Encode parts on workers of Ray.

    Args:
        bundle: The bundle whose candidate tower encodes; workers open it under the same path.
        dataset: The posts.
        parts: What to build; workers write below the same path.
        missing: Which parts to encode.
        workers: How many. Default: one a GPU of the cluster, or one a CPU if it has none.
        address: The cluster. Default: one that is started on this machine, and stopped again.
        report: Called with the number of posts of each part that is done.

    Raises:
        StartupError: Ray is not installed, does not start, or loses a worker.
        ArtifactError: What a worker found wrong with a file, the bundle or the disk.
    """
    parts = replace(parts, path=parts.path.absolute())
    with cluster(address, workers) as ray:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        count = min(workers or gpus or int(resources.get("CPU", 1)), len(missing))
        made = ray.remote(num_cpus=1, num_gpus=min(gpus, 1), max_restarts=0)(_Worker)
        pool = [made.remote(bundle.path.absolute(), dataset, parts) for _ in range(count)]
        try:
            for part in _map(ray, pool, missing):
                report(parts.part_posts(part))
        except ray.exceptions.RayError as exc:
            cause = getattr(exc, "cause", None)
            if isinstance(cause, PhoenixServerError):
                raise cause from None
            reason = str(cause or exc).strip().splitlines()[0]
            raise StartupError(
                f"a worker of Ray failed: {type(cause or exc).__name__}: {reason}"
            ) from exc
        finally:
            for worker in pool:
                ray.kill(worker)


def _map(ray: Any, pool: Sequence[Any], missing: Sequence[int]) -> Generator[int, None, None]:
    """Have each worker encode a run of parts; who is done helps where most is left."""
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
    """Encodes parts, in a process of its own."""

    def __init__(self, bundle_path: Path, dataset: Dataset, parts: Parts) -> None:
        self._opening = bundle_path, dataset, parts
        self._encoder: PartEncoder | None = None

    def encode(self, part: int) -> None:
        """Encode a part; errors as `PartEncoder` has them."""
        if self._encoder is None:  # not when it is made: Ray would not tell what was wrong
            self._encoder = _open(*self._opening)
        self._encoder.encode(part)


def _open(bundle_path: Path, dataset: Dataset, parts: Parts) -> PartEncoder:
    """Open what a worker needs, and check that it is what the others have."""
    here = os.uname().nodename
    if not parts.path.is_dir():
        raise CorpusError(parts.path, f"is not on {here}; all machines must share the directory")
    bundle = open_bundle(bundle_path)
    verify(bundle)
    if bundle.manifest.tower_fingerprint != parts.work.tower_fingerprint:
        raise BundleError(bundle_path, f"is another bundle on {here}")
    return PartEncoder(bundle, dataset, parts)


@contextmanager
def cluster(address: str | None, workers: int | None) -> Generator[Any, None, None]:
    """Yield Ray, connected; if this process already is, to what it is connected to.

    Raises:
        StartupError: Ray is not installed, or does not start.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it would tell its makers
    if address:
        _check_address(address)
    else:  # or it listens to everybody, and does what it is told (read when it is imported)
        os.environ[_CLUSTERS] = "0"
    try:
        import ray
        import ray.exceptions
    except ImportError as exc:
        raise StartupError(
            "the engine ray needs Ray, which is not installed: install phoenix-server[ray], "
            f"or take the engine local ({exc})"
        ) from exc
    if ray.is_initialized():
        yield ray
        return
    where: dict[str, Any] = {"address": address} if address else _local(workers)
    try:
        with warnings.catch_warnings():
            # JAX cannot live on in a fork; Ray's forks become other programs at once.
            warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
    except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as exc:
        raise StartupError(f"Ray at {address or 'this machine'} does not answer: {exc}") from exc
    try:
        yield ray
    finally:
        ray.shutdown()


def _local(workers: int | None) -> dict[str, Any]:
    """Return how to start Ray on this machine, for nobody else."""
    return {
        "address": "local",
        "num_cpus": workers,
        "include_dashboard": False,
        "object_store_memory": _OBJECTS_BYTES,
    }


def _check_address(address: str) -> None:
    """Check that something listens at host:port; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if "/" in address or not port.isdecimal():
        return  # auto, or a URI: Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, OverflowError) as exc:
        raise StartupError(f"--ray-address: there is no Ray at {address}: {exc}") from exc
