from pathlib import Path

import pytest

from phoenix_server.build.workdir import clear_joined, publish, work_directory
from phoenix_server.errors import CorpusError


def _interrupt(out: Path, *, with_part: bool) -> Path:
    def build() -> None:
        with work_directory(out, restart=False) as path:
            (path / "work.json").touch()
            if with_part:
                (path / "parts" / "00000000").mkdir(parents=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build()
    return out.with_name(f"{out.name}.partial")


def test_the_directory_is_removed_after_a_build(tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    with work_directory(out, restart=False) as path:
        assert path == tmp_path / "corpus.partial"
        joined = clear_joined(path)
        joined.mkdir()
        publish(joined, out)
    assert list(tmp_path.iterdir()) == [out]


def test_a_failure_before_the_first_part_leaves_nothing(tmp_path: Path) -> None:
    _interrupt(tmp_path / "corpus", with_part=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("restart", [False, True])
def test_parts_of_an_interrupted_build_stay_unless_it_restarts(
    tmp_path: Path, restart: bool
) -> None:
    partial = _interrupt(tmp_path / "corpus", with_part=True)
    assert (partial / "parts" / "00000000").is_dir()
    with work_directory(tmp_path / "corpus", restart=restart) as path:
        names = {entry.name for entry in path.iterdir()}
    assert names == ({"lock"} if restart else {"lock", "parts", "work.json"})


def test_the_directory_is_locked(tmp_path: Path) -> None:
    with (
        work_directory(tmp_path / "corpus", restart=False),
        pytest.raises(CorpusError, match="another process builds this corpus; let it finish"),
        work_directory(tmp_path / "corpus", restart=True),
    ):
        pass


def test_a_joined_corpus_of_an_interrupted_build_is_removed(tmp_path: Path) -> None:
    for name in ("corpus", ".corpus.half"):
        (tmp_path / name).mkdir()
    assert clear_joined(tmp_path) == tmp_path / "corpus"
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_taken_by_now_is_reported(tmp_path: Path) -> None:
    (tmp_path / "joined").mkdir()
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "file").touch()
    with pytest.raises(CorpusError, match="cannot be written"):
        publish(tmp_path / "joined", tmp_path / "corpus")
