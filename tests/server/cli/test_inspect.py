from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from phoenix_server.bundle.bundle import Bundle
from phoenix_server.cli.inspect import explain
from phoenix_server.corpus.disk.compaction import write_snapshot
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.corpus.disk.store import Store
from phoenix_server.engine.pairing import generation_name
from phoenix_server.errors import ArtifactError, BundleError, CorpusError
from server.cases import copied, edit_manifest, flip_bit
from server.corpus.change_cases import OwnTowers, id_array, unit_posts, written_corpus

_NOW = datetime.now(UTC)


def _until_error(paths: Sequence[Path], now: datetime = _NOW) -> tuple[list[str], ArtifactError]:
    """Return the lines before an error, and the error."""
    lines: list[str] = []
    with pytest.raises(ArtifactError) as caught:
        lines.extend(explain(paths, now))  # keeps the lines before an error
    return lines, caught.value


def test_a_bundle_is_described(bundle: Bundle) -> None:
    now = bundle.expires_at - timedelta(days=9, hours=1)
    lines = list(explain([bundle.path], now))
    size_mb = sum(file.size_bytes for file in bundle.manifest.files) / 1e6
    assert lines == [
        f"{bundle.path} is a bundle: the towers of one checkpoint",
        "  model         4 layers, 128 wide, histories of up to 127, 19 actions, in float32",
        "  tables        1,021 users, 2,039 posts, 509 authors",
        f"  programs      for cpu, cuda, rocm, tpu, by JAX {bundle.manifest.jax_version}, "
        f"StableHLO {bundle.manifest.stablehlo_version}",
        f"  towers        {bundle.manifest.tower_fingerprint}",
        f"  files         {len(bundle.manifest.files)}, {size_mb:.1f} MB",
        "  checksums     all match",
        f"  expires       on {bundle.expires_at:%Y-%m-%d}, in 9 days",
    ]


def test_a_corpus_is_described(snapshot: Snapshot) -> None:
    lines = list(explain([snapshot.path], _NOW))
    manifest = snapshot.manifest
    assert lines == [
        f"{snapshot.path} is a corpus: posts and their vectors",
        "  posts         3,000, vectors 128 wide, float32",
        "  labels        MLB, NBA, NFL, NHL, Soccer, Tennis",
        f"  written       {manifest.created_at.ToDatetime():%Y-%m-%d %H:%M} UTC",
        f"  built with    towers {manifest.tower_fingerprint}",
        f"  files         1, {manifest.files[0].size_bytes / 1e6:.1f} MB",
        "  checksums     all match",
    ]


