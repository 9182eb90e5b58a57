import errno
import json
import logging
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commands import run_program
from phoenix_server.build import encoder as encoding
from phoenix_server.build.build import BuildConfig, build_corpus
from phoenix_server.build.encoder import PartEncoder
from phoenix_server.build.workdir import work_directory
from phoenix_server.bundle.bundle import Bundle, open_bundle
from phoenix_server.corpus.disk import snapshot_writer as writer
from phoenix_server.errors import CorpusError
from server.build.cases import SMALL, digest, random_posts, write_files
from server.cases import flip_bit, truncate

_POSTS = random_posts(700)  # five parts of 128 posts, and one of 60
_PARTS = 6


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    return write_files(tmp_path / "posts", _POSTS, [100, 333, 334], 64)


@pytest.fixture(scope="module")
def expected(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the digest of the corpus of an uninterrupted build."""
    folder = tmp_path_factory.mktemp("whole")
    build_corpus([write_files(folder / "posts", _POSTS, [], 64)], bundle, folder / "out", SMALL)
    return digest(folder / "out")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the parts that are encoded from now on."""
    parts: list[int] = []
    encode = PartEncoder.encode

    def recorded(self: PartEncoder, part: int, *args: Any) -> None:
        encode(self, part, *args)
        parts.append(part)

    monkeypatch.setattr(PartEncoder, "encode", recorded)
    return parts


class _Reports(list[tuple[str, int, int]]):
    """The progress: stage, posts done, posts found; interrupts a stage after some posts."""

    def __init__(self, stage: str = "none", after: int = 0) -> None:
        super().__init__()
        self._stop = stage, after

    def __call__(self, done: int, total: int, /, stage: str = "", found: int = 0) -> None:
        self.append((stage, done, found))
        if stage == self._stop[0] and done >= self._stop[1]:
            raise KeyboardInterrupt


def _interrupt(
    places: list[Path], bundle: Bundle, out: Path, *, stage: str = "encoded", after: int = 300
) -> Path:
    """Interrupt a build at a stage; return its directory."""
    with pytest.raises(KeyboardInterrupt):
        build_corpus(places, bundle, out, SMALL, report=_Reports(stage, after))
    assert not out.exists()
    return out.with_name(f"{out.name}.partial")


def _refused(
    places: list[Path], bundle: Bundle, out: Path, config: BuildConfig = SMALL
) -> CorpusError:
    """Check that a build is refused and changes no files; return the error."""
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(CorpusError) as caught:
        build_corpus(places, bundle, out, config)
    assert sorted(out.parent.rglob("*")) == before
    return caught.value


@pytest.mark.parametrize("after", [1, 64, 65, 128, 129, 256, 300, 639, 640, 700])
def test_an_interrupted_build_continues(
    posts: Path, bundle: Bundle, expected: str, encoded: list[int], tmp_path: Path, after: int
) -> None:
    out, reports = tmp_path / "corpus", _Reports()
    _interrupt([posts], bundle, out, after=after)
    done = len(encoded)
    assert done == (after - 1) // 128  # only the part that was being encoded is lost
    assert build_corpus([posts], bundle, out, SMALL, report=reports) == 700
    assert encoded == list(range(_PARTS))
    assert ("encoded", done * 128, done * 128) in reports  # counted as found
    assert reports[-1] == ("written", 700, 0)
    assert digest(out) == expected
    assert sorted(tmp_path.iterdir()) == [out, posts]


def test_posts_are_not_checked_twice(posts: Path, bundle: Bundle, tmp_path: Path) -> None:
    _interrupt([posts], bundle, tmp_path / "corpus")
    reports = _Reports()
    build_corpus([posts], bundle, tmp_path / "corpus", SMALL, report=reports)
    assert "checked" not in {stage for stage, _, _ in reports}


def test_a_build_interrupted_while_parts_are_joined_continues(
    posts: Path, bundle: Bundle, expected: str, encoded: list[int], tmp_path: Path
) -> None:
    _interrupt([posts], bundle, tmp_path / "corpus", stage="written")
    build_corpus([posts], bundle, tmp_path / "corpus", SMALL)
    assert encoded == list(range(_PARTS))
    assert digest(tmp_path / "corpus") == expected


@pytest.mark.parametrize("stage", ["checked", "encoded"])
def test_a_build_interrupted_before_its_first_part_leaves_nothing(
    posts: Path, bundle: Bundle, tmp_path: Path, stage: str
) -> None:
    _interrupt([posts], bundle, tmp_path / "corpus", stage=stage, after=0)
    assert list(tmp_path.iterdir()) == [posts]


def test_dropped_posts_stay_dropped(bundle: Bundle, encoded: list[int], tmp_path: Path) -> None:
    config = replace(SMALL, drop_duplicates=True)
    again = pa.concat_tables([_POSTS, _POSTS.slice(10, 300), random_posts(100, seed=1)])
    posts = write_files(tmp_path / "again", again, [710], 64)
    build_corpus([posts], bundle, tmp_path / "whole", config)
    assert encoded == [0, 1, 2, 3, 4, 5, 7, 8]  # part 6 has no posts to keep
    encoded.clear()
    with pytest.raises(KeyboardInterrupt):
        build_corpus([posts], bundle, tmp_path / "corpus", config, report=_Reports("encoded", 720))
    assert build_corpus([posts], bundle, tmp_path / "corpus", config) == 800
    assert encoded == [0, 1, 2, 3, 4, 5, 7, 8]
    assert digest(tmp_path / "corpus") == digest(tmp_path / "whole")


def test_finished_parts_survive_a_full_disk(
    posts: Path,
    bundle: Bundle,
    expected: str,
    encoded: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out, new_snapshot = tmp_path / "corpus", writer.new_snapshot

    def full(path: Path, **named: Any) -> Any:
        if path.name.endswith("3"):
            (path.parent / f".{path.name}.half").mkdir()  # as SIGKILL would leave it
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return new_snapshot(path, **named)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(encoding, "new_snapshot", full)
        build_corpus([posts], bundle, out, SMALL)
    assert f"{out}.partial keeps 3 parts; the same command continues from them" in caplog.text
    build_corpus([posts], bundle, out, SMALL)
    assert encoded == list(range(_PARTS))
    assert digest(out) == expected


@pytest.mark.parametrize("spoil", [flip_bit, truncate, Path.unlink])
def test_a_damaged_part_is_encoded_again(
    posts: Path,
    bundle: Bundle,
    expected: str,
    encoded: list[int],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Any,
) -> None:
    partial = _interrupt([posts], bundle, tmp_path / "corpus", after=600)
    assert encoded == [0, 1, 2, 3]
    damaged = partial / "parts" / "00000002" / "posts.arrow"
    spoil(damaged)
    caplog.set_level(logging.WARNING)
    build_corpus([posts], bundle, tmp_path / "corpus", SMALL)
    assert encoded == [0, 1, 2, 3, 2, 4, 5]
    assert f"encoding a part again: {damaged}: " in caplog.text
    assert digest(tmp_path / "corpus") == expected


def test_a_part_of_another_corpus_is_encoded_again(
    posts: Path, bundle: Bundle, expected: str, encoded: list[int], tmp_path: Path
) -> None:
    partial = _interrupt([posts], bundle, tmp_path / "corpus", after=600)
    parts = partial / "parts"
    (parts / "00000001").rename(parts / "00000005")  # the last, which has fewer posts
    build_corpus([posts], bundle, tmp_path / "corpus", SMALL)
    assert encoded == [0, 1, 2, 3, 1, 4, 5]
    assert digest(tmp_path / "corpus") == expected


def test_another_bundle_is_refused(
    posts: Path, bundle: Bundle, bundle_bf16: Path, tmp_path: Path
) -> None:
    partial = _interrupt([posts], bundle, tmp_path / "corpus")
    other = open_bundle(bundle_bf16)
    error = _refused([posts], other, tmp_path / "corpus")
    assert error.path == partial
    assert error.reason == (
        "holds parts of another build: tower_fingerprint was "
        f"{bundle.manifest.tower_fingerprint}, is {other.manifest.tower_fingerprint}; undo that, "
        "or discard them and start over with --restart"
    )


def test_changed_posts_are_refused(posts: Path, bundle: Bundle, tmp_path: Path) -> None:
    _interrupt([posts], bundle, tmp_path / "corpus")
    changed, removed, new = (posts / name / "part.parquet" for name in ("001", "002", "004"))
    pq.write_table(random_posts(10, seed=1), changed)
    new.parent.mkdir()
    removed.rename(new)
    reason = _refused([posts], bundle, tmp_path / "corpus").reason
    for difference in (
        f"{changed} was changed",
        f"{removed} is not given any more",
        f"{new} was not there",
    ):
        assert difference in reason


def test_rewritten_files_are_refused_even_with_the_same_posts(
    posts: Path, bundle: Bundle, tmp_path: Path
) -> None:
    _interrupt([posts], bundle, tmp_path / "corpus")
    touched = posts / "000" / "part.parquet"
    contents = touched.read_bytes()
    touched.unlink()
    touched.write_bytes(contents)
    reason = _refused([posts], bundle, tmp_path / "corpus").reason
    assert f"of another build: local:{touched} was changed; undo that" in reason


def test_another_order_of_the_files_is_refused(posts: Path, bundle: Bundle, tmp_path: Path) -> None:
    places = sorted(posts.iterdir())
    _interrupt(places, bundle, tmp_path / "corpus")
    reason = _refused(places[::-1], bundle, tmp_path / "corpus").reason
    assert "the files come in another order" in reason


def test_other_options_are_refused(posts: Path, bundle: Bundle, tmp_path: Path) -> None:
    _interrupt([posts], bundle, tmp_path / "corpus")
    config = replace(SMALL, drop_duplicates=True, part_rows=64)
    reason = _refused([posts], bundle, tmp_path / "corpus", config).reason
    assert "drop_duplicates was False, is True, part_rows was 128, is 64" in reason


def test_another_kind_of_device_is_refused(posts: Path, bundle: Bundle, tmp_path: Path) -> None:
    partial = _interrupt([posts], bundle, tmp_path / "corpus")
    (partial / "encoder.txt").write_text("jaxlib 0.9 on NVIDIA H100")
    reason = _refused([posts], bundle, tmp_path / "corpus").reason
    assert reason.startswith("holds parts encoded by jaxlib 0.9 on NVIDIA H100, this is jax")
    assert reason.endswith("start over with --restart")


@pytest.mark.parametrize("name", ["work.json", "dropped.npy"])
def test_a_damaged_description_of_the_build_is_refused(
    posts: Path, bundle: Bundle, tmp_path: Path, name: str
) -> None:
    partial = _interrupt([posts], bundle, tmp_path / "corpus")
    truncate(partial / name)
    (partial / name).write_bytes((partial / name).read_bytes()[:-9])
    error = _refused([posts], bundle, tmp_path / "corpus")
    assert error.path == partial
    assert error.reason.startswith("cannot be continued (")
    assert error.reason.endswith("--restart discards it and starts over")


def test_a_build_of_another_format_version_is_refused(
    posts: Path, bundle: Bundle, tmp_path: Path
) -> None:
    partial = _interrupt([posts], bundle, tmp_path / "corpus")
    plan = json.loads((partial / "work.json").read_text()) | {"format_version": 2}
    (partial / "work.json").write_text(json.dumps(plan))
    reason = _refused([posts], bundle, tmp_path / "corpus").reason
    assert "format_version was 2, is 1" in reason


def test_restart_discards_the_interrupted_build(
    posts: Path, bundle: Bundle, bundle_bf16: Path, encoded: list[int], tmp_path: Path
) -> None:
    out = tmp_path / "corpus"
    _interrupt([posts], open_bundle(bundle_bf16), out, after=600)
    assert build_corpus([posts], bundle, out, replace(SMALL, restart=True)) == 700
    assert encoded == [0, 1, 2, 3, *range(_PARTS)]
    assert sorted(tmp_path.iterdir()) == [out, posts]


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
    partial = _interrupt([posts], bundle, tmp_path / "corpus")
    (tmp_path / "corpus").mkdir()
    reason = _refused([posts], bundle, tmp_path / "corpus").reason
    assert reason == (
        f"exists; choose another path or remove it; {partial} is left over from its build and not "
        "needed"
    )


_BUILD = """
import os, signal, sys
from pathlib import Path
from phoenix_server.bundle.bundle import open_bundle
from phoenix_server.build.build import BuildConfig, build_corpus

def report(done, total, /, stage="", found=0):
    if stage == sys.argv[4] and done >= 300:
        os.kill(os.getpid(), signal.SIGKILL)

posts, bundle, out = map(Path, sys.argv[1:4])

config = BuildConfig(batch_rows=64, part_rows=128)
build_corpus([posts], open_bundle(bundle), out, config, report=report)
"""


@pytest.mark.parametrize(
    ("stage", "rest", "half"),
    [("encoded", [2, 3, 4, 5], "parts/.00000002.*"), ("written", [], ".corpus.*")],
)
def test_a_build_of_a_killed_process_continues(
    posts: Path,
    bundle: Bundle,
    expected: str,
    encoded: list[int],
    tmp_path: Path,
    stage: str,
    rest: list[int],
    half: str,
) -> None:
    out = tmp_path / "corpus"
    killed = run_program(_BUILD, posts, bundle.path, out, stage)
    assert killed.status == -signal.SIGKILL, killed.err
    assert sorted(tmp_path.iterdir()) == [tmp_path / "corpus.partial", posts]
    assert (
        len(list((tmp_path / "corpus.partial").glob(half))) == 1
    )  # the part that was being written
    build_corpus([posts], bundle, out, SMALL)
    assert encoded == rest  # the other process had one CPU device, this one has eight
    assert digest(out) == expected
    assert sorted(tmp_path.iterdir()) == [out, posts]


def test_the_size_of_parts_must_be_a_multiple_of_that_of_batches() -> None:
    with pytest.raises(ValueError, match="part_rows: must be a multiple of batch_rows"):
        BuildConfig(batch_rows=64, part_rows=100)
