"""The command `grade`: its options and what it needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import Run, run_program
from fake_server.server import FakeServer
from judge.index_cases import (
    USER,
    Make,
    assert_fails,
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--search", "efSearch"), "must be as in efSearch=16,32,64, is 'efSearch'"),
        (("--search", "nprobe=1,2"), "nprobe is not a parameter of Flat"),
        (("--search", "nprobe=0"), "values must be from 1"),
        (("--rbo-p", "1"), "is not in the range 0<x<1"),
        (("--rbo-p", "0"), "is not in the range 0<x<1"),
        (("--repeat", "0"), "--repeat"),
        (("--top-k", "0"), "--top-k"),
        (("--plot", "plot.gif"), "must end in .png, .svg, .pdf"),
        (("--plot", "nowhere/plot.png"), "there is no directory nowhere"),
    ],
)
def test_wrong_usage_has_status_2(
    server: FakeServer, run: Run, make: Make, users: Path, options: tuple[str, ...], message: str
) -> None:
    status, out, err = run("grade", make(), users, *options)
    assert (status, out) == (2, "")
    assert message in " ".join(err.split())
    assert not server.requests


def test_a_user_that_the_server_refuses_is_named(
    server: FakeServer, run: Run, make: Make, users: Path
) -> None:
    path = make()
    users.write_text(json.dumps([USER, {"user_id": -1, "history": []}]))
    assert_fails(run("grade", path, users), f"{users}: [1].user_id: must be an integer from 0")
    users.write_text("[]")
    assert_fails(run("grade", path, users), f"{users}: holds no users")
    users.write_text(json.dumps(USER))
    assert_fails(run("grade", path, users), f"{users}: must be an array, is an object")
    assert_fails(run("grade", path, users.with_name("none")), "none: No such file or directory")


def test_a_plot_is_drawn(run: Run, make: Make, users: Path, tmp_path: Path) -> None:
    for suffix, begins in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        plot = tmp_path / f"plot{suffix}"
        assert run("grade", make(suffix), users, "--top-k", 3, "--plot", plot).status == 0
        assert plot.read_bytes().startswith(begins)


@pytest.mark.parametrize(("package", "extra"), [("faiss", "faiss"), ("matplotlib", "plot")])
def test_without_its_packages_the_error_names_the_extra(
    make: Make, users: Path, package: str, extra: str
) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None; from phoenix_judge.cli.main import main;"
        f"main(['grade', {str(make())!r}, {str(users)!r}, '--plot', 'plot.png'])"
    )
    status, _, err = run_program(program)
    assert status == 1
    assert err == f"phoenix-judge: grade needs {package}: install phoenix-judge[{extra}]\n"


def test_the_commands_load_libraries_only_to_use_them() -> None:
    program = (
        "import sys, phoenix_judge.cli.main;"
        "print({'jax', 'faiss', 'matplotlib', 'scann'} & sys.modules.keys())"
    )
    assert run_program(program).checked().out == "set()\n"
