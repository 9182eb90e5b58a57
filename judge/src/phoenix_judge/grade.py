"""Grades an index by exact answers.

Shapes:
    U  users        D  width of a vector        K  exact results of a user
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phoenix_client.errors import FileError
from phoenix_client.types.model import Model
from phoenix_client.types.results import RetrieveResult
from phoenix_judge.exact import Exact
from phoenix_judge.exported_index import MANIFEST, ExportedIndex
from phoenix_judge.measures import percentile, rank_biased_overlap, recall
from phoenix_judge.report import Grade, IndexReport
from phoenix_judge.sweeps import Sweep

_SCORE_TOLERANCE = 1e-4  # sums of float32 differ by some 1e-6; scores of other posts by 1e-2


class _Question(NamedTuple):
    """A user's query, and what is right.

    Attributes:
        query: [D] f32, the user's representation.
        scores: The exact score of each of the K exact results, by post.
        best_first: The same scores, descending.
    """

    query: npt.NDArray[np.float32]
    scores: dict[int, float]
    best_first: tuple[float, ...]


def check_towers(index: ExportedIndex, model: Model) -> None:
    """Check that an index holds vectors of the towers that are served.

    Raises:
        FileError: It does not.
    """
    made_with, served = index.manifest.tower_fingerprint, model.tower_fingerprint
    if made_with != served:
        problem = (
            f"is {made_with}, the server's is {served}: vectors of different towers cannot be"
            " compared; export the corpus that it serves"
        )
        raise FileError(str(index.path / MANIFEST), "tower_fingerprint", problem)


def check_state(index: ExportedIndex, exact: Exact, *, allow_stale: bool) -> bool:
    """Check that an index is of the state of the corpus that answered; return whether it is not.

    Args:
        index: The index.
        exact: What the server answered.
        allow_stale: Take an index of another state, too.

    Raises:
        FileError: It is of another state and that is not allowed, or of another corpus.
    """
    manifest, name = index.manifest, str(index.path / MANIFEST)
    seen = sorted({result.sequence for result in exact.results})
    stale = seen != [manifest.sequence]
    if stale and not allow_stale:
        served = " to ".join(map(str, dict.fromkeys((seen[0], seen[-1]))))
        problem = (
            f"is {manifest.sequence}, the served corpus is at {served}; export it again, or grade"
            " its age too with --allow-stale"
        )
        raise FileError(name, "sequence", problem)
    rows = exact.results[0].rows_scanned
    if not stale and manifest.rows != rows:
        problem = f"is {manifest.rows}, the server scans {rows}: of another corpus"
        raise FileError(name, "rows", problem)
    return stale


def grade_index(
    index: ExportedIndex,
    exact: Exact,
    *,
    sweep: Sweep | None,
    top_k: int,
    repeat: int,
    p: float,
    stale: bool,
    report: Callable[[str], None],
) -> IndexReport:
    """Search an index for every user with each value of a parameter.

    Args:
        index: The index.
        exact: What is right, U users.
        sweep: What to try; None: the search as it is.
        top_k: How many results to ask for.
        repeat: How often to search for each user; all times count.
        p: Persistence of the rank-biased overlap.
        stale: Whether the index is of another state of the corpus.
        report: Called with what is done now.

    Raises:
        FileError: The index holds other posts than the corpus that answered.
    """
    questions = [_question(index, result, stale=stale) for result in exact.results]
    grades: list[Grade] = []
    for value in (None,) if sweep is None else sweep.values:
        setting = "" if sweep is None else f"{sweep.parameter}={value}"
        report(f"searching {index.path.name} {setting}")
        if sweep is not None and value is not None:
            index.searcher.set(sweep.parameter, value)
        found, times_s = _search(index, questions, top_k=top_k, repeat=repeat)
        recalls, overlaps = zip(
            *(_mark(index, *each, p=p) for each in zip(questions, found, strict=True)), strict=True
        )
        grades.append(
            Grade(
                setting=setting,
                value=value,
                recall=fmean(recalls),
                least_recall=min(recalls),
                rbo=fmean(overlaps),
                p50_ms=1e3 * percentile(times_s, 50),
                p99_ms=1e3 * percentile(times_s, 99),
            )
        )
    return IndexReport(
        name=index.path.name,
        made_as=index.manifest.made_as,
        sequence=index.manifest.sequence,
        stale=stale,
        grades=tuple(grades),
    )


def _question(index: ExportedIndex, result: RetrieveResult, *, stale: bool) -> _Question:
    """Score the exact results as what the index finds will be scored.

    Raises:
        FileError: The index holds another vector for a post than answered, or none.
    """
    query = np.array(result.user_representation, np.float32)
    candidates = result.candidates
    rows = index.rows_of(candidates.post_ids)
    held = iter(index.scores(query, [row for row in rows if row is not None]))
    scores: dict[int, float] = {}
    for post_id, served, row in zip(candidates.post_ids, candidates.scores, rows, strict=True):
        score = None if row is None else next(held)
        if score is not None and abs(score - served) <= _SCORE_TOLERANCE:
            scores[post_id] = score
        elif stale:
            scores[post_id] = served
        else:
            what = "no such post" if score is None else f"a vector that scores {score:.6f}"
            problem = f"holds {what}, post {post_id} scored {served:.6f}: of another corpus"
            raise FileError(str(index.path), "", problem)
    return _Question(query, scores, tuple(sorted(scores.values(), reverse=True)))


def _search(
    index: ExportedIndex, questions: Sequence[_Question], *, top_k: int, repeat: int
) -> tuple[list[Sequence[int]], list[float]]:
    """Return the rows found for each user, and how long the searches took, in seconds."""
    search = index.searcher.search
    search(questions[0].query, top_k)  # untimed: it brings the index into memory
    found: list[Sequence[int]] = []
    times_s: list[float] = []
    for turn in range(repeat):
        for question in questions:
            began_s = time.perf_counter()
            rows = search(question.query, top_k)
            times_s.append(time.perf_counter() - began_s)
            if not turn:
                found.append(rows)
    return found, times_s


def _mark(
    index: ExportedIndex, question: _Question, rows: Sequence[int], *, p: float
) -> tuple[float, float]:
    """Return the recall and the rank-biased overlap of what was found for a user."""
    known, right = question.scores, question.best_first
    rows = rows[: len(right)]  # a corpus that has shrunk since may hold fewer than were asked for
    own = index.scores(question.query, rows)
    scores = [
        known.get(post_id, score) for post_id, score in zip(index.post_ids(rows), own, strict=True)
    ]
    return recall(right, scores), rank_biased_overlap(right, scores, p)
