import time
from io import StringIO
from pathlib import Path

import pytest

from phoenix_bench.server_process import (
    LogLine,
    ServerError,
    ServerLog,
    Stage,
    find_stages,
    parse_log,
    start_server,
)

LOG = [
    (1.5, "2026-11-02 08:00:01,500 INFO phoenix_server.server: verifying build/a/1 and build/b\n"),
    (2.0, "2026-11-02 08:00:02,000 WARNING jax._src: something else\n"),
    (2.5, "2026-11-02 08:00:02,500 INFO phoenix_server.engine.engine: compiling the towers\n"),
    (7.0, "2026-11-02 08:00:07,000 INFO phoenix_server.server: SERVING on unix:/a/b after 7 s\n"),
    (7.1, "a line of no logger\n"),
]


def test_only_the_servers_own_messages_count() -> None:
    assert list(parse_log(LOG)) == [
        LogLine(1.5, "verifying build/a/1 and build/b"),
        LogLine(2.5, "compiling the towers"),
        LogLine(7.0, "SERVING on unix:/a/b after 7 s"),
    ]


def test_stages_lie_between_messages_and_their_names_have_no_paths() -> None:
    assert list(find_stages(list(parse_log(LOG)))) == [
        Stage("before the first message", 1.5),
        Stage("verifying", 1.0),
        Stage("compiling the towers", 4.5),
    ]


def test_a_silent_server_has_no_stages() -> None:
    assert list(find_stages([])) == []


def test_a_log_is_read_until_the_words_appear() -> None:
    log = ServerLog(StringIO("".join(line for _, line in LOG)), began=time.monotonic())
    messages = [line.message for line in log.until("compiling")]
    assert messages == ["verifying build/a/1 and build/b", "compiling the towers"]


def test_missing_words_are_an_error_with_the_output() -> None:
    log = ServerLog(StringIO("Traceback: out of memory\n"), began=time.monotonic())
    with pytest.raises(ServerError, match=r"not logged 'SERVING'.*\n.*out of memory"):
        log.until("SERVING")


def test_a_server_that_cannot_start_is_an_error_with_its_output(tmp_path: Path) -> None:
    arguments = ("--bundle", tmp_path / "absent", "--corpus", tmp_path / "corpus")
    with pytest.raises(ServerError, match=r"(?s)exit status 1.*absent"), start_server(arguments):
        pass
