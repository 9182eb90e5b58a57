"""What the README promises: a demo checkpoint, served, returns posts of the liked topic."""

import json
import subprocess
import sys
from pathlib import Path

import psutil

from running import spawn_server

DEMO = ("--posts", "2000", "--vocab", "5000", "--history", "32", "--layers", "2")


def complete(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def run(module: str, *arguments: str | Path) -> str:
    return complete(module, *arguments).stdout


def test_a_user_who_liked_nfl_posts_gets_nfl_posts(tmp_path: Path) -> None:
    checkpoint, bundle, corpus = tmp_path / "checkpoint", tmp_path / "bundle/1", tmp_path / "corpus"
    run("phoenix_export", "demo", checkpoint, *DEMO)
    run("phoenix_export", "bundle", checkpoint, "--out", bundle, "--no-saved-model")
    posts = checkpoint / "sports_corpus.npz"
    imported = complete(
        "phoenix_server", "import-corpus", posts, *("--bundle", bundle, "--out", corpus)
    )
    assert "warning" not in imported.stderr
    explained = run("phoenix_server", "inspect", bundle, corpus)
    assert "they fit together" in explained
    compiled = complete("phoenix_server", "compile", "--bundle", bundle, "--corpus", corpus)
    assert "Wrote" in compiled.stderr
    sequence = checkpoint / "example_sequence.json"
    liked = {engagement["post_id"] for engagement in json.loads(sequence.read_text())["history"]}
    with spawn_server("--bundle", str(bundle), "--corpus", str(corpus)) as (server, address):
        query = ("retrieve", "--target", address, "--sequence", sequence, "--top-k", "20")
        answer = json.loads(run("phoenix_client", *query, "--json"))
        table = run("phoenix_client", *query)
        resident_bytes = psutil.Process(server.pid).memory_info().rss
    stored = [*(bundle / "tables").iterdir(), corpus / "posts.arrow"]
    assert resident_bytes <= 1.3 * sum(path.stat().st_size for path in stored) + 500e6
    candidates = answer["candidates"]
    assert len(candidates) == 20
    assert [candidate["labels"] for candidate in candidates] == [["NFL"]] * 20
    assert not liked & {candidate["post_id"] for candidate in candidates}
    assert all(str(candidate["post_id"]) in table for candidate in candidates)
    assert "NFL" in table
