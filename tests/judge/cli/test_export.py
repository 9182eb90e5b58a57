"""The command `export`, as somebody types it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from commands import Outcome, Run, outcome_of
from phoenix_judge.cli.main import main
from phoenix_server.bundle.bundle import Bundle
from server.corpus.change_cases import written_corpus


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the command in this process, on a corpus of 40 posts that is to become `out`."""
    written_corpus(tmp_path / "corpus", 40)

    def run_main(*arguments: str | Path) -> Outcome:
        command = ["export", tmp_path / "corpus", "--out", tmp_path / "out"]
        return outcome_of(lambda: main(list(map(str, [*command, *arguments]))), capsys)

    return run_main


@pytest.mark.parametrize(
    ("arguments", "files", "described"),
    [
        ((), {"index.faiss"}, {"format": "faiss", "factory": "HNSW32"}),
        (
            ("--factory", "IVF2,Flat", "--train-posts", "30"),
            {"index.faiss"},
            {"format": "faiss", "factory": "IVF2,Flat"},
        ),
        (("--format", "npy"), set[str](), {"format": "npy"}),
    ],
)
def test_it_writes_and_says_so_in_one_line(
    run: Run,
    tmp_path: Path,
    arguments: tuple[str, ...],
    files: set[str],
    described: dict[str, str],
) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (0, "")
    assert re.fullmatch(rf"Wrote {tmp_path}/out: 40 posts in [0-9.]+ s\.\n", err)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == files | {"index.json", "vectors.npy", "post_ids.npy"}
    manifest = json.loads((tmp_path / "out" / "index.json").read_text())
    assert described.items() <= manifest.items()


def test_a_factory_that_faiss_does_not_know_is_an_error_of_one_line(run: Run) -> None:
    status, out, err = run("--factory", "nonsense")
    assert (status, out) == (1, "")
    reason = "FAISS refuses 'nonsense': could not parse index string nonsense"
    assert err == f"phoenix-judge: --factory: {reason}\n"


@pytest.mark.parametrize(
    ("arguments", "option", "format"),
    [
        (("--format", "npy", "--factory", "Flat"), "--factory", "npy"),
        (("--format", "scann", "--factory", "Flat"), "--factory", "scann"),
        (("--leaves", "3"), "--leaves", "faiss"),
        (("--reorder", "3"), "--reorder", "faiss"),
        (("--format", "npy", "--train-posts", "3"), "--train-posts", "npy"),
    ],
)
def test_an_option_of_another_format_is_refused(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], option: str, format: str
) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert f"Invalid value for {option}: is not for --format {format}" in err
    assert not (tmp_path / "out").exists()


def test_what_exists_and_what_is_no_corpus_are_errors(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert (
        run().err == f"phoenix-judge: {tmp_path}/out: exists; choose another place or remove it\n"
    )
    (tmp_path / "corpus" / "manifest.json").unlink()
    status, _, err = run()
    assert status == 1
    assert (
        err
        == f"phoenix-judge: {tmp_path}/corpus/manifest.json: missing; this directory is not whole\n"
    )


def test_a_bundle_tells_whose_vectors_are_wanted(run: Run, tmp_path: Path, bundle: Bundle) -> None:
    tower = bundle.manifest.tower_fingerprint
    status, _, err = run("--format", "npy", "--bundle", bundle.path)
    assert status == 1
    assert err == (
        f"phoenix-judge: {tmp_path}/corpus: does not hold vectors of the towers {tower[:12]} for "
        "all posts; have a server that serves them write a snapshot\n"
    )
    status, _, err = run("--format", "npy", "--bundle", tmp_path)
    assert status == 1
    assert err == f"phoenix-judge: {tmp_path}/manifest.json: missing; this directory is not whole\n"
