from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import faiss
import numpy as np
import pytest

from commands import Outcome, Run, outcome_of
from fake_server.server import POSTS, FakeServer, run_fake_server
from judge.index_cases import (
    MANIFEST,
    ROWS,
    USER,
    WIDTH,
    Make,
    vectors_of,
)
from phoenix_judge.cli.main import main
from phoenix_server.bundle.bundle import Bundle, open_bundle


@pytest.fixture(scope="session")
def bundle(bundle_f32: Path) -> Bundle:
    return open_bundle(bundle_f32)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with run_fake_server() as fake:
        yield fake


@pytest.fixture
def run(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Run the command line in this process, with the server as its default target."""
    monkeypatch.setenv("PHOENIX_TARGET", server.target)

    def run_main(*arguments: object) -> Outcome:
        return outcome_of(lambda: main(list(map(str, arguments))), capsys)

    return run_main


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write an index of the server's posts and of others that score less.

    `also` are scores of further posts. `believed` are what the index takes the first posts' scores
    for, where it errs.
    """

    def write(
        name: str = "index",
        *,
        also: Sequence[float] = (),
        believed: Sequence[float] = (),
        **changes: object,
    ) -> Path:
        path = tmp_path / name
        path.mkdir()
        scores = [*(post.score for post in POSTS), *also]
        scores += [-0.5] * (ROWS - len(scores))
        post_ids = [post.post_id for post in POSTS] + list(range(1, ROWS - len(POSTS) + 1))
        np.save(path / "vectors.npy", vectors_of(scores))
        np.save(path / "post_ids.npy", np.array(post_ids, np.uint64))
        index = faiss.IndexFlatIP(WIDTH)
        index.add(vectors_of([*believed, *scores[len(believed) :]]))
        faiss.write_index(index, str(path / "index.faiss"))
        (path / "index.json").write_text(json.dumps(MANIFEST | changes))
        return path

    return write


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users.json"
    path.write_text(json.dumps([USER, USER | {"user_id": 8}]))
    return path
