from __future__ import annotations

from pathlib import Path

import pytest

from commands import Run, run_module, run_program
from phoenix_server.cli.main import app
from server.cases import copied, edit_manifest, flip_bit
from server.cli.cases import assert_one_line


def test_inspect_explains(run: Run, bundle_f32: Path, golden_corpus: Path) -> None:
    status, out, err = run("inspect", bundle_f32, golden_corpus)
    assert (status, err) == (0, "")
    assert "they fit together, as generation " in out.splitlines()[-1]


def test_inspect_says_what_is_right_before_what_is_wrong(
    run: Run, bundle_f32: Path, tmp_path: Path
) -> None:
    path = copied(bundle_f32, tmp_path / "bundle")
    flip_bit(path / "weights.safetensors")
    outcome = run("inspect", path)
    assert_one_line(outcome, f"{path}/weights.safetensors: was changed: ")
    assert outcome.out.startswith(f"{path} is a bundle")
    assert "all match" not in outcome.out


def test_a_manifest_cannot_forge_a_line(run: Run, bundle_f32: Path, tmp_path: Path) -> None:
    path = copied(bundle_f32, tmp_path / "bundle")
    forged = "  signature     by a trusted key"
    edit_manifest(path, lambda m: m.update(jax_version=f"0.10\n{forged}\n\x1b[8m"))
    out = run("inspect", path).out
    assert forged not in out.splitlines()
    assert "\x1b" not in out
    assert f"by JAX 0.10\\n{forged}\\n\\x1b[8m" in out


def test_a_path_cannot_control_the_terminal(run: Run, tmp_path: Path) -> None:
    outcome = run("inspect", tmp_path / "a\x1b[8mb")
    assert_one_line(outcome, f"{tmp_path}/a\\x1b[8mb: no such directory")


def test_a_manifest_with_odd_fields_is_one_line(run: Run, bundle_f32: Path, tmp_path: Path) -> None:
    path = copied(bundle_f32, tmp_path / "bundle")
    edit_manifest(path, lambda m: m.update(odd=1))
    assert_one_line(run("inspect", path), f"{path}/manifest.json: is not a BundleManifest: ")


def test_a_process_prints_nothing_but_its_one_line(tmp_path: Path) -> None:
    outcome = run_module("phoenix_server", "inspect", tmp_path, env={"COLUMNS": "20"})
    message = f"error: {tmp_path}: holds no manifest.json: neither a bundle nor a corpus\n"
    assert outcome == (1, "", message)


def test_help_does_not_import_what_is_slow() -> None:
    imported = (
        "import sys; sys.argv[1:] = ['serve', '--help']; from phoenix_server.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print({'jax', 'numpy', 'pyarrow', 'grpc'} & sys.modules.keys())"
    )
    *lines, left = run_program(imported, env={"COLUMNS": "80"}).checked().out.splitlines()
    assert left == "set()"
    assert max(map(len, lines)) <= 80
    for group in ("What to serve", "Network", "Corpus", "Queue", "Device", "Logging"):
        assert any(f" {group} " in line for line in lines)


@pytest.mark.parametrize(("arguments", "expected"), [([], 2), (["--help"], 0)])
def test_help_lists_the_commands(run: Run, arguments: list[str], expected: int) -> None:
    status, out, err = run(*arguments)
    assert (status, err) == (expected, "")
    for command in ("serve", "compile", "import-corpus", "build-corpus", "inspect"):
        assert f" {command} " in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["inspect"], "PATHS"),
        (["serve", "--bundle", "x"], "--corpus"),
        (["serve", "--bundle", "x", "--corpus", "y", "--no-such"], "--no-such"),
        (["serve", "--bundle", "x", "--corpus", "y", "z"], "'z'"),
        (["compile"], "--bundle"),
        (["compile", "--bundle", "x", "--max-top-k", "0"], "--max-top-k"),
        (["compile", "--bundle", "x", "--shards", "0"], "--shards"),
        (["import-corpus", "x", "--out", "y"], "--bundle"),
        (["import-corpus", "--bundle", "x", "--out", "y"], "NPZ"),
        (["build-corpus", "x", "--bundle", "y"], "--out"),
        (["train"], "train"),
    ],
)
def test_wrong_usage_is_status_2(run: Run, arguments: list[str], named: str) -> None:
    outcome = run(*arguments)
    assert_one_line(outcome, "", status=2)
    assert outcome.out == ""
    assert named in outcome.err


def test_an_interrupt_is_status_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("phoenix_server.cli.main._run", interrupt)
    assert run("inspect", "corpus") == (130, "", "")


def test_a_fraction_is_no_integer(run: Run) -> None:
    for value in ("1.6", "0x10", ""):
        status, _, err = run("serve", "--bundle", "b", "--corpus", "c", "--shards", value)
        assert status == 2
        assert "--shards" in err


@pytest.mark.parametrize(("word", "expected"), [("on", True), ("1", True), ("off", False)])
def test_variables_of_switches(monkeypatch: pytest.MonkeyPatch, word: str, expected: bool) -> None:
    monkeypatch.setenv("PHOENIX_READ_ONLY", word)
    _, bound, _ = app.parse_args(["serve", "--bundle", "b", "--corpus", "c"])
    assert bound.arguments["options"].read_only is expected


def test_no_variable_has_a_file_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOENIX_TRUST_PICKLE", "1")
    command = ["import-corpus", "a.npz", "--bundle", "b", "--out", "c"]
    assert not app.parse_args(command)[1].arguments.get("trust_pickle")
    assert app.parse_args([*command, "--trust-pickle"])[1].arguments["trust_pickle"]


_BROKEN = """
import sys
from phoenix_server.cli import main
def fail(arguments):
    raise RuntimeError("what is wrong\\nand how it came to be")
main._run = fail
main.main()
"""


def test_an_unexpected_error_is_one_line_and_a_traceback_for_whoever_asks() -> None:
    status, out, err = run_program(_BROKEN, "inspect", env={"COLUMNS": "20"})
    assert (status, out) == (1, "")
    assert err == "error: RuntimeError: what is wrong; --debug shows where\n"
    status, _, err = run_program(_BROKEN, "inspect", "--debug")
    assert status == 1
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith("RuntimeError: what is wrong\nand how it came to be\n")


def test_a_platform_that_is_not_there_is_one_line(bundle_f32: Path, golden_corpus: Path) -> None:
    paths = ("--bundle", bundle_f32, "--corpus", golden_corpus)
    outcome = run_module("phoenix_server", "compile", *paths, env={"JAX_PLATFORMS": "cuda"})
    assert_one_line(outcome, "JAX sees no device with JAX_PLATFORMS=cuda; without it, JAX takes")


def test_settings_of_jax_that_would_break_the_server_are_ignored(
    bundle_f32: Path, golden_layout: Path, tmp_path: Path
) -> None:
    settings = {
        "JAX_TRANSFER_GUARD": "disallow",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_ENABLE_X64": "1",
        "JAX_DISABLE_JIT": "1",
        "JAX_DEBUG_NANS": "1",
    }
    posts, out = golden_layout / "sports_corpus.npz", tmp_path / "corpus"
    arguments = ("import-corpus", posts, "--bundle", bundle_f32, "--out", out)
    outcome = run_module("phoenix_server", *arguments, env=settings).checked()
    ignored = [line for line in outcome.err.splitlines() if line.endswith(" is ignored")]
    assert len(ignored) == len(settings)
    assert "Traceback" not in outcome.err
