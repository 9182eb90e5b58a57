"""How to grade indexes."""

from dataclasses import dataclass

from phoenix_judge.index_builders import check_at_least_one


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to grade.

    Attributes:
        top_k: Number of posts per user.
        rbo_p: Persistence of the rank-biased overlap, above 0 and below 1.
        repeat: Number of times to time each query.
        allow_stale: Accept indexes of other states of the corpus.
    """

    top_k: int = 100
    rbo_p: float = 0.9
    repeat: int = 3
    allow_stale: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_at_least_one(top_k=self.top_k, repeat=self.repeat)
        if not 0 < self.rbo_p < 1:
            raise ValueError(f"rbo_p: must be above 0 and below 1, is {self.rbo_p}")
