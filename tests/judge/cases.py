"""Cases for tests of exported indexes."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

from phoenix_judge.index_builders import FaissOptions
from phoenix_server.corpus.changes import Change
from phoenix_server.corpus.disk.store import Store

ROWS = 20
FLAT = FaissOptions(factory="Flat")


def manifest_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "index.json").read_text())


def change(path: Path, *changes: Change) -> None:
    """Append changes to the journal, as a server does."""
    with closing(Store(path)) as store:
        first = (store.journal.last() or store.snapshot.manifest.sequence) + 1
        store.append(first, changes)
