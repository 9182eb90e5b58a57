"""Makes commands of functions that ask a client: connect, ask, print."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import typer

from phoenix_client.cli.options import AsJson, CaFile, Target, TimeoutS, Tls, connect
from phoenix_client.transport import channels

_Answer = TypeVar("_Answer")


def asking(
    app: typer.Typer,
    show: Callable[[_Answer], None],
    to_json: Callable[[_Answer], str],
    *,
    timeout: object = TimeoutS,
    timeout_s: float = channels.DEFAULT_TIMEOUT_S,
) -> Callable[[Callable[..., _Answer]], Callable[..., None]]:
    """Make a command of a function whose first parameter is a client.

    The command has the function's name, its text and its other parameters, and after them the
    options of a connection. What the function returns is printed.

    Args:
        app: What the command is added to.
        show: Prints an answer for people.
        to_json: Writes an answer as JSON, for `--json`.
        timeout: The option of the time limit.
        timeout_s: Its default.
    """

    def decorate(function: Callable[..., _Answer]) -> Callable[..., None]:
        def command(
            as_json: bool,
            target: str,
            timeout_s: float,
            tls: bool,
            ca_file: Path | None,
            **own: Any,
        ) -> None:
            with connect(target, timeout_s, tls, ca_file) as client:
                answer = function(client, **own)
            if as_json:
                typer.echo(to_json(answer))
            else:
                show(answer)

        hints = get_type_hints(function, include_extras=True)
        _, *own = inspect.signature(function).parameters.values()
        parameters = [each.replace(annotation=hints[each.name]) for each in own]
        parameters += _connection_options(timeout, timeout_s)
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        # Typer reads the options from these.
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
        return app.command()(command)

    return decorate


def _connection_options(timeout: object, timeout_s: float) -> list[inspect.Parameter]:
    options = (
        ("as_json", AsJson, False),
        ("target", Target, channels.DEFAULT_TARGET),
        ("timeout_s", timeout, timeout_s),
        ("tls", Tls, False),
        ("ca_file", CaFile, None),
    )
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)
        for name, hint, default in options
    ]
