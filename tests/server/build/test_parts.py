import errno
import logging
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from commands import run_program
from phoenix_server.build import encoder as encoding
from phoenix_server.build.build import build_corpus
from phoenix_server.build.encoder import PartEncoder
from phoenix_server.bundle.bundle import Bundle, open_bundle
from phoenix_server.corpus import post_rules
from phoenix_server.corpus.disk import snapshot_writer as writer
from server.build.cases import (
    SMALL,
    SNOWFLAKE,
    SNOWFLAKE_MS,
    digest,
    random_posts,
    read,
    write,
    write_files,
)
from server.build.part_cases import POSTS, Reports, interrupt
from server.cases import flip_bit, truncate

_PARTS = 6


@pytest.fixture(scope="module")
def expected(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the digest of the corpus of an uninterrupted build."""
    folder = tmp_path_factory.mktemp("whole")
    build_corpus([write_files(folder / "posts", POSTS, [], 64)], bundle, folder / "out", SMALL)
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


@pytest.mark.parametrize("after", [1, 64, 65, 128, 129, 256, 300, 639, 640, 700])
def test_an_interrupted_build_continues(
    posts: Path, bundle: Bundle, expected: str, encoded: list[int], tmp_path: Path, after: int
) -> None:
    out, reports = tmp_path / "corpus", Reports()
    interrupt([posts], bundle, out, after=after)
    done = len(encoded)
    assert done == (after - 1) // 128  # only the part that was being encoded is lost
    assert build_corpus([posts], bundle, out, SMALL, report=reports) == 700
    assert encoded == list(range(_PARTS))
    assert ("encoded", done * 128, done * 128) in reports  # counted as found
    assert reports[-1] == ("written", 700, 0)
    assert digest(out) == expected
    assert sorted(tmp_path.iterdir()) == [out, posts]


def test_the_clock_of_a_later_try_changes_no_time(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day_ms = 24 * 60 * 60 * 1000
    began_ms = SNOWFLAKE_MS - 2 * day_ms  # so the ids carry no time
    now = SimpleNamespace(time_ns=lambda: began_ms * 1_000_000)
    monkeypatch.setattr(post_rules, "time", now)
    ids = pa.array(range(SNOWFLAKE, SNOWFLAKE + 400), pa.uint64())
    posts = write(tmp_path / "posts.parquet", post_id=ids, author_id=ids)
    interrupt([posts], bundle, tmp_path / "corpus")
    now.time_ns = lambda: (began_ms + 3 * day_ms) * 1_000_000
    build_corpus([posts], bundle, tmp_path / "corpus", SMALL)
    assert read(tmp_path / "corpus").column("created_at").null_count == 400


def test_posts_are_not_checked_twice(posts: Path, bundle: Bundle, tmp_path: Path) -> None:
    interrupt([posts], bundle, tmp_path / "corpus")
    reports = Reports()
    build_corpus([posts], bundle, tmp_path / "corpus", SMALL, report=reports)
    assert "checked" not in {stage for stage, _, _ in reports}


def test_a_build_interrupted_while_parts_are_joined_continues(
    posts: Path, bundle: Bundle, expected: str, encoded: list[int], tmp_path: Path
) -> None:
    interrupt([posts], bundle, tmp_path / "corpus", stage="written")
    build_corpus([posts], bundle, tmp_path / "corpus", SMALL)
    assert encoded == list(range(_PARTS))
    assert digest(tmp_path / "corpus") == expected


@pytest.mark.parametrize("stage", ["checked", "encoded"])
def test_a_build_interrupted_before_its_first_part_leaves_nothing(
    posts: Path, bundle: Bundle, tmp_path: Path, stage: str
) -> None:
    interrupt([posts], bundle, tmp_path / "corpus", stage=stage, after=0)
    assert list(tmp_path.iterdir()) == [posts]


def test_dropped_posts_stay_dropped(bundle: Bundle, encoded: list[int], tmp_path: Path) -> None:
    config = replace(SMALL, drop_duplicates=True)
    again = pa.concat_tables([POSTS, POSTS.slice(10, 300), random_posts(100, seed=1)])
    posts = write_files(tmp_path / "again", again, [710], 64)
    build_corpus([posts], bundle, tmp_path / "whole", config)
    assert encoded == [0, 1, 2, 3, 4, 5, 7, 8]  # part 6 has no posts to keep
    encoded.clear()
    with pytest.raises(KeyboardInterrupt):
        build_corpus([posts], bundle, tmp_path / "corpus", config, report=Reports("encoded", 720))
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
    partial = interrupt([posts], bundle, tmp_path / "corpus", after=600)
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
    partial = interrupt([posts], bundle, tmp_path / "corpus", after=600)
    parts = partial / "parts"
    (parts / "00000001").rename(parts / "00000005")  # the last, which has fewer posts
    build_corpus([posts], bundle, tmp_path / "corpus", SMALL)
    assert encoded == [0, 1, 2, 3, 1, 4, 5]
    assert digest(tmp_path / "corpus") == expected


def test_restart_discards_the_interrupted_build(
    posts: Path, bundle: Bundle, bundle_bf16: Path, encoded: list[int], tmp_path: Path
) -> None:
    out = tmp_path / "corpus"
    interrupt([posts], open_bundle(bundle_bf16), out, after=600)
    assert build_corpus([posts], bundle, out, replace(SMALL, restart=True)) == 700
    assert encoded == [0, 1, 2, 3, *range(_PARTS)]
    assert sorted(tmp_path.iterdir()) == [out, posts]


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
