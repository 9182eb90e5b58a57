"""How much memory is free, as the system tells it."""

from pathlib import Path
from typing import Any

import pytest

from phoenix_server.runtime import memory


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with what the system says: 3,000 kB are free, and there is no limit."""
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:    3000 kB\n")
    return tmp_path


def free() -> int | None:
    return memory.available_host_bytes()


def limit(folder: Path, limit: str) -> None:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text("700000\n")
    (folder / "memory.stat").write_text("anon 100\ninactive_file 200000\nactive_file 5\n")


def test_without_a_limit_the_system_counts(told: Path) -> None:
    assert free() == 3_072_000
    limit(told, "max")
    assert free() == 3_072_000


def test_a_limit_of_the_group_counts_and_its_pages_of_files_can_go(told: Path) -> None:
    limit(told, "1000000")
    assert free() == 1_000_000 - 700_000 + 200_000
    limit(told, "9000000")
    assert free() == 3_072_000


def test_a_system_that_says_nothing_is_not_guessed_at(told: Path) -> None:
    (told / "meminfo").unlink()
    assert free() is None


def test_an_accelerator_tells_itself() -> None:
    class Device:
        def __init__(self, stats: dict[str, int] | None) -> None:
            self._stats = stats

        def memory_stats(self) -> dict[str, int] | None:
            return self._stats

    known: Any = Device({"bytes_limit": 100, "bytes_in_use": 30})
    assert memory.available_bytes(known) == 70
    assert memory.available_bytes(Device(None)) is None