def test_snapshots_and_changes_of_a_corpus_are_described(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    written_corpus(path, 20)
    about = list(explain([path], _NOW))
    with closing(Store(path)) as server:  # keeps the journal open
        assert list(explain([path], _NOW)) == about
        server.append(1, [id_array(1, 2, 3), unit_posts([30, 31], 1)])
        assert list(explain([path], _NOW)) == [
            *about,
            "  journal       5 posts in 2 changes since, through change 2; checksums match",
        ]
        server.snapshot = write_snapshot(server, OwnTowers())
        server.journal.trim(2)
        server.append(3, [id_array(1000 + n) for n in range(3)])
        write_snapshot(server, OwnTowers())
        server.append(6, [id_array(*range(1, 1001))])
        later = [
            "  snapshot      through change 2: 19 posts, in snapshots/2",
            "  snapshot      through change 5: 19 posts, in snapshots/5",
            "  checksums     of 5 match",
            "  journal       1,000 posts in 1 change since, through change 6; checksums match",
        ]
        assert list(explain([path], _NOW)) == [*about, *later]
    assert list(explain([path], _NOW)) == [*about, *later]
    before = sorted(path.rglob("*"))
    inner = list(explain([path / "snapshots" / "5"], _NOW))
    assert inner[1] == "  posts         19, vectors 8 wide, float32"
    assert len(inner) == len(about)
    assert sorted(path.rglob("*")) == before


def test_damage_to_later_snapshots_and_the_journal_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    written_corpus(path, 20)
    with closing(Store(path)) as server:
        server.append(1, [id_array(1)])
        write_snapshot(server, OwnTowers())
        server.append(3, [id_array(1)])
    lines, error = _until_error([path])
    assert lines[-1] == "  checksums     all match"
    assert (error.path, error.reason) == (path / "journal.sqlite", "lacks the changes 2 to 2")
    flip_bit(path / "snapshots" / "1" / "posts.arrow")
    assert _until_error([path])[1].path == path / "snapshots" / "1" / "posts.arrow"


@pytest.mark.parametrize("swapped", [False, True])
def test_a_matching_pair_is_reported_as_a_generation(
    bundle: Bundle, snapshot: Snapshot, swapped: bool
) -> None:
    paths = [bundle.path, snapshot.path]
    lines = list(explain(paths[::-1] if swapped else paths, _NOW))
    assert len(lines) == 8 + 7 + 1
    assert lines[-1] == (
        f"{snapshot.path} was built with the towers of {bundle.path}: they fit together, "
        f"as generation {generation_name(bundle, snapshot)}"
    )


def test_a_pair_that_does_not_match_is_reported_after_both(
    bundle_bf16: Path, golden_corpus: Path
) -> None:
    lines, error = _until_error([bundle_bf16, golden_corpus])
    assert len(lines) == 8 + 7
    assert isinstance(error, CorpusError)
    assert error.path == golden_corpus
    assert "was built with other towers (" in error.reason
    assert f"than {bundle_bf16} holds" in error.reason


def _as_built(corpus: Path, path: Path) -> Path:
    """Copy a corpus without the journal that a server of other tests created in it."""
    copied(corpus, path)
    for file in path.glob("journal.sqlite*"):
        file.unlink()
    return path


def test_twelve_labels_are_listed_and_the_absence_of_labels_is_stated(
    golden_corpus: Path, tmp_path: Path
) -> None:
    path = _as_built(golden_corpus, tmp_path / "corpus")
    edit_manifest(path, lambda m: m.update(label_names=[f"l{i:02}" for i in range(15)]))
    assert "  labels        " + ", ".join(f"l{i:02}" for i in range(12)) + " and 3 more" in list(
        explain([path], _NOW)
    )
    edit_manifest(path, lambda m: m.update(label_names=[]))
    assert "  labels        none" in list(explain([path], _NOW))


def test_a_directory_without_a_manifest_is_an_error(tmp_path: Path) -> None:
    lines, error = _until_error([tmp_path])
    assert not lines
    assert (error.path, error.reason) == (
        tmp_path,
        "holds no manifest.json: neither a bundle nor a corpus",
    )


@pytest.mark.parametrize(
    "contents", ["", "{", "{}", "[]", "3", '{"rows": "x"}', '{"x": 1}', "[" * 200_000]
)
def test_a_manifest_of_neither_kind_is_an_error(tmp_path: Path, contents: str) -> None:
    (tmp_path / "manifest.json").write_text(contents)
    lines, error = _until_error([tmp_path])
    assert not lines
    assert error.path in (tmp_path, tmp_path / "manifest.json")


def test_a_path_that_is_not_a_directory_is_an_error(tmp_path: Path) -> None:
    assert _until_error([tmp_path / "none"])[1].reason == "no such directory"
    (tmp_path / "file").write_text("")
    assert _until_error([tmp_path / "file"])[1].reason == "not a directory"


def test_one_wrong_path_leaves_no_output(golden_corpus: Path, tmp_path: Path) -> None:
    assert _until_error([golden_corpus, tmp_path / "none"])[0] == []


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "programs/user_tower.stablehlo.mlir", "selftest.npz"]
)
def test_a_changed_file_of_a_bundle_is_reported(
    bundle_f32: Path, tmp_path: Path, name: str
) -> None:
    path = copied(bundle_f32, tmp_path / "bundle")
    flip_bit(path / name)
    lines, error = _until_error([path])
    assert lines[-1].startswith("  files ")
    assert isinstance(error, BundleError)
    assert error.path == path / name
    assert "was changed" in error.reason


def test_changed_data_of_a_corpus_are_reported(golden_corpus: Path, tmp_path: Path) -> None:
    path = _as_built(golden_corpus, tmp_path / "corpus")
    flip_bit(path / "posts.arrow")
    lines, error = _until_error([path])
    assert lines[-1].startswith("  files ")
    assert isinstance(error, CorpusError)
    assert error.path == path / "posts.arrow"


def test_a_bundle_that_does_not_list_a_table_is_incomplete(
    bundle_f32: Path, tmp_path: Path
) -> None:
    path = copied(bundle_f32, tmp_path / "bundle")
    edit_manifest(
        path,
        lambda m: m.update(files=[f for f in m["files"] if not f["path"].startswith("tables/u")]),
    )
    lines, error = _until_error([path])
    assert "  checksums     all match" not in lines
    assert error.path == path / "tables/user_embeddings.safetensors"


def test_a_program_outside_the_bundle_is_not_read(bundle_f32: Path, tmp_path: Path) -> None:
    path = copied(bundle_f32, tmp_path / "bundle")
    outside = tmp_path / "outside.jax"
    outside.write_bytes((path / "programs/user_tower.jax").read_bytes())
    edit_manifest(path, lambda m: m["user_tower"].update(path="../outside.jax"))
    assert _until_error([path])[1].path == path / "../outside.jax"


@pytest.mark.parametrize(("late", "left"), [(-timedelta(hours=1), 0), (timedelta(days=3), -3)])
def test_the_days_until_expiry_are_reported(bundle: Bundle, late: timedelta, left: int) -> None:
    if left >= 0:
        lines = list(explain([bundle.path], bundle.expires_at + late))
        assert lines[-1].endswith("in 0 days")
        return
    lines, error = _until_error([bundle.path], bundle.expires_at + late)
    assert lines[-1].endswith("3 days ago")
    assert "expired on" in error.reason
