"""Bring a corpus in memory up to date from the journal."""

from collections.abc import Callable

from phoenix_server.corpus.disk.reencode import reencode_history
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.updates.commands import SearchedCorpus
from phoenix_server.errors import CorpusError


def replay(
    store: Store,
    engine: SearchedCorpus,
    run_between: Callable[[Callable[[], None]], None] = lambda function: function(),
) -> int:
    """Apply the changes that a corpus in memory has not seen, with vectors of its own towers.

    Args:
        store: The corpus on the disk.
        engine: The corpus in memory.
        run_between: Runs a function between two batches. Default: there are no batches.

    Returns:
        How many changes there were.

    Raises:
        CorpusError: A change is missing or damaged, or there is no room for the posts.
    """
    seen = engine.corpus.sequence
    history = store.read_history(seen)
    if not history.changes:
        if store.snapshot.manifest.sequence > seen:  # the journal was trimmed
            what = f"does not hold the changes from {seen + 1} on any more"
            raise CorpusError(store.path, what)
        return 0
    change = reencode_history(history, engine).net()
    last = seen + history.changes

    def apply() -> None:
        if engine.corpus.sequence == seen:  # or the worker has applied these changes meanwhile
            engine.apply(change, last)

    try:
        run_between(apply)
    except ValueError as exc:
        raise CorpusError(store.path, f"cannot hold its changes: {exc}") from exc
    return history.changes
