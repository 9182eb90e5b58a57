"""Exported indexes of the fake server's posts, and what the command `grade` printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from commands import Outcome
from fake_server.server import REPRESENTATION

ROWS = 1234  # as the server says that it scans

WIDTH = 3

USER = {"user_id": 7, "history": []}

MANIFEST: dict[str, Any] = {
    "format_version": 1,
    "format": "faiss",
    "tower_fingerprint": "f00d",
    "sequence": 0,
    "rows": ROWS,
    "embedding_size": WIDTH,
    "factory": "Flat",
}

Make = Callable[..., Path]


def vectors_of(scores: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return vectors that score so for the user: [n, 3]."""
    vectors = np.outer(scores, REPRESENTATION)
    vectors[:, 1] = np.linspace(-1, 1, len(scores))  # where the user's is 0
    return vectors.astype(np.float32)


def judged(outcome: Outcome) -> dict[str, Any]:
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.count("\n") == 1
    return json.loads(outcome.out)


def grade(outcome: Outcome) -> dict[str, Any]:
    ((grade,),) = (index["grades"] for index in judged(outcome)["indexes"])
    return grade


def assert_fails(outcome: Outcome, *parts: object) -> None:
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith("phoenix-judge: ") and outcome.err.count("\n") == 1
    for part in parts:
        assert str(part) in outcome.err
