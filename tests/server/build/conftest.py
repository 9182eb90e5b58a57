from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from phoenix_server.bundle.bundle import Bundle
from phoenix_server.signatures import TrustedKeys
from server.build.cases import write_files
from server.build.part_cases import POSTS


@pytest.fixture
def trusting(bundle: Bundle) -> Generator[Bundle]:
    """Return a bundle whose signature has been checked; restore the cache of the tests."""
    cache = jax.config.values["jax_compilation_cache_dir"]
    yield replace(bundle, trusted=TrustedKeys((bytes(32),)))
    jax.config.update("jax_compilation_cache_dir", cache)


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    """Return a directory of three files, with the posts of six parts."""
    return write_files(tmp_path / "posts", POSTS, [100, 333, 334], 64)
