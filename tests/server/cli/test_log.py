import io
import logging
from collections.abc import Iterator

import pytest

from phoenix_server.cli import log


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Write the log to a buffer while the test runs."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    level = root.level
    log.write_log(logging.WARNING)
    yield stream
    root.setLevel(level)


def test_a_record_is_a_line(written: io.StringIO) -> None:
    logging.getLogger("test").warning("a method: %s", "/evil\n2026-01-01 INFO forged\x1b[1m")
    (line,) = written.getvalue().splitlines()
    assert line.endswith("WARNING test: a method: /evil\\n2026-01-01 INFO forged\\x1b[1m")


def test_lines_of_a_traceback_are_indented(written: io.StringIO) -> None:
    try:
        raise ValueError("evil\n2026-01-01 INFO forged")
    except ValueError:
        logging.getLogger("test").exception("failed")
    first, *others = written.getvalue().splitlines()
    assert first.endswith("ERROR test: failed")
    assert others[-1] == "    2026-01-01 INFO forged"
    assert all(line.startswith("    ") for line in others)


def test_a_traceback_controls_no_terminal(written: io.StringIO) -> None:
    try:
        raise ValueError("evil\x1b[2K\x1b[1G2026-01-01 INFO forged\r2026\x852026")
    except ValueError:
        logging.getLogger("test").exception("failed", stack_info=True)
    written.seek(0)
    lines = written.read().split("\n")
    error = "    ValueError: evil\\x1b[2K\\x1b[1G2026-01-01 INFO forged\\r2026\\x852026"
    assert error in lines
    assert all(line.startswith("    ") for line in lines[1:-1])
