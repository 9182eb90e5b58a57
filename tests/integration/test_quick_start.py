"""The quick start of the README: a served demo checkpoint returns posts of the liked topic."""

import json
from pathlib import Path

import psutil

from commands import run_module
from integration.conftest import COMPILED_FOR
from servers import spawn_server

DEMO = ("--posts", "2000", "--vocab", "5000", "--history", "32", "--layers", "2")


def test_a_user_who_liked_nfl_posts_gets_nfl_posts(tmp_path: Path) -> None:
    checkpoint, bundle, corpus = tmp_path / "checkpoint", tmp_path / "bundle/1", tmp_path / "corpus"
    run_module("phoenix_export", "demo", checkpoint, *DEMO).checked()
    run_module(
        "phoenix_export", "bundle", checkpoint, "--out", bundle, "--no-saved-model"
    ).checked()
    posts = checkpoint / "sports_corpus.npz"
    options = ("--bundle", bundle, "--corpus", corpus, *COMPILED_FOR)
    imported = run_module(
        "phoenix_server", "import-corpus", posts, "--bundle", bundle, "--out", corpus
    ).checked()
    assert "warning" not in imported.err
    explained = run_module("phoenix_server", "inspect", bundle, corpus).checked()
    assert "they fit together" in explained.out
    assert "Wrote" in run_module("phoenix_server", "compile", *options).checked().err
    sequence = checkpoint / "example_sequence.json"
    liked = {engagement["post_id"] for engagement in json.loads(sequence.read_text())["history"]}
    with spawn_server(*options) as server:
        target = ("--target", server.await_ready())
        query = ("retrieve", *target, "--sequence", sequence, "--top-k", "20")
        answer = json.loads(run_module("phoenix_client", *query, "--json").checked().out)
        table = run_module("phoenix_client", *query).checked().out
        resident_bytes = psutil.Process(server.pid).memory_info().rss
    stored = [*(bundle / "tables").iterdir(), corpus / "posts.arrow"]
    assert resident_bytes <= 1.3 * sum(path.stat().st_size for path in stored) + 500e6
    candidates = answer["candidates"]
    assert len(candidates) == 20
    assert [candidate["labels"] for candidate in candidates] == [["NFL"]] * 20
    assert not liked & {candidate["post_id"] for candidate in candidates}
    assert all(str(candidate["post_id"]) in table for candidate in candidates)
    assert "NFL" in table
