"""The command line, `phoenix-server`.

Each command is a function in a module of its own, which is imported when the command runs: JAX
takes seconds to import, and `--help` needs none of it.
"""

import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import get_args

from cyclopts import App, ArgumentCollection, CoercionError, CycloptsError, Parameter
from cyclopts.config import Env

from phoenix_server.artifacts import describe_error
from phoenix_server.cli.console import say
from phoenix_server.cli.log import write_log
from phoenix_server.errors import PhoenixServerError, escape_controls

# Environment variables outlive a command: they must not allow unpickling or discarding data.
_NOT_FROM_ENV = ("--trust-pickle", "--restart", "--drop-duplicates")
# An empty variable must not mean that nothing is checked.
_NEVER_EMPTY = ("--trusted-key",)
_DEBUG = "--debug"
# They change what JAX does with a program, or refuse what the server does on purpose.
_IGNORED = (
    *("JAX_DISABLE_JIT", "JAX_ENABLE_X64", "JAX_DEBUG_NANS", "JAX_DEBUG_INFS"),
    *("JAX_NUMPY_RANK_PROMOTION", "JAX_NUMPY_DTYPE_PROMOTION", "JAX_DEFAULT_MATMUL_PRECISION"),
    *("JAX_TRANSFER_GUARD", "JAX_TRANSFER_GUARD_HOST_TO_DEVICE"),
    *("JAX_TRANSFER_GUARD_DEVICE_TO_DEVICE", "JAX_TRANSFER_GUARD_DEVICE_TO_HOST"),
)
_SWITCHES = {"on": "true", "off": "false"}  # Cyclopts knows the other words.
_INTEGER = re.compile(r"[+-]?[0-9]+")


def _check_tokens(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Ignore empty variables, and those that only the command line sets; refuse fractions."""
    for argument in arguments:
        types = {argument.hint, *get_args(argument.hint)}
        tokens = list(argument.tokens)
        argument.tokens.clear()
        for token in tokens:
            if token.source == "env":
                if not token.value and argument.name in _NEVER_EMPTY:
                    raise CycloptsError(msg=f"{token.keyword}: is empty; unset it, or name a file")
                if not token.value or argument.name in _NOT_FROM_ENV:
                    continue
                if bool in types:
                    token = token.evolve(value=_SWITCHES.get(token.value.lower(), token.value))
            if int in types and not _INTEGER.fullmatch(token.value):  # Cyclopts rounds 1.6
                raise CoercionError(token=token, argument=argument, target_type=int)
            argument.tokens.append(token)


def _describe_default(value: object) -> str | None:
    if value in (None, False, ()):
        return None  # the text says what happens
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


app = App(
    name="phoenix-server",
    help="Serve exact top-k retrieval over exported Phoenix towers.",
    help_format="markdown",
    help_epilogue="An environment variable sets an option too: PHOENIX_MAX_TOP_K=500 is "
    "--max-top-k 500. --debug shows the traceback of an unexpected error.",
    version_flags=(),
    config=[Env("PHOENIX_", command=False), _check_tokens],
    default_parameter=Parameter(
        negative=(),
        allow_repeating=True,
        consume_multiple=True,
        show_default=_describe_default,
        show_env_var=False,
    ),
)
for _command, _help in {
    "serve": "Serve a bundle and a corpus over gRPC until SIGTERM.",
    "compile": "Compile ahead for this machine, with the options that serve will have.",
    "import_corpus": "Write a corpus of published posts, with the vectors that come with them.",
    "build_corpus": "Write a corpus of posts, encoded by the bundle's candidate tower.\n\n"
    "If it is interrupted, the same command continues from OUT.partial.",
    "repair": "Say what is damaged or missing of a corpus, and go on from what is whole.",
    "inspect": "Describe bundles and corpora, verify them, and check whether they fit together.",
}.items():
    app.command(f"phoenix_server.cli.{_command}:{_command}", help=_help)


def main() -> None:
    """Run the command line and exit: with 1 after a failure, with 2 after wrong usage."""
    write_log(logging.WARNING)
    # gRPC itself logs what peers send, as it comes. Errors of calls reach the server's log anyway.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    arguments = [argument for argument in sys.argv[1:] if argument != _DEBUG]
    for name in _IGNORED:
        if value := os.environ.pop(name, None):
            logging.getLogger(__name__).warning("%s=%s is ignored", name, value)
    try:
        _run(arguments)
    except CycloptsError as exc:
        say(f"error: {exc}", style="red")
        sys.exit(2)
    except (PhoenixServerError, OSError) as exc:
        say(f"error: {describe_error(exc)}", style="red")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as exc:
        if _DEBUG in sys.argv:
            raise
        reason = escape_controls(str(exc).partition("\n")[0])
        say(f"error: {type(exc).__name__}: {reason}; {_DEBUG} shows where", style="red")
        sys.exit(1)
    sys.exit(0 if arguments else 2)  # without arguments it prints the help


def _run(arguments: Sequence[str]) -> None:
    try:
        command, bound, _ = app.parse_args(arguments, print_error=False, exit_on_error=False)
    except ValueError as exc:  # a check of a dataclass, which names the field first
        field, _, reason = str(exc).partition(": ")
        raise CycloptsError(msg=f"--{field.replace('_', '-')}: {reason}") from exc
    command(*bound.args, **bound.kwargs)
