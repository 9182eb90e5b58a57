"""`phoenix-server repair`."""

from pathlib import Path

from phoenix_server.cli.console import say, write_line
from phoenix_server.corpus.disk.repair import LOST, accept_loss, describe, examine
from phoenix_server.errors import CorpusError


def repair(corpus: Path, /, *, accept_loss_after: int | None = None) -> None:
    """Say what is damaged or missing of a corpus, and go on from what is whole.

    Args:
        corpus: Directory of the corpus. No server may write it.
        accept_loss_after: Keep the changes up to this number, and give up what came later. What is
            given up is moved to CORPUS/lost.
    """
    accepted = accept_loss_after
    found = examine(corpus) if accepted is None else accept_loss(corpus, accepted)
    for line in describe(corpus, found):
        write_line(line)
    if accepted is not None:
        say(f"{corpus} goes on after change {accepted}; the rest is in {corpus / LOST}.")
    elif not found.is_whole:
        hint = f"restore what is missing, or give it up with --accept-loss-after {found.last}"
        raise CorpusError(corpus, f"is not whole: {hint}")
