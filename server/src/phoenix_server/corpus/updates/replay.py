"""Bring a corpus in memory up to date from the journal."""

from collections.abc import Callable

from phoenix_server.corpus.disk.reencode import reencode_history
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.updates.pending import Target
from phoenix_server.errors import CorpusError

Between = Callable[[Callable[[], None]], None]


def catch_up(store: Store, target: Target, between: Between | None = None) -> int:
    """Apply the changes that a target has not seen, with vectors of its own towers.

    Args:
        store: The corpus, with its journal.
        target: Holds the posts.
        between: Runs a function between two of its batches. Default: it has none.

    Returns:
        How many there were.

    Raises:
        CorpusError: One is missing or damaged, or there is no room for them.
    """
    began = target.corpus.sequence
    history = store.read_history(began)
    if not history.changes:
        if store.snapshot.manifest.sequence > began:  # the journal was trimmed
            raise CorpusError(store.path, f"does not hold the changes from {began + 1} on any more")
        return 0
    change = reencode_history(history, target).net()
    last = began + history.changes

    def apply() -> None:
        if target.corpus.sequence == began:  # or changes go there by now, and have overtaken these
            target.apply(change, last)

    try:
        if between is None:
            apply()
        else:
            between(apply)
    except ValueError as exc:
        raise CorpusError(store.path, f"cannot hold its changes: {exc}") from exc
    return history.changes
