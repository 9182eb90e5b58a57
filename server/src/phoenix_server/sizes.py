"""The sizes that an engine compiles its programs for.

Shapes:
    B  users of a program        S  engagements of a program
"""

from dataclasses import dataclass
from typing import Literal


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
