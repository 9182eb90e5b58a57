"""Grade an index by exact answers.

Shapes:
    U  users        D  width of a vector        K  exact results of a user
"""

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
from phoenix_judge.settings import Settings
from phoenix_judge.sweeps import Sweep

_SCORE_TOLERANCE = 1e-4  # float32 sums differ by about 1e-6, scores of other posts by 1e-2


class _Query(NamedTuple):
    """A user's query, and the exact answer.

    Attributes:
        vector: [D] f32, the user's representation.
        scores: The exact scores of the K exact results, by post.
    """

    vector: npt.NDArray[np.float32]
    scores: dict[int, float]


def check_towers(index: ExportedIndex, model: Model) -> None:
    """Check that the served towers encoded the vectors of an index.

    Raises:
        FileError: Other towers did.
    """
    made_with, served = index.manifest.tower_fingerprint, model.tower_fingerprint
    if made_with != served:
        problem = (
            f"is {made_with}, the server's is {served}: vectors of different towers cannot be"
            " compared; export the corpus that it serves"
        )
        raise FileError(str(index.path / MANIFEST), "tower_fingerprint", problem)


def check_state(index: ExportedIndex, exact: Exact, *, allow_stale: bool) -> bool:
    """Return whether an index is stale: of another state of the corpus than the answers.

    Args:
        index: The index.
        exact: The answers.
        allow_stale: Accept a stale index.

    Raises:
        FileError: It is stale and that is not allowed, or it is of another corpus.
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
    settings: Settings,
    *,
    sweep: Sweep | None,
    stale: bool,
    report: Callable[[str], None],
) -> IndexReport:
    """Search an index for every user with each value of a parameter.

    Args:
        index: The index.
        exact: The exact answers, U users.
        settings: How to grade. Each of the `repeat` searches for a user counts in the times.
        sweep: The values to try; None: search once, as the index is.
        stale: Whether the index is of another state of the corpus.
        report: Called with the current step.

    Raises:
        FileError: The index holds other posts than the corpus that answered.
    """
    queries = [_query(index, result, stale=stale) for result in exact.results]
    grades: list[Grade] = []
    for value in (None,) if sweep is None else sweep.values:
        setting = "" if sweep is None else f"{sweep.parameter}={value}"
        report(f"searching {index.path.name} {setting}")
        if sweep is not None and value is not None:
            index.searcher.set(sweep.parameter, value)
        found, times_s = _search(index, queries, top_k=settings.top_k, repeat=settings.repeat)
        answers = zip(queries, found, strict=True)
        measured = [_measure(index, *answer, p=settings.rbo_p) for answer in answers]
        recalls, overlaps = zip(*measured, strict=True)
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


def _query(index: ExportedIndex, result: RetrieveResult, *, stale: bool) -> _Query:
    """Score the exact results with the vectors by which the results of the index are scored.

    Raises:
        FileError: The index holds another vector for a post than the server, or none.
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
    return _Query(query, scores)


def _search(
    index: ExportedIndex, queries: Sequence[_Query], *, top_k: int, repeat: int
) -> tuple[list[Sequence[int]], list[float]]:
    """Return the rows found for each user, and the duration of each search, in seconds."""
    search = index.searcher.search
    search(queries[0].vector, top_k)  # untimed: it reads the index into memory
    found: list[Sequence[int]] = []
    times_s: list[float] = []
    for turn in range(repeat):
        for query in queries:
            began_s = time.perf_counter()
            rows = search(query.vector, top_k)
            times_s.append(time.perf_counter() - began_s)
            if not turn:
                found.append(rows)
    return found, times_s


def _measure(
    index: ExportedIndex, query: _Query, rows: Sequence[int], *, p: float
) -> tuple[float, float]:
    """Return the recall and the rank-biased overlap of the rows found for a user."""
    right = sorted(query.scores.values(), reverse=True)
    rows = rows[: len(right)]  # a corpus that has shrunk since may hold fewer than k
    own = index.scores(query.vector, rows)
    scores = list(map(query.scores.get, index.post_ids(rows), own))
    return recall(right, scores), rank_biased_overlap(right, scores, p)
