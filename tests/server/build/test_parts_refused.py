"""An interrupted build continues only with the same posts, bundle and options."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from phoenix_server.build.build import BuildConfig, build_corpus
from phoenix_server.build.workdir import work_directory
from phoenix_server.bundle.bundle import Bundle, open_bundle
from phoenix_server.errors import CorpusError
from server.build.cases import SMALL, random_posts
from server.build.part_cases import interrupt
from server.cases import truncate


def _refused(
    places: list[Path], bundle: Bundle, out: Path, config: BuildConfig = SMALL
) -> CorpusError:
    """Check that a build is refused and changes no files; return the error."""
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(CorpusError) as caught:
        build_corpus(places, bundle, out, config)
    assert sorted(out.parent.rglob("*")) == before
    return caught.value


def test_another_bundle_is_refused(
    posts: Path, bundle: Bundle, bundle_bf16: Path, tmp_path: Path
) -> None:
    partial = interrupt([posts], bundle, tmp_path / "corpus")
    other = open_bundle(bundle_bf16)
    error = _refused([posts], other, tmp_path / "corpus")
    assert error.path == partial
    assert error.reason == (
        "holds parts of another build: tower_fingerprint was "
        f"{bundle.manifest.tower_fingerprint}, is {other.manifest.tower_fingerprint}; undo that, "
        "or discard them and start over with --restart"
    )


def test_changed_posts_are_refused(posts: Path, bundle: Bundle, tmp_path: Path) -> None:
    interrupt([posts], bundle, tmp_path / "corpus")
    changed, removed, new = (posts / name / "part.parquet" for name in ("001", "002", "004"))
    pq.write_table(random_posts(10, seed=1), changed)
    new.parent.mkdir()
    removed.rename(new)
    reason = _refused([posts], bundle, tmp_path / "corpus").reason
    for difference in (
        f"{changed} was changed",
        f"{removed} is no longer an input",
        f"{new} is a new input",
    ):
        assert difference in reason


def test_rewritten_files_are_refused_even_with_the_same_posts(
    posts: Path, bundle: Bundle, tmp_path: Path
) -> None:
    interrupt([posts], bundle, tmp_path / "corpus")
    touched = posts / "000" / "part.parquet"
    contents = touched.read_bytes()
    touched.unlink()
    touched.write_bytes(contents)
    reason = _refused([posts], bundle, tmp_path / "corpus").reason
    assert f"of another build: local:{touched} was changed; undo that" in reason


def test_another_order_of_the_files_is_refused(posts: Path, bundle: Bundle, tmp_path: Path) -> None:
    places = sorted(posts.iterdir())
    interrupt(places, bundle, tmp_path / "corpus")
    reason = _refused(places[::-1], bundle, tmp_path / "corpus").reason
    assert "the files are in another order" in reason


def test_other_options_are_refused(posts: Path, bundle: Bundle, tmp_path: Path) -> None:
    interrupt([posts], bundle, tmp_path / "corpus")
    config = replace(SMALL, drop_duplicates=True, part_rows=64)
    reason = _refused([posts], bundle, tmp_path / "corpus", config).reason
    assert "drop_duplicates was False, is True, part_rows was 128, is 64" in reason


def test_another_kind_of_device_is_refused(posts: Path, bundle: Bundle, tmp_path: Path) -> None:
    partial = interrupt([posts], bundle, tmp_path / "corpus")
    (partial / "encoder.txt").write_text("jaxlib 0.9 on NVIDIA H100")
    reason = _refused([posts], bundle, tmp_path / "corpus").reason
    assert reason.startswith("holds parts encoded by jaxlib 0.9 on NVIDIA H100, this is jax")
    assert reason.endswith("start over with --restart")


@pytest.mark.parametrize("name", ["work.json", "dropped.npy"])
def test_a_damaged_description_of_the_build_is_refused(
    posts: Path, bundle: Bundle, tmp_path: Path, name: str
) -> None:
    partial = interrupt([posts], bundle, tmp_path / "corpus")
    truncate(partial / name)
    (partial / name).write_bytes((partial / name).read_bytes()[:-9])
    error = _refused([posts], bundle, tmp_path / "corpus")
    assert error.path == partial
    assert error.reason.startswith("cannot be continued (")
    assert error.reason.endswith("--restart discards it and starts over")


def test_a_build_of_another_format_version_is_refused(
    posts: Path, bundle: Bundle, tmp_path: Path
) -> None:
    partial = interrupt([posts], bundle, tmp_path / "corpus")
    plan = json.loads((partial / "work.json").read_text()) | {"format_version": 1}
    (partial / "work.json").write_text(json.dumps(plan))
    reason = _refused([posts], bundle, tmp_path / "corpus").reason
    assert "format_version was 1, is 2" in reason


@pytest.mark.parametrize("restart", [False, True])
def test_only_one_process_builds_a_corpus(
    posts: Path, bundle: Bundle, tmp_path: Path, restart: bool
) -> None:
    with work_directory(tmp_path / "corpus", restart=False) as partial:
        config = replace(SMALL, restart=restart)
        error = _refused([posts], bundle, tmp_path / "corpus", config)
    assert (error.path, error.reason) == (
        partial,
        "another process builds this corpus; let it finish",
    )
    assert build_corpus([posts], bundle, tmp_path / "corpus", SMALL) == 700


def test_an_existing_corpus_is_not_replaced(posts: Path, bundle: Bundle, tmp_path: Path) -> None:
    partial = interrupt([posts], bundle, tmp_path / "corpus")
    (tmp_path / "corpus").mkdir()
    reason = _refused([posts], bundle, tmp_path / "corpus").reason
    assert reason == (
        f"exists; choose another path or remove it; {partial} is left over from its build and not "
        "needed"
    )


def test_the_size_of_parts_is_a_multiple_of_that_of_batches_and_fits_a_shape() -> None:
    with pytest.raises(ValueError, match="part_rows: must be a multiple of batch_rows"):
        BuildConfig(batch_rows=64, part_rows=100)
    with pytest.raises(ValueError, match="part_rows: must be below 2"):
        BuildConfig(batch_rows=10**12, part_rows=10**12)
