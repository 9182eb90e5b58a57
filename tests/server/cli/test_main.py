from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from commands import Outcome, Run, outcome_of
from phoenix_server.build.build import build_corpus
from phoenix_server.bundle.bundle import open_bundle
from phoenix_server.cli import main as cli
from phoenix_server.corpus.disk.snapshot import open_snapshot, verify
from server.cases import copied, edit_manifest, flip_bit


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in this process."""
    # Its console holds on to the standard error of when it was made.
    monkeypatch.setattr(cli, "_console", Console(stderr=True, highlight=False))

    def run_main(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["phoenix-server", *map(str, arguments)])
        return outcome_of(cli.main, capfd)

    return run_main


@pytest.fixture
def sports(golden_layout: Path) -> Path:
    return golden_layout / "sports_corpus.npz"


def _assert_one_line(outcome: Outcome, message: str) -> None:
    assert outcome.status == 1
    assert outcome.err.startswith(f"error: {message}")
    assert outcome.err.count("\n") == 1
    assert "Traceback" not in outcome.out + outcome.err


def test_inspect_explains(run: Run, bundle_f32: Path, golden_corpus: Path) -> None:
    status, out, err = run("inspect", bundle_f32, golden_corpus)
    assert (status, err) == (0, "")
    assert "they fit together, as generation " in out.splitlines()[-1]


def test_inspect_says_what_is_right_before_what_is_wrong(
    run: Run, bundle_f32: Path, tmp_path: Path
) -> None:
    path = copied(bundle_f32, tmp_path / "bundle")
    flip_bit(path / "weights.safetensors")
    outcome = run("inspect", path)
    _assert_one_line(outcome, f"{path}/weights.safetensors: was changed: ")
    assert outcome.out.startswith(f"{path} is a bundle")
    assert "all hold" not in outcome.out


def test_import_corpus_writes_and_tells(
    run: Run, sports: Path, bundle_f32: Path, tmp_path: Path
) -> None:
    out = tmp_path / "odd [name] that is long enough to be wrapped where the terminal ends" / "c"
    status, printed, err = run("import-corpus", sports, "--bundle", bundle_f32, "--out", out)
    assert (status, printed) == (0, "")
    assert err.startswith(f"Wrote {out}: 3,000 posts in ")
    assert err.count("\n") == 1
    verify(open_snapshot(out))


def test_import_corpus_passes_its_options_on(run: Run, bundle_f32: Path, tmp_path: Path) -> None:
    vectors = np.eye(3, 128, dtype=np.float32)
    ids = np.array([5, 6, 5], np.uint64)
    npz, out = tmp_path / "posts.npz", tmp_path / "corpus"
    np.savez(
        npz,
        post_ids=ids,
        author_ids=ids,
        candidate_representations=vectors,
        topics=np.array(["a", None, "b"], object),
    )
    command = ("import-corpus", npz, "--bundle", bundle_f32, "--out", out)
    _assert_one_line(run(*command), f"{npz}: topics is pickled")
    _assert_one_line(run(*command, "--trust-pickle"), f"{npz}: post_id 5 comes more than once")
    assert run(*command, "--trust-pickle", "--drop-duplicates").status == 0
    assert open_snapshot(out).columns().post_ids.tolist() == [5, 6]


def test_build_corpus_writes_and_tells(run: Run, bundle_f32: Path, tmp_path: Path) -> None:
    parquet, out = tmp_path / "posts.parquet", tmp_path / "corpus"
    ids = pa.array([5, 6, 5], pa.uint64())
    pq.write_table(pa.table({"post_id": ids, "author_id": ids}), parquet)
    command = ("build-corpus", parquet, "--bundle", bundle_f32, "--out", out)
    _assert_one_line(run(*command), f"{parquet}: post_id 5 comes more than once")
    status, printed, err = run(*command, "--drop-duplicates")
    assert (status, printed) == (0, "")
    assert err.startswith(f"Wrote {out}: 2 posts in ")
    assert err.count("\n") == 1
    verify(open_snapshot(out))


def test_build_corpus_takes_several_places_and_uris(
    run: Run, bundle_f32: Path, tmp_path: Path
) -> None:
    for name, ids in (("b/1", [5, 6]), ("b/0", [7]), ("a", [8])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        table = pa.table({"post_id": ids, "author_id": ids})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    places, out = ((tmp_path / "b").as_uri(), tmp_path / "a.parquet"), tmp_path / "corpus"
    assert run("build-corpus", *places, "--bundle", bundle_f32, "--out", out).status == 0
    assert open_snapshot(out).columns().post_ids.tolist() == [7, 5, 6, 8]


def test_build_corpus_goes_on_and_tells(run: Run, bundle_f32: Path, tmp_path: Path) -> None:
    parquet, out = tmp_path / "posts.parquet", tmp_path / "corpus"
    pq.write_table(pa.table({"post_id": [5, 6], "author_id": [1, 2]}), parquet)

    def interrupt(done: int, total: int, /, stage: str = "", found: int = 0) -> None:
        if stage == "written":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_corpus([parquet], open_bundle(bundle_f32), out, report=interrupt)
    command = ("build-corpus", parquet, "--bundle", bundle_f32, "--out", out)
    refused = run(*command, "--drop-duplicates")
    _assert_one_line(refused, f"{out}.partial: holds parts of another build: drop_duplicates was ")
    status, _, err = run(*command)
    assert status == 0
    assert err.startswith(f"Wrote {out}: 2 posts, 2 of them encoded before, in ")
    assert err.endswith(" s (0 a second).\n")


def test_build_corpus_takes_the_options_of_ray_for_ray_alone(
    run: Run, bundle_f32: Path, tmp_path: Path
) -> None:
    command = ("build-corpus", "x.parquet", "--bundle", bundle_f32, "--out", tmp_path / "corpus")
    outcome = run(*command, "--workers", "2")
    assert outcome.status == 2
    assert "only with --engine ray" in outcome.err


def test_build_corpus_refuses_a_tampered_bundle(run: Run, bundle_f32: Path, tmp_path: Path) -> None:
    path = copied(bundle_f32, tmp_path / "bundle")
    flip_bit(path / "tables" / "item_embeddings.safetensors")
    outcome = run("build-corpus", "x.parquet", "--bundle", path, "--out", tmp_path / "corpus")
    _assert_one_line(outcome, f"{path}/tables/item_embeddings.safetensors: was changed: ")


def test_build_corpus_refuses_an_expired_bundle(run: Run, bundle_f32: Path, tmp_path: Path) -> None:
    path = copied(bundle_f32, tmp_path / "bundle")
    edit_manifest(path, lambda m: m.update(expires_at="2020-02-03T00:00:00Z"))
    outcome = run("build-corpus", "x.parquet", "--bundle", path, "--out", tmp_path / "corpus")
    _assert_one_line(outcome, f"{path}: its programs expired on 2020-02-03")


@pytest.mark.parametrize("name", ["bundle", "corpus"])
def test_serve_refuses_what_is_not_there(
    run: Run, bundle_f32: Path, golden_corpus: Path, tmp_path: Path, name: str
) -> None:
    paths = {"bundle": bundle_f32, "corpus": golden_corpus} | {name: tmp_path / "none"}
    arguments = ("--bundle", paths["bundle"], "--corpus", paths["corpus"])
    outcome = run("serve", *arguments, "--listen", "127.0.0.1:0", "--log-level", "ERROR")
    _assert_one_line(outcome, f"{tmp_path / 'none'}: no such directory")


@pytest.mark.parametrize("listen", ["127.0.0.1:65536", "127.0.0.1:99999", "192.0.2.1:0"])
def test_serve_refuses_an_address_that_cannot_be(
    run: Run, bundle_f32: Path, golden_corpus: Path, listen: str
) -> None:
    arguments = ("--bundle", bundle_f32, "--corpus", golden_corpus)
    outcome = run("serve", *arguments, "--listen", listen, "--log-level", "ERROR")
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1].startswith(f"error: cannot listen on {listen}: ")
    assert "Traceback" not in outcome.err


def test_a_manifest_with_odd_fields_is_one_line(run: Run, bundle_f32: Path, tmp_path: Path) -> None:
    path = copied(bundle_f32, tmp_path / "bundle")
    edit_manifest(path, lambda m: m.update(odd=1))
    _assert_one_line(run("inspect", path), f"{path}/manifest.json: is not a BundleManifest: ")


def test_a_process_prints_nothing_but_its_one_line(tmp_path: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "phoenix_server", "inspect", tmp_path],
        env=os.environ | {"COLUMNS": "20"},
        capture_output=True,
        text=True,
    )
    assert (completed.returncode, completed.stdout) == (1, "")
    assert completed.stderr == (
        f"error: {tmp_path}: holds no manifest.json: neither a bundle nor a corpus\n"
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["inspect"], "paths"),
        (["serve", "--bundle", "x"], "--corpus"),
        (["serve", "--bundle", "x", "--corpus", "y", "--shards", "0"], "--shards"),
        (["serve", "--bundle", "x", "--corpus", "y", "--max-top-k", "0"], "--max-top-k"),
        (
            ["serve", "--bundle", "x", "--corpus", "y", "--read-only", "--evict-oldest"],
            "--evict-oldest",
        ),
        (["serve", "--bundle", "x", "--corpus", "y", "--log-level", "LOUD"], "--log-level"),
        (["import-corpus", "x", "--out", "y"], "--bundle"),
        (["train"], "train"),
    ],
)
def test_wrong_usage_is_status_2(run: Run, arguments: list[str], named: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert named in err
