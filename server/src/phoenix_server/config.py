"""What to serve, and how. Imports nothing that takes long."""

from dataclasses import dataclass, field
from pathlib import Path

from phoenix_server.batching.config import QueueConfig
from phoenix_server.limits import Limits
from phoenix_server.sizes import EngineConfig


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
