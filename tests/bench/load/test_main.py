import json
import sys
from pathlib import Path

import pytest

from bench.load.cases import a_model
from phoenix_bench.load import __main__ as command
from phoenix_client import Model

ROOT = Path(__file__).parents[3]

# Replaces ghz: reports one answered call every 4 ms for a second, for any configuration.
FAKE_GHZ = """\
import json, sys
from datetime import datetime, timedelta
start = datetime(2026, 1, 1)
calls = [
    {
        "timestamp": (start + timedelta(milliseconds=4 * i)).isoformat() + "Z",
        "latency": 1_000_000,
        "status": "OK",
    }
    for i in range(250)
]
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
json.dump({"details": calls}, open(options["--output"], "w"))
"""


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a build folder with a fake ghz that needs no server."""
    ghz = tmp_path / "bin" / "ghz"
    ghz.parent.mkdir()
    ghz.write_text(f"#!{sys.executable}\n{FAKE_GHZ}")
    ghz.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(command, "_PAUSE_S", 0)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, build: Path, *arguments: str) -> None:
    places = ["--build", str(build), "--configs", str(ROOT / "bench" / "ghz")]
    monkeypatch.setattr(sys, "argv", ["load", *arguments, *places])
    command.main()


def test_without_a_server_the_command_fails_with_a_message(
    build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"^error: no server answers: UNAVAILABLE: .*make serve"):
        run(monkeypatch, build, "--target", "127.0.0.1:1")
    assert not (build / "load").exists()


def test_rates_are_shares_of_the_measured_capacity(
    build: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask_model(target: str) -> Model:
        assert target == "127.0.0.1:7"
        return a_model()

    monkeypatch.setattr(command, "_ask_model", ask_model)
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, build, "steady", "--target", "127.0.0.1:7")
    assert not ended.value.code
    configs = {
        name: json.loads((build / "load" / f"{name}.config.json").read_text())
        for name in ("capacity", "steady")
    }
    assert configs["capacity"]["concurrency"] == 64
    assert configs["steady"]["rps"] == round(0.7 * 250)
    assert Path(configs["steady"]["binary-file"]).stat().st_size > 0
    assert not (build / "load" / "burst.json").exists()
    printed = capsys.readouterr().out
    assert "a capacity of 250 calls/s" in printed
    assert "OK 250" in printed


def test_a_given_capacity_is_not_measured(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_ask_model", lambda target: a_model())  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, build, "burst", "--capacity", "1000")
    assert not ended.value.code
    assert not (build / "load" / "capacity.json").exists()
    config = json.loads((build / "load" / "burst.config.json").read_text())
    assert (config["load-start"], config["load-end"]) == (500, 3000)


@pytest.mark.parametrize(
    "wrong", [["calm"], ["steady", "--top-k", "1001"], ["steady", "--capacity", "0"]]
)
def test_wrong_usage_exits_with_status_2(
    build: Path, monkeypatch: pytest.MonkeyPatch, wrong: list[str]
) -> None:
    monkeypatch.setattr(command, "_ask_model", lambda target: a_model())  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, build, *wrong)
    assert ended.value.code == 2
