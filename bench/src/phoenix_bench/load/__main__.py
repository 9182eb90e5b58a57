"""The command line: `python -m phoenix_bench.load [PROFILE...]`, or `make load`."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from phoenix_bench.load.calls import rate_of_answers
from phoenix_bench.load.ghz import GhzError, find_ghz, run_ghz
from phoenix_bench.load.profiles import CAPACITY, PROFILES, fit_profile, read_profile
from phoenix_bench.load.requests import RequestMix, draw_requests, write_requests
from phoenix_bench.load.summary import print_summary
from phoenix_client import Model, PhoenixClient, PhoenixClientError

app = typer.Typer(pretty_exceptions_enable=False)
_console = Console(highlight=False, emoji=False, soft_wrap=True)
_PAUSE_S = 2.0  # lets the queue empty between two profiles


@app.command()
def load(
    profiles: Annotated[
        list[str] | None, typer.Argument(help=f"Profiles: {', '.join(PROFILES)}. Default: all.")
    ] = None,
    target: Annotated[str, typer.Option(help="The server, as host:port.")] = "127.0.0.1:50051",
    capacity: Annotated[
        float | None,
        typer.Option(min=1, help="Capacity of the server, in calls/s. Default: measured first."),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="top_k of each call.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the requests.")] = 0,
    configs: Annotated[Path, typer.Option(help="Directory of the profiles.")] = Path("bench/ghz"),
    build: Annotated[
        Path, typer.Option(help="Directory for requests and reports, in load/.")
    ] = Path("build"),
) -> None:
    """Load-test a running server with ghz and print a summary."""
    chosen = profiles or list(PROFILES)
    if unknown := [name for name in chosen if name not in PROFILES]:
        raise typer.BadParameter(f"{', '.join(unknown)}: not one of {', '.join(PROFILES)}")
    ghz, out = find_ghz(build), build / "load"
    model = _ask_model(target)
    if top_k > model.max_top_k:
        raise typer.BadParameter(f"--top-k {top_k}: the server's limit is {model.max_top_k}")
    requests = out / "requests.bin"
    write_requests(draw_requests(model, RequestMix(top_k=top_k, seed=seed)), requests)

    def run(name: str, rate: float) -> float:
        """Run a profile and return the number of answered calls per second."""
        config = fit_profile(read_profile(configs, name), rate, requests)
        _console.print(f"{name}: {config['duration']} on {target} ...", style="dim")
        calls = run_ghz(ghz, config, target, out / f"{name}.json").calls
        print_summary(name, calls, config, _console)
        return rate_of_answers(calls, config["concurrency"]) if name == CAPACITY else rate

    # The measurement also warms up the server.
    rate = capacity or run(CAPACITY, 0)
    _console.print(f"Rates below are shares of a capacity of {rate:,.0f} calls/s.\n")
    for name in chosen:
        time.sleep(_PAUSE_S)
        run(name, rate)
    _console.print(f"Full reports: {out}/*.json", markup=False)


def _ask_model(target: str) -> Model:
    with PhoenixClient(target) as client:
        return client.get_model()


def main() -> None:
    """Run the command line; the exit status is 1 if no server answers or ghz fails."""
    try:
        app()
    except PhoenixClientError as error:
        what = f"{error.code.name}: {' '.join(error.message.split())}"
        sys.exit(f"error: no server answers: {what}; start one with make serve")
    except (GhzError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
