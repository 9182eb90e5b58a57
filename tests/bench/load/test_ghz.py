import json
import sys
from pathlib import Path

import pytest

from phoenix_bench.load.ghz import GhzError, find_ghz, read_calls, run_ghz

DETAILS = [
    {"timestamp": "2026-11-22T08:00:01.75Z", "latency": 250_000_000, "error": "", "status": "OK"},
    {
        "timestamp": "2026-11-22T09:00:01.123456789+01:00",
        "latency": 123_456_789,
        "error": "rpc error: ...",
        "status": "ResourceExhausted",
    },
    {
        "timestamp": "2026-11-22T08:00:03Z",
        "latency": 500_000_000,
        "error": "rpc error: ...",
        "status": "Canceled",
    },
]


def a_program(path: Path, source: str) -> Path:
    """Write a program that replaces ghz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\nimport json, sys\n{source}")
    path.chmod(0o755)
    return path


def test_calls_are_read_in_the_order_in_which_they_were_sent(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"details": DETAILS}))
    calls = read_calls(report)
    assert calls.sent_s.tolist() == pytest.approx([0.0, 0.5, 1.5], abs=1e-5)
    assert calls.ended_s.tolist() == pytest.approx([0.123456, 0.75, 2.0], abs=1e-5)
    assert calls.statuses() == {"OK": 1, "CANCELLED": 1, "RESOURCE_EXHAUSTED": 1}
    assert calls.codes.tolist() == [8, 0, 1]


def test_a_report_without_calls_is_an_error(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"details": None}))
    with pytest.raises(GhzError, match="made no call"):
        read_calls(report)


def test_ghz_gets_the_config_and_the_target(tmp_path: Path) -> None:
    ghz = a_program(
        tmp_path / "ghz",
        "options = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "assert sys.argv[-1] == '127.0.0.1:1', sys.argv\n"
        "assert json.load(open(options['--config'])) == {'rps': 7}\n"
        "assert options['--format'] == 'json'\n"
        f"json.dump({{'details': {DETAILS!r}}}, open(options['--output'], 'w'))\n",
    )
    run = run_ghz(ghz, {"rps": 7}, "127.0.0.1:1", tmp_path / "new" / "out.json")
    assert len(run.calls.codes) == 3
    assert run.cpu_share > 0


def test_a_failing_ghz_is_an_error_with_its_reason(tmp_path: Path) -> None:
    ghz = a_program(tmp_path / "ghz", "sys.exit('no such method')\n")
    with pytest.raises(GhzError, match="no such method"):
        run_ghz(ghz, {}, "127.0.0.1:1", tmp_path / "out.json")


def test_an_old_report_is_not_read_as_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text(json.dumps({"details": DETAILS}))
    with pytest.raises(GhzError, match="ended with 0"):
        run_ghz(a_program(tmp_path / "ghz", ""), {}, "127.0.0.1:1", tmp_path / "out.json")


def test_ghz_is_found_on_the_path_or_where_make_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    with pytest.raises(GhzError, match="make ghz"):
        find_ghz(tmp_path / "build")
    made = a_program(tmp_path / "build" / "bin" / "ghz", "")
    assert find_ghz(tmp_path / "build") == made
    installed = a_program(tmp_path / "elsewhere" / "ghz", "")
    assert find_ghz(tmp_path / "build") == installed
