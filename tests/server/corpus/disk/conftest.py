from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a journal that does not exist."""
    return tmp_path / "journal.sqlite"
