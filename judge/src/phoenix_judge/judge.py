"""Grade indexes, from files to a report."""

from collections.abc import Callable, Sequence

from phoenix_client.client import PhoenixClient
from phoenix_client.types.users import User
from phoenix_judge.exact import ask
from phoenix_judge.exported_index import ExportedIndex
from phoenix_judge.grade import check_state, check_towers, grade_index
from phoenix_judge.measures import percentile
from phoenix_judge.report import Latency, Report
from phoenix_judge.settings import Settings
from phoenix_judge.sweeps import Sweep


def choose_sweeps(
    indexes: Sequence[ExportedIndex], sweeps: Sequence[Sweep], top_k: int
) -> list[Sweep | None]:
    """Return the sweep of each index: the first whose parameter it has, or its default.

    Raises:
        ValueError: A sweep has a parameter that no index has.
    """
    for sweep in sweeps:
        if not any(index.searcher.takes(sweep.parameter) for index in indexes):
            made = ", ".join(index.manifest.made_as for index in indexes)
            raise ValueError(f"{sweep.parameter} is not a parameter of {made}")
    return [
        next(
            (sweep for sweep in sweeps if index.searcher.takes(sweep.parameter)),
            index.searcher.default_sweep(top_k),
        )
        for index in indexes
    ]


def judge(
    client: PhoenixClient,
    indexes: Sequence[ExportedIndex],
    users: Sequence[User],
    sweeps: Sequence[Sweep | None],
    settings: Settings,
    *,
    name: str,
    report: Callable[[str], None] = lambda step: None,
) -> Report:
    """Get the exact answers from the server, and grade indexes by them.

    Args:
        client: Connected to the server.
        indexes: The indexes to grade.
        users: The users to search for; at least one.
        sweeps: The sweep of each index.
        settings: How to grade.
        name: The file of the users, for errors.
        report: Called with the current step.

    Raises:
        FileError: An index does not fit what is served, or the server rejects a user.
        PhoenixClientError: A call failed.
    """
    model = client.get_model()
    for index in indexes:
        check_towers(index, model)
    exact = ask(client, model, users, settings, name=name, report=report)
    stale = [check_state(each, exact, allow_stale=settings.allow_stale) for each in indexes]
    graded = [
        grade_index(index, exact, settings, sweep=sweep, stale=old, report=report)
        for index, sweep, old in zip(indexes, sweeps, stale, strict=True)
    ]
    first, last = exact.results[0], exact.results[-1]
    return Report(
        generation=first.generation,
        rows=last.rows_scanned,
        first_sequence=first.sequence,
        last_sequence=last.sequence,
        users=len(users),
        top_k=settings.top_k,
        rbo_p=settings.rbo_p,
        retrieve=_latency(exact.retrieve_s),
        encode=_latency(exact.encode_s),
        indexes=tuple(graded),
    )


def _latency(times_s: Sequence[float]) -> Latency:
    return Latency(p50_ms=1e3 * percentile(times_s, 50), p99_ms=1e3 * percentile(times_s, 99))
