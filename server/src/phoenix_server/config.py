"""Settings of a server: what it serves, its limits, and the sizes it compiles for.

The command line is derived from these classes: a field is an option, `Attributes` is its help, and
`Parameter` names the group in which `--help` shows it. A check raises a ValueError whose message
begins with the field's name.

Shapes:
    B  users of a batch        H  engagements of a history        K  results of a query
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

FLAT = Parameter(name="*")
SOURCES, NETWORK, CORPUS, QUEUE, DEVICE, LOGGING = (
    Parameter(group=Group.create_ordered(title))
    for title in ("What to serve", "Network", "Corpus", "Queue", "Device", "Logging")
)
TRUSTED_KEY = Parameter(consume_multiple=False)  # or it would take no value, and check nothing
MAX_REQUEST_BYTES = 2**31 - 1
"""gRPC has the limit in a signed 32-bit number."""


_MAX_COUNT = 2**31 - 1
"""Shapes of programs are signed 32-bit numbers; the API has such limits in unsigned ones."""
_MAX_CALLS_PER_CONNECTION = _MAX_COUNT // 4
"""gRPC allows four times as many, also in a signed 32-bit number."""


def _require_positive(
    config: object, *names: str, or_zero: bool = False, most: float = math.inf
) -> None:
    for name in names:
        value = getattr(config, name)
        if not (value is None or value > 0 or (or_zero and value == 0)):
            raise ValueError(f"{name}: {value} is {'negative' if or_zero else 'not positive'}")
        if value is not None and value > most:
            raise ValueError(f"{name}: {value} is more than {most}")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest requests that are accepted.

    Attributes:
        max_batch_users: Maximum requests in a BatchRetrieve, and queries in a Search.
        max_candidates: Maximum posts in a call that encodes, scores, looks up or changes posts.
        max_excluded: Maximum posts and authors that a request excludes.
        max_history: Maximum engagements of a user; the model looks at the newest of them.
        max_request_bytes: Maximum size of a request in bytes; 4 MiB by default.
    """

    max_batch_users: int = 256
    max_candidates: int = 4096
    max_excluded: int = 1 << 15
    max_history: int = 4096
    max_request_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        counts = ("max_batch_users", "max_candidates", "max_excluded", "max_history")
        _require_positive(self, *counts, most=_MAX_COUNT)
        if not 1024 <= self.max_request_bytes <= MAX_REQUEST_BYTES:
            raise ValueError(
                f"max_request_bytes: {self.max_request_bytes} is not between 1024 and "
                f"{MAX_REQUEST_BYTES}"
            )


@dataclass(frozen=True, kw_only=True)
class CallLimits:
    """How many calls may be in flight, with how many bytes. More are refused before they are read.

    Attributes:
        max_calls: Maximum calls in flight.
        max_calls_per_connection: Maximum calls in flight of one connection.
        max_streams: Maximum calls in flight that stream: upserts, health watches, reflection; half
            of them of one connection. Upserts have half of max_bytes_in_flight at most.
        max_bytes_in_flight: Maximum bytes of the requests in flight and of those that arrive, half
            of them from one connection; 256 MiB by default. Each request that arrives, and each
            stream of upserts, counts max_request_bytes.
        receive_timeout_s: Seconds within which a request arrives, and before it within which it is
            the call's turn to receive it.
    """

    max_calls: int = 2048
    max_calls_per_connection: int = 1024
    max_streams: int = 256
    max_bytes_in_flight: int = 256 << 20
    receive_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        _require_positive(self, "max_calls_per_connection", most=_MAX_CALLS_PER_CONNECTION)
        _require_positive(self, "max_calls", "max_streams")
        _require_positive(self, "max_bytes_in_flight", "receive_timeout_s")


