from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import Run
from phoenix_server.cli.main import app
from phoenix_server.config import CallLimits, EngineConfig, Limits, QueueConfig, ServeOptions
from server.cli.cases import assert_one_line

_GIVEN = ("serve", "--bundle", "x", "--corpus", "y")
# By field: what is given, and what it is read as. None of them is a default.
_VALUES: dict[str, tuple[str, object]] = {
    "corpus": ("somewhere", Path("somewhere")),
    "watch": ("bundles", Path("bundles")),
    "watch_interval_s": ("0.5", 0.5),
    "allow_load": ("allowed", (Path("allowed"),)),
    "trusted_key": ("key.pub", (Path("key.pub"),)),
    "encode_anew": ("", True),
    "listen": ("[::]:0", "[::]:0"),
    "grace_s": ("0", 0.0),
    "read_only": ("", True),
    "snapshot_after": ("7", 7),
    "evict_oldest": ("", True),
    "user_cache": ("0", 0),
    "shards": ("3", 3),
    "max_batch_users": ("5", 5),
    "max_candidates": ("6", 6),
    "max_excluded": ("8", 8),
    "max_history": ("15", 15),
    "max_request_bytes": ("2048", 2048),
    "max_calls": ("16", 16),
    "max_calls_per_connection": ("17", 17),
    "max_streams": ("18", 18),
    "max_bytes_in_flight": ("16777216", 1 << 24),
    "receive_timeout_s": ("2.5", 2.5),
    "max_waiting": ("9", 9),
    "default_timeout_s": ("1.5", 1.5),
    "reply_margin_s": ("0.25", 0.25),
    "user_batches": ("2", (2,)),
    "batch_sizes": ("3", (3,)),
    "history_lengths": ("4", (4,)),
    "result_sizes": ("5", (5,)),
    "max_top_k": ("11", 11),
    "candidate_batch": ("12", 12),
    "capacity": ("13", 13),
    "max_labels": ("14", 14),
    "scan": ("kernel", "kernel"),
}


def _option(field: str) -> str:
    return "--" + field.replace("_", "-")


def _fields(options: object) -> Iterator[tuple[str, object]]:
    """Yield the names and values of a dataclass, and of those in it."""
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value)
        else:
            yield field.name, value


def _parsed(*arguments: str) -> dict[str, Any]:
    _, bound, _ = app.parse_args(arguments, exit_on_error=False)
    options: ServeOptions = bound.arguments["options"]
    return bound.arguments | dict(_fields(options))


def test_options_left_out_have_the_defaults_of_their_classes() -> None:
    options = _parsed(*_GIVEN)["options"]
    assert options == ServeOptions(corpus=Path("y"))
    assert options.limits == Limits()
    assert options.calls == CallLimits()
    assert options.queue == QueueConfig()
    assert options.engine == EngineConfig()


def test_every_field_has_a_case() -> None:
    assert _VALUES.keys() == dict(_fields(ServeOptions(corpus=Path()))).keys()


@pytest.mark.parametrize("field", _VALUES)
def test_an_option_sets_its_field(field: str) -> None:
    given, expected = _VALUES[field]
    assert _parsed(*_GIVEN)[field] != expected
    assert _parsed(*_GIVEN, _option(field), *filter(None, [given]))[field] == expected


