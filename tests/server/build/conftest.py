from pathlib import Path

import pytest

from server.build.cases import write_files
from server.build.part_cases import POSTS


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    """Return a directory of three files, with the posts of six parts."""
    return write_files(tmp_path / "posts", POSTS, [100, 333, 334], 64)
