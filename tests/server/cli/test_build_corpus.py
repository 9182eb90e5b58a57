from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commands import Run
from phoenix_server.build.build import build_corpus
from phoenix_server.bundle.bundle import open_bundle
from phoenix_server.corpus.disk.snapshot import open_snapshot, verify
from server.cases import copied, edit_manifest, flip_bit
from server.cli.cases import assert_one_line


def test_writes_a_corpus_and_says_so_in_one_line(
    run: Run, bundle_f32: Path, tmp_path: Path
) -> None:
    parquet, out = tmp_path / "posts.parquet", tmp_path / "corpus"
    ids = pa.array([5, 6, 5], pa.uint64())
    pq.write_table(pa.table({"post_id": ids, "author_id": ids}), parquet)
    command = ("build-corpus", parquet, "--bundle", bundle_f32, "--out", out)
    assert_one_line(run(*command), f"{parquet}: post_id 5 occurs more than once")
    status, printed, err = run(*command, "--drop-duplicates")
    assert (status, printed) == (0, "")
    assert err.startswith(f"Wrote {out}: 2 posts in ")
    assert err.count("\n") == 1
    verify(open_snapshot(out))


def test_takes_several_paths_and_uris(run: Run, bundle_f32: Path, tmp_path: Path) -> None:
    for name, ids in (("b/1", [5, 6]), ("b/0", [7]), ("a", [8])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        table = pa.table({"post_id": ids, "author_id": ids})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    places, out = ((tmp_path / "b").as_uri(), tmp_path / "a.parquet"), tmp_path / "corpus"
    assert run("build-corpus", *places, "--bundle", bundle_f32, "--out", out).status == 0
    assert open_snapshot(out).columns().post_ids.tolist() == [7, 5, 6, 8]


def test_continues_an_interrupted_build(run: Run, bundle_f32: Path, tmp_path: Path) -> None:
    parquet, out = tmp_path / "posts.parquet", tmp_path / "corpus"
    pq.write_table(pa.table({"post_id": [5, 6], "author_id": [1, 2]}), parquet)

    def interrupt(done: int, total: int, /, stage: str = "", found: int = 0) -> None:
        if stage == "written":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_corpus([parquet], open_bundle(bundle_f32), out, report=interrupt)
    command = ("build-corpus", parquet, "--bundle", bundle_f32, "--out", out)
    refused = run(*command, "--drop-duplicates")
    assert_one_line(refused, f"{out}.partial: holds parts of another build: drop_duplicates was ")
    status, _, err = run(*command)
    assert status == 0
    assert err.startswith(f"Wrote {out}: 2 posts, 2 of them encoded before, in ")
    assert err.endswith(" s (0 a second).\n")


def test_refuses_options_of_ray_without_ray(run: Run, bundle_f32: Path, tmp_path: Path) -> None:
    command = ("build-corpus", "x.parquet", "--bundle", bundle_f32, "--out", tmp_path / "corpus")
    outcome = run(*command, "--workers", "2")
    assert_one_line(outcome, "--workers: only for the engine ray", status=2)


def test_refuses_a_changed_bundle(run: Run, bundle_f32: Path, tmp_path: Path) -> None:
    path = copied(bundle_f32, tmp_path / "bundle")
    flip_bit(path / "tables" / "item_embeddings.safetensors")
    outcome = run("build-corpus", "x.parquet", "--bundle", path, "--out", tmp_path / "corpus")
    assert_one_line(outcome, f"{path}/tables/item_embeddings.safetensors: was changed: ")


def test_refuses_an_expired_bundle(run: Run, bundle_f32: Path, tmp_path: Path) -> None:
    path = copied(bundle_f32, tmp_path / "bundle")
    edit_manifest(path, lambda m: m.update(expires_at="2020-02-03T00:00:00Z"))
    outcome = run("build-corpus", "x.parquet", "--bundle", path, "--out", tmp_path / "corpus")
    assert_one_line(outcome, f"{path}: its programs expired on 2020-02-03")
