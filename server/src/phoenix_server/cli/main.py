"""The command line, `phoenix-server`.

Each command is a function in a module of its own, which is imported when the command runs: JAX
takes seconds to import, and `--help` needs none of it.
"""

import logging
import sys

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter
from cyclopts.config import Env

from phoenix_server.artifacts import describe_error
from phoenix_server.cli.console import say
from phoenix_server.errors import PhoenixServerError


def _ignore_empty_variables(
    app: App, commands: tuple[str, ...], arguments: ArgumentCollection
) -> None:
    """Treat an empty environment variable as one that is not set."""
    for argument in arguments:
        argument.tokens[:] = [
            token for token in argument.tokens if token.value or token.source != "env"
        ]


def _describe_default(value: object) -> str | None:
    if value in (None, False, ()):
        return None  # the text says what happens
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


app = App(
    name="phoenix-server",
    help="Serve exact top-k retrieval over exported Phoenix towers.",
    help_format="markdown",
    help_epilogue="An environment variable sets an option too: PHOENIX_MAX_TOP_K=500 is "
    "--max-top-k 500.",
    version_flags=(),
    config=[Env("PHOENIX_", command=False), _ignore_empty_variables],
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
    "inspect": "Describe bundles and corpora, verify them, and check whether they fit together.",
}.items():
    app.command(f"phoenix_server.cli.{_command}:{_command}", help=_help)


def main() -> None:
    """Run the command line and exit: with 1 after a failure, with 2 after wrong usage."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        _run()
    except CycloptsError as exc:
        say(f"error: {exc}", style="red")
        sys.exit(2)
    except (PhoenixServerError, OSError) as exc:
        say(f"error: {describe_error(exc)}", style="red")
        sys.exit(1)
    sys.exit(0)


def _run() -> None:
    try:
        command, bound, _ = app.parse_args(sys.argv[1:], print_error=False, exit_on_error=False)
    except ValueError as exc:  # a check of a dataclass, which names the field first
        field, _, reason = str(exc).partition(": ")
        raise CycloptsError(msg=f"--{field.replace('_', '-')}: {reason}") from exc
    command(*bound.args, **bound.kwargs)