@dataclass(frozen=True, kw_only=True)
class QueueConfig:
    """Limits of the request queue.

    Attributes:
        max_waiting: Maximum users in the queue; further calls are refused.
        default_timeout_s: Deadline of calls that come without one, in seconds.
        reply_margin_s: Seconds before its deadline at which a reply is on its way; added to the
            measured times.
    """

    max_waiting: int = 1024
    default_timeout_s: float = 10.0
    reply_margin_s: float = 0.005

    def __post_init__(self) -> None:
        _require_positive(self, "max_waiting", "default_timeout_s")
        _require_positive(self, "reply_margin_s", or_zero=True)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Sizes that an engine compiles programs for.

    Attributes:
        user_batches: Batch sizes of the user tower, ascending.
        batch_sizes: Batch sizes of the search, ascending.
        history_lengths: History lengths to compile besides the model's own, ascending.
        result_sizes: Numbers of results to compile besides max_top_k, ascending; not for the native
            search of one shard, which needs no programs for them.
        max_top_k: Maximum top_k of a request.
        candidate_batch: Batch size of the candidate tower.
        capacity: Maximum posts in the corpus. Default: 25% more than it was built with.
        max_labels: Maximum distinct labels in the corpus.
        scan: What searches the corpus: a native library on CPUs, XLA's own code (tiles) on any
            device, or GPU kernels. By default the native library where it runs, else tiles.
    """

    user_batches: tuple[int, ...] = (1, 4, 8)
    batch_sizes: tuple[int, ...] = (1, 8, 16, 32)
    history_lengths: tuple[int, ...] = (16, 32, 64)
    result_sizes: tuple[int, ...] = (128, 1000)
    max_top_k: int = 1000
    candidate_batch: int = 512
    capacity: Annotated[int | None, CORPUS] = None
    max_labels: Annotated[int, CORPUS] = 256
    scan: Literal["auto", "native", "tiles", "kernel"] = "auto"

    def __post_init__(self) -> None:
        for name in ("user_batches", "batch_sizes", "history_lengths", "result_sizes"):
            sizes: Sequence[int] = getattr(self, name)
            if list(sizes) != sorted(set(sizes)) or min(sizes, default=1) < 1:
                raise ValueError(f"{name}: {sizes} is not ascending and positive")
            if sizes and sizes[-1] > _MAX_COUNT:
                raise ValueError(f"{name}: {sizes[-1]} is more than {_MAX_COUNT}")
            if not sizes and name in ("user_batches", "batch_sizes"):
                raise ValueError(f"{name}: is empty")
        counts = ("max_top_k", "candidate_batch", "capacity", "max_labels")
        _require_positive(self, *counts, most=_MAX_COUNT)

    def user_programs(self, longest: int) -> list[tuple[int, int]]:
        """Return [B, H] of each program of the user tower, for a model of history `longest`."""
        lengths = (*(length for length in self.history_lengths if length < longest), longest)
        return [(batch, length) for length in lengths for batch in self.user_batches]

    def necessary_users(self, longest: int) -> list[tuple[int, int]]:
        """Return the `user_programs` that suffice to serve every user."""
        return sorted({(self.user_batches[0], longest), (self.user_batches[-1], longest)})

    def searches(self) -> list[tuple[int, int]]:
        """Return [B, K] of each program of the search."""
        sizes = (*(size for size in self.result_sizes if size < self.max_top_k), self.max_top_k)
        return [(batch, size) for size in sizes for batch in self.batch_sizes]

    def necessary_searches(self) -> list[tuple[int, int]]:
        """Return the `searches` that suffice to serve every query."""
        batches = {self.batch_sizes[0], self.batch_sizes[-1]}
        return [(batch, self.max_top_k) for batch in sorted(batches)]


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Everything that a server can be told, except the bundle to begin with.

    Attributes:
        corpus: Directory of the corpus.
        watch: Directory of numbered bundles; the newest is served as soon as it appears.
        watch_interval_s: Seconds between two looks at the directory to watch.
        allow_load: Directory from which clients may have bundles and corpora loaded; repeat the
            option for several.
        trusted_key: PEM file of an Ed25519 public key. Bundles that no such key signed are refused;
            repeat the option for several. Default: bundles need not be signed.
        encode_anew: Accept a corpus that was built with other towers, and re-encode its vectors.
            Implied by --watch.
        listen: Address to listen on, host:port or unix:path; port 0 takes a free one.
        grace_s: Seconds that calls in flight may take after SIGTERM.
        read_only: Accept no changes of the corpus. Several servers may then serve one directory.
        snapshot_after: Write a snapshot of the corpus after changes of so many posts.
        evict_oldest: When the corpus is full, delete the oldest posts by created_at. Default:
            refuse new posts.
        user_cache: Maximum users whose vectors are kept, so that their next requests need no user
            tower; 0 keeps none.
        shards: Devices to spread the corpus over. Default: all accelerators, or one CPU device.
        limits: The largest requests that are accepted.
        calls: How many calls may be in flight, with how many bytes.
        queue: Limits of the request queue.
        engine: Sizes to compile for.
    """

    corpus: Annotated[Path, SOURCES]
    watch: Annotated[Path | None, SOURCES] = None
    watch_interval_s: Annotated[float, SOURCES] = 2.0
    allow_load: Annotated[tuple[Path, ...], SOURCES] = ()
    trusted_key: Annotated[tuple[Path, ...], SOURCES, TRUSTED_KEY] = ()
    encode_anew: Annotated[bool, SOURCES] = False
    listen: Annotated[str, NETWORK] = "127.0.0.1:50051"
    grace_s: Annotated[float, NETWORK] = 10.0
    read_only: Annotated[bool, CORPUS] = False
    snapshot_after: Annotated[int, CORPUS] = 200_000
    evict_oldest: Annotated[bool, CORPUS] = False
    user_cache: Annotated[int, QUEUE] = 1 << 16
    shards: Annotated[int | None, DEVICE] = None
    limits: Annotated[Limits, NETWORK, FLAT] = field(default_factory=Limits)
    calls: Annotated[CallLimits, NETWORK, FLAT] = field(default_factory=CallLimits)
    queue: Annotated[QueueConfig, QUEUE, FLAT] = field(default_factory=QueueConfig)
    engine: Annotated[EngineConfig, DEVICE, FLAT] = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        _require_positive(self, "watch_interval_s", "snapshot_after", "shards")
        _require_positive(self, "grace_s", "user_cache", or_zero=True)
        if self.calls.max_bytes_in_flight < 4 * self.limits.max_request_bytes:
            raise ValueError(
                f"max_bytes_in_flight: {self.calls.max_bytes_in_flight} does not hold 4 requests "
                f"of {self.limits.max_request_bytes} bytes"
            )
        if self.evict_oldest and self.read_only:
            raise ValueError("evict_oldest: a corpus that is served read-only accepts no posts")


@dataclass(frozen=True, kw_only=True)
class ServeConfig(ServeOptions):
    """What to serve, and how.

    Attributes:
        bundle: Directory of the bundle to begin with.
    """

    bundle: Path
