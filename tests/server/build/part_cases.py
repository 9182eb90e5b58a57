"""Cases for tests of builds that continue: posts of several parts, and interruptions."""

from pathlib import Path

import pytest

from phoenix_server.build.build import build_corpus
from phoenix_server.bundle.bundle import Bundle
from server.build.cases import SMALL, random_posts

POSTS = random_posts(700)  # five parts of 128 posts, and one of 60


class Reports(list[tuple[str, int, int]]):
    """The progress: stage, posts done, posts found; interrupts a stage after some posts."""

    def __init__(self, stage: str = "none", after: int = 0) -> None:
        super().__init__()
        self._stop = stage, after

    def __call__(self, done: int, total: int, /, stage: str = "", found: int = 0) -> None:
        self.append((stage, done, found))
        if stage == self._stop[0] and done >= self._stop[1]:
            raise KeyboardInterrupt


def interrupt(
    places: list[Path], bundle: Bundle, out: Path, *, stage: str = "encoded", after: int = 300
) -> Path:
    """Interrupt a build at a stage; return its directory."""
    with pytest.raises(KeyboardInterrupt):
        build_corpus(places, bundle, out, SMALL, report=Reports(stage, after))
    assert not out.exists()
    return out.with_name(f"{out.name}.partial")