@pytest.mark.parametrize("field", _VALUES)
def test_an_environment_variable_sets_its_field(
    monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    given, expected = _VALUES[field]
    monkeypatch.setenv(f"PHOENIX_{field.upper()}", given or "1")
    assert _parsed("serve", *(() if field == "corpus" else ("--corpus", "y")))[field] == expected


def test_the_bundle_and_the_log_level_come_from_the_environment_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PHOENIX_BUNDLE", "phoenix/1")
    monkeypatch.setenv("PHOENIX_LOG_LEVEL", "ERROR")
    parsed = _parsed("serve", "--corpus", "y")
    assert (parsed["bundle"], parsed["log_level"]) == (Path("phoenix/1"), "ERROR")


def test_an_option_wins_over_its_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOENIX_MAX_TOP_K", "5")
    assert _parsed(*_GIVEN, "--max-top-k", "6")["max_top_k"] == 6


@pytest.mark.parametrize("field", ["allow_load", "shards", "read_only"])
def test_an_empty_environment_variable_is_not_set(
    monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    monkeypatch.setenv(f"PHOENIX_{field.upper()}", "")
    assert _parsed(*_GIVEN)[field] == getattr(ServeOptions(corpus=Path()), field)


def test_variables_that_name_no_option_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOENIX_CORPUS_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("PHOENIX_PORT", "tcp://10.0.0.1:50051")
    assert _parsed(*_GIVEN)["options"] == ServeOptions(corpus=Path("y"))


def test_the_last_of_an_option_that_is_repeated_counts() -> None:
    parsed = _parsed(*_GIVEN, "--shards", "2", "--shards", "3", "--read-only", "--read-only")
    assert (parsed["shards"], parsed["read_only"]) == (3, True)


def test_an_option_takes_several_values_or_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = _parsed(*_GIVEN, "--allow-load", "a", "--allow-load", "b")
    assert parsed["allow_load"] == (Path("a"), Path("b"))
    parsed = _parsed(*_GIVEN, "--batch-sizes", "1", "4", "--history-lengths", "8")
    assert (parsed["batch_sizes"], parsed["history_lengths"]) == ((1, 4), (8,))
    monkeypatch.setenv("PHOENIX_ALLOW_LOAD", "c:d")
    monkeypatch.setenv("PHOENIX_BATCH_SIZES", "1 4")
    parsed = _parsed(*_GIVEN)
    assert parsed["allow_load"] == (Path("c"), Path("d"))
    assert parsed["batch_sizes"] == (1, 4)


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("--watch-interval-s", "0"),
        ("--grace-s", "-1"),
        ("--snapshot-after", "0"),
        ("--shards", "0"),
        ("--shards", "two"),
        ("--max-batch-users", "0"),
        ("--max-candidates", "0"),
        ("--max-excluded", "0"),
        ("--max-request-bytes", "1023"),
        ("--max-request-bytes", "2147483648"),
        ("--max-waiting", "0"),
        ("--default-timeout-s", "0"),
        ("--default-timeout-s", "nan"),
        ("--reply-margin-s", "-0.1"),
        ("--user-batches", "0"),
        ("--batch-sizes", "-1"),
        ("--history-lengths", "x"),
        ("--result-sizes", "0"),
        ("--max-top-k", "0"),
        ("--candidate-batch", "0"),
        ("--capacity", "0"),
        ("--max-labels", "0"),
        ("--scan", "magic"),
        ("--log-level", "LOUD"),
    ],
)
def test_a_value_that_cannot_be_is_one_line_that_names_the_option(
    run: Run, monkeypatch: pytest.MonkeyPatch, option: str, given: str
) -> None:
    outcome = run(*_GIVEN, option, given)
    assert_one_line(outcome, "", status=2)
    assert option in outcome.err
    variable = "PHOENIX_" + option.removeprefix("--").replace("-", "_").upper()
    monkeypatch.setenv(variable, given)
    outcome = run(*_GIVEN)
    assert_one_line(outcome, "", status=2)
    assert option in outcome.err or variable in outcome.err


def test_a_bundle_or_a_directory_to_watch_is_needed(run: Run) -> None:
    assert_one_line(run("serve", "--corpus", "y"), "--bundle: is missing", status=2)


def test_a_directory_to_watch_holds_a_bundle(run: Run, tmp_path: Path) -> None:
    outcome = run("serve", "--corpus", "y", "--watch", tmp_path)
    assert_one_line(outcome, f"--watch {tmp_path}: holds no bundle")


def test_a_corpus_served_read_only_evicts_no_posts(run: Run) -> None:
    outcome = run(*_GIVEN, "--read-only", "--evict-oldest")
    assert_one_line(outcome, "--evict-oldest: ", status=2)


@pytest.mark.parametrize("name", ["bundle", "corpus"])
def test_refuses_a_missing_directory(
    run: Run, bundle_f32: Path, golden_corpus: Path, tmp_path: Path, name: str
) -> None:
    paths = {"bundle": bundle_f32, "corpus": golden_corpus} | {name: tmp_path / "none"}
    arguments = ("--bundle", paths["bundle"], "--corpus", paths["corpus"])
    outcome = run("serve", *arguments, "--listen", "127.0.0.1:0", "--log-level", "ERROR")
    assert_one_line(outcome, f"{tmp_path / 'none'}: no such directory")


@pytest.mark.parametrize("listen", ["127.0.0.1:65536", "127.0.0.1:99999", "192.0.2.1:0"])
def test_refuses_an_address_that_cannot_be_listened_on(
    run: Run, bundle_f32: Path, golden_corpus: Path, listen: str
) -> None:
    arguments = ("--bundle", bundle_f32, "--corpus", golden_corpus)
    outcome = run("serve", *arguments, "--listen", listen, "--log-level", "ERROR")
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1].startswith(f"error: cannot listen on {listen}: ")
    assert "Traceback" not in outcome.err
