"""Generations: pairs of a bundle and a corpus that the server has loaded."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class GenerationState(StrEnum):
    """The state of a generation: `phoenix_retrieval.v1.GenerationState` without the prefix.

    LOADING: being loaded. READY: can be activated (standby or rollback). ACTIVE: answers queries.
    FAILED: could not be loaded.
    """

    LOADING = "loading"
    READY = "ready"
    ACTIVE = "active"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A bundle and a corpus that belong together.

    Attributes:
        number: Counts the generations of this server process, from 1.
        state: Its state.
        generation: Its name, as in answers; empty while LOADING and if FAILED.
        bundle: The bundle's directory, on the server.
        corpus: The corpus's directory, on the server.
        tower_fingerprint: Hash of all that decides an embedding; empty if the name is.
        corpus_rows: Posts in its corpus; 0 if the name is empty.
        sequence: Number of the last change that it includes. A generation that is not active falls
            behind; activation replays what it lacks.
        previous: Whether it is the rollback generation, to which `roll_back_generation` returns.
        reason: Why it could not be loaded; empty unless FAILED.
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
