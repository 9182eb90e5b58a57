from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from commands import Outcome, Run, outcome_of, run_command
from export.cases import Files, read_manifest
from phoenix_export.checkpoint import open_checkpoint
from phoenix_export.cli import main


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process."""

    def run_main(*arguments: str | Path | int) -> Outcome:
        return outcome_of(lambda: main([str(argument) for argument in arguments]), capsys)

    return run_main


def test_bundle_says_in_one_line_what_it_wrote(
    run: Run, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / ("long" * 30) / "1"
    status, printed, err = run("bundle", tiny_checkpoint, "--out", out, "--no-saved-model")
    manifest = read_manifest(out)
    assert (status, printed) == (0, "")
    expires = manifest.expires_at.ToDatetime()
    assert re.sub(r"in [0-9.]+ s", "in T s", err) == (
        f"Wrote {out} (0 MB) in T s: bfloat16, for cpu, cuda, rocm, tpu, tower fingerprint "
        f"{manifest.tower_fingerprint[:12]}, readable until {expires:%Y-%m-%d}.\n"
    )
    assert manifest.compute_dtype == "bfloat16"
    assert not (out / "saved_model").exists()


def test_bundle_takes_the_element_type(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    arguments = ("--out", tmp_path / "1", "--no-saved-model", "--dtype", "float32")
    assert run("bundle", tiny_checkpoint, *arguments).status == 0
    assert read_manifest(tmp_path / "1").compute_dtype == "float32"


def test_demo_says_in_one_line_what_it_wrote(run: Run, tmp_path: Path) -> None:
    out = tmp_path / ("long" * 30)
    sizes = ("--posts", 1000, "--vocab", 1234, "--history", 3, "--layers", 1, "--seed", 5)
    assert run("demo", out, *sizes) == (
        0,
        "",
        f"Wrote {out}: 1,000 posts, tables of 1,234 rows.\n",
    )
    checkpoint = open_checkpoint(out, "float32")
    assert checkpoint.model.history_seq_len == 3
    assert checkpoint.model.model.num_layers == 1
    assert checkpoint.table_shapes["user_embeddings"] == (1234, 128)


def test_an_output_that_exists_is_an_error(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    for arguments in (
        ("bundle", tiny_checkpoint, "--out", tmp_path, "--no-saved-model"),
        ("demo", tmp_path),
    ):
        status, out, err = run(*arguments)
        assert (status, out) == (1, "")
        assert err == f"error: {tmp_path}: exists and is never overwritten; choose another name\n"


def test_all_problems_of_a_checkpoint_are_listed(run: Run, files: Files, tmp_path: Path) -> None:
    del files.tables["user_embeddings"], files.tables["item_embeddings"]
    path = files.write(tmp_path / "[bold]checkpoint")
    status, out, err = run("bundle", path, "--out", tmp_path / "1", "--no-saved-model")
    assert (status, out) == (1, "")
    assert err == (
        f"error: {path}:\n"
        "  - retrieval/embedding_tables.npz: user_embeddings: missing\n"
        "  - retrieval/embedding_tables.npz: item_embeddings: missing\n"
    )
    assert not (tmp_path / "1").exists()


def test_without_tensorflow_the_error_names_the_option(
    run: Run, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    status, _, err = run("bundle", tiny_checkpoint, "--out", tmp_path / "1")
    assert status == 1
    assert err.startswith("error: a SavedModel needs TensorFlow") and "--no-saved-model" in err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("bundle",), "CHECKPOINT_DIR"),
        (("bundle", "somewhere"), "--out"),
        (("bundle", "somewhere", "--out", "1", "--dtype", "float16"), "--dtype"),
        (("demo", "somewhere", "--posts", "0"), "--posts"),
        (("demo", "somewhere", "--users", "0"), "--users"),
        (("demo", "somewhere", "--history", "0"), "--history"),
        (("demo", "somewhere", "--layers", "0"), "--layers"),
        (("demo", "somewhere", "--vocab", "1"), "--vocab"),
        (("demo", "somewhere", "--vocab", "2147483649"), "--vocab"),
        (("demo", "somewhere", "--history", "2147483648"), "--history"),
        (("demo", "somewhere", "--layers", "1025"), "--layers"),
        (("demo", "somewhere", "--seed", "-1"), "--seed"),
        (("nonsense",), "nonsense"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    run: Run, arguments: tuple[str, ...], named: str
) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert named in err


@pytest.mark.parametrize("command", ["bundle", "demo"])
def test_help_fits_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = run(command, "--help")
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80


def test_an_error_of_the_installed_command_has_no_traceback(tmp_path: Path) -> None:
    installed = Path(sys.executable).with_name("phoenix-export")
    outcome = run_command(installed, "bundle", tmp_path / "none", "--out", tmp_path / "1")
    missing = f"{tmp_path}/none/retrieval/config.json: missing"
    assert outcome[:2] == (1, "")
    assert outcome[2].startswith(f"error: {missing}; a checkpoint has the published layout: ")
    assert outcome[2].count("\n") == 1


def test_keygen_and_sign_say_in_one_line_what_they_wrote(
    run: Run, tiny_bundle: Path, tmp_path: Path
) -> None:
    key, bundle = tmp_path / "key", Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    written = f"Wrote {key}, which is secret, and {key}.pub, for phoenix-server --trusted-key.\n"
    assert run("keygen", key) == (0, "", written)
    assert run("sign", bundle, "--key", key) == (0, "", "Signed manifest.json.\n")
    message = f"error: {key}.pub: exists and is never overwritten; choose another name\n"
    assert run("keygen", key) == (1, "", message)
    message = f"error: {tmp_path / 'none' / 'manifest.json'}: No such file or directory\n"
    assert run("sign", tmp_path / "none", "--key", key) == (1, "", message)
    assert run("sign", bundle).status == 2
