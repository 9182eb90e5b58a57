"""What the server could serve: bundles and corpora that it has loaded, one of which answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class GenerationState(StrEnum):
    """What a generation is doing: `phoenix_retrieval.v1.GenerationState` without the prefix.

    LOADING: it is being loaded. READY: it can be activated. ACTIVE: it answers. FAILED: it could
    not be loaded.
    """

    LOADING = "loading"
    READY = "ready"
    ACTIVE = "active"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A bundle and a corpus that belong together.

    Attributes:
        number: Counts what this server has loaded, from 1.
        state: What it is doing.
        generation: Its name, as answers have it; empty while it is being loaded or if it failed.
        bundle: The bundle's directory, on the server.
        corpus: The corpus's directory, on the server.
        tower_fingerprint: Hash of all that decides an embedding; empty as the name is.
        corpus_rows: Posts in its corpus; 0 where the name is empty.
        sequence: Number of the last change that it has seen. One that does not answer falls behind,
            and is brought up to date when it is activated.
        previous: Whether `roll_back_generation` would go back to it.
        reason: Why it could not be loaded; empty unless it failed.
    """

    number: int
    state: GenerationState
    generation: str
    bundle: str
    corpus: str
    tower_fingerprint: str
    corpus_rows: int
    sequence: int
    previous: bool
    reason: str
