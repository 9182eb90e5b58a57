from pathlib import Path

import pytest

from server.corpus.change_cases import written_corpus
from server.corpus.reference import Model
from server.corpus.updates.worker_cases import ROWS


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Return a corpus without changes."""
    written_corpus(tmp_path / "corpus", ROWS)
    return tmp_path / "corpus"


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Return what the corpus holds at first."""
    return written_corpus(tmp_path / "model", ROWS)[1]
