"""Settings of a server: what it serves, the sizes it compiles for, and its limits.

Shapes:
    B  users of a program        S  engagements of a program
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MAX_REQUEST_BYTES = (2**31 - 1) // 4
"""gRPC's own limit, 4 times ours, is a signed 32-bit number."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest requests that are taken.

    Attributes:
        max_batch_users: Requests of a batch.
        max_candidates: Posts to encode or score in one call.
        max_excluded: Posts and authors that a request may exclude.
        max_request_bytes: Size of a request.
    """

    max_batch_users: int = 256
    max_candidates: int = 4096
    max_excluded: int = 1 << 15
    max_request_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        if min(self.max_batch_users, self.max_candidates, self.max_excluded) < 1:
            raise ValueError("max_batch_users, max_candidates, max_excluded: at least one of each")
        if not 1 <= self.max_request_bytes <= MAX_REQUEST_BYTES:
            raise ValueError(f"max_request_bytes: must be from 1 to {MAX_REQUEST_BYTES}")


@dataclass(frozen=True, kw_only=True)
class QueueConfig:
    """The queue's limits.

    Attributes:
        max_waiting: Most entries that wait; further ones are refused.
        default_timeout_s: Calls without a deadline queue as if they had this one, in seconds.
        reply_margin_s: Time kept for a reply to reach its caller, besides what is measured.
    """

    max_waiting: int = 1024
    default_timeout_s: float = 10.0
    reply_margin_s: float = 0.005

    def __post_init__(self) -> None:
        if self.max_waiting < 1:
            raise ValueError(f"max_waiting: {self.max_waiting} is not positive")
        if not self.default_timeout_s > 0:
            raise ValueError(f"default_timeout_s: {self.default_timeout_s} is not positive")
        if not self.reply_margin_s >= 0:
            raise ValueError(f"reply_margin_s: {self.reply_margin_s} is negative")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The sizes that an engine compiles for.

    Attributes:
        user_batches: Users that the user tower encodes at once, ascending.
        batch_sizes: Users of a search, ascending.
        history_lengths: Lengths shorter than the model's that are compiled too, ascending.
        result_sizes: Numbers of results below `max_top_k` that are compiled too, ascending.
        max_top_k: Most results of a query.
        candidate_batch: Posts that the candidate tower encodes at once.
        capacity: Most posts of the corpus. Default: a quarter more than it was built with.
        max_labels: Most distinct labels of the corpus.
        scan: What a corpus is searched with: XLA's tiles on any device, or kernels on GPUs.
    """

    user_batches: tuple[int, ...] = (1, 4, 8)
    batch_sizes: tuple[int, ...] = (1, 8, 16, 32)
    history_lengths: tuple[int, ...] = (16, 32, 64)
    result_sizes: tuple[int, ...] = (128,)
    max_top_k: int = 1000
    candidate_batch: int = 512
    capacity: int | None = None
    max_labels: int = 256
    scan: Literal["tiles", "kernel"] = "tiles"

    def __post_init__(self) -> None:
        for name in ("user_batches", "batch_sizes", "history_lengths", "result_sizes"):
            sizes = getattr(self, name)
            if list(sizes) != sorted(set(sizes)) or min(sizes, default=1) < 1:
                raise ValueError(f"{name}: {sizes} is not ascending and positive")
        if not self.user_batches or not self.batch_sizes:
            raise ValueError("user_batches, batch_sizes: at least one of each")
        least = min(self.max_top_k, self.candidate_batch, self.max_labels)
        if least < 1 or (self.capacity is not None and self.capacity < 1):
            raise ValueError("max_top_k, candidate_batch, max_labels, capacity: at least one")

    def user_programs(self, longest: int) -> list[tuple[int, int]]:
        """Return the [B, S] of the user tower, for a model of at most `longest` engagements."""
        lengths = (*(length for length in self.history_lengths if length < longest), longest)
        return [(batch, length) for length in lengths for batch in self.user_batches]

    def necessary_users(self, longest: int) -> list[tuple[int, int]]:
        """Return those of `user_programs` that can serve everybody."""
        return sorted({(self.user_batches[0], longest), (self.user_batches[-1], longest)})

    def searches(self) -> list[tuple[int, int]]:
        """Return the batch sizes and numbers of results of the searches."""
        sizes = (*(size for size in self.result_sizes if size < self.max_top_k), self.max_top_k)
        return [(batch, size) for size in sizes for batch in self.batch_sizes]

    def necessary_searches(self) -> list[tuple[int, int]]:
        """Return those of `searches` that can serve everybody."""
        batches = {self.batch_sizes[0], self.batch_sizes[-1]}
        return [(batch, self.max_top_k) for batch in sorted(batches)]


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What to serve, and how.

    Attributes:
        bundle: A bundle's directory.
        corpus: A corpus's directory.
        read_only: Take no changes of the corpus; other servers may have it too.
        encode_anew: Take a corpus with vectors of other towers, and make them anew.
        watch: A directory of numbered bundles; the newest is served whenever there is another.
        watch_interval_s: How often to look there, in seconds.
        allow_load: Directories from which callers may have generations loaded.
        listen: Where to, as host:port; port 0 takes a free one.
        shards: How many devices to spread the corpus over. Default: all accelerators, or one CPU
            device.
        snapshot_after: Write a snapshot of the corpus when the changes since the last one have
            written and deleted so many posts.
        evict_oldest: Delete the oldest posts where there is no room for others.
        grace_s: How long calls in flight may take to finish after SIGTERM, in seconds.
        limits: The largest requests that are taken.
        queue: The queue's limits.
        engine: The sizes to compile for.
    """

    bundle: Path
    corpus: Path
    read_only: bool = False
    encode_anew: bool = False
    watch: Path | None = None
    watch_interval_s: float = 2.0
    allow_load: tuple[Path, ...] = ()
    listen: str = "127.0.0.1:50051"
    shards: int | None = None
    snapshot_after: int = 200_000
    evict_oldest: bool = False
    grace_s: float = 10.0
    limits: Limits = field(default_factory=Limits)
    queue: QueueConfig = field(default_factory=QueueConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if self.shards is not None and self.shards < 1:
            raise ValueError(f"shards: {self.shards} is not positive")
        if self.snapshot_after < 1:
            raise ValueError(f"snapshot_after: {self.snapshot_after} is not positive")
        if self.evict_oldest and self.read_only:
            raise ValueError("evict_oldest: a corpus that is served read-only takes no posts")
        if self.watch_interval_s <= 0:
            raise ValueError(f"watch_interval_s: {self.watch_interval_s} is not positive")
        if self.grace_s < 0:
            raise ValueError(f"grace_s: {self.grace_s} is negative")
