"""The cost of filters: a batch of queries with masks against the same batch without.

Shapes:
    B  queries of a batch        N  posts of the corpus       D  width of a vector
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import jax
import numpy as np
import numpy.typing as npt

from phoenix_bench.timing import Pace, time_in_turns
from phoenix_server.corpus.changes import PostColumns
from phoenix_server.corpus.disk.snapshot import open_snapshot
from phoenix_server.corpus.memory.index import CorpusIndex, default_capacity
from phoenix_server.engine.compiled_search import CompiledSearch
from phoenix_server.engine.filters import Filter, FilterMasks
from phoenix_server.runtime.devices import choose_devices
from phoenix_server.runtime.program_cache import ProgramCache

UNFILTERED = "unfiltered"
ALL_KINDS = "all kinds"
EXCLUSIONS = "exclusions"
LOOK_UP = "look-up of exclusions"

_MAX_LABELS = 256
_LABELS = 3  # number of any_labels and of none_labels
_AUTHORS = 20  # excluded in `ALL_KINDS`


def time_filters(
    corpus: Path, *, batch: int, top_k: int, excluded: int, pace: Pace
) -> Mapping[str, npt.NDArray[np.float64]]:
    """Time a batch without filters and with a different filter for each query, in turns.

    Args:
        corpus: A corpus with labels.
        batch: B.
        top_k: Number of results of each query.
        excluded: Number of posts that each query excludes, all of them in the corpus; a tenth of
            that in `ALL_KINDS`.
        pace: How long to measure.

    Returns:
        Times in seconds of `UNFILTERED`, `ALL_KINDS`, `EXCLUSIONS`, and of `LOOK_UP`, the part of
        `EXCLUSIONS` that the host does before the device starts.
    """
    snapshot = open_snapshot(corpus)
    rows = snapshot.manifest.rows
    index = CorpusIndex(
        snapshot,
        choose_devices(1),
        capacity=default_capacity(rows),
        max_labels=_MAX_LABELS,
    )
    programs = ProgramCache()
    searches, filters = CompiledSearch(index, programs), FilterMasks(index, programs)
    filters.compile(batch)
    searches.compile(batch, top_k)
    rng = np.random.default_rng(0)
    queries = jax.device_put(
        rng.standard_normal((batch, snapshot.manifest.embedding_size), np.float32)
    )
    columns, names = snapshot.columns(), index.labels.names
    everything = [_all_kinds(rng, columns, names, excluded // 10) for _ in range(batch)]
    only = [
        Filter(excluded_post_ids=rng.choice(columns.post_ids, excluded, replace=False))
        for _ in range(batch)
    ]

    def search(wanted: list[Filter] | None) -> None:
        masks = None
        if wanted is not None:
            masks = filters.masks(wanted, filters.look_up(wanted), batch)
        jax.block_until_ready(searches.top_k(queries, [top_k] * batch, masks))

    def look_up() -> None:
        for each in only:
            index.find_exclusions(each.excluded_post_ids, each.excluded_author_ids)

    calls: dict[str, Callable[[], object]] = {
        UNFILTERED: partial(search, None),
        ALL_KINDS: partial(search, everything),
        EXCLUSIONS: partial(search, only),
        LOOK_UP: look_up,
    }
    return time_in_turns(calls, pace)


def _all_kinds(
    rng: np.random.Generator, columns: PostColumns, names: tuple[str, ...], excluded: int
) -> Filter:
    """Draw a filter with every kind of condition."""
    since, before = np.sort(rng.choice(columns.created_at_unix_ms, 2)).tolist()
    codes = rng.permutation(len(names))[: 2 * _LABELS + 1]
    any_of, all_of, none_of = np.split(codes, [_LABELS, _LABELS + 1])
    return Filter(
        since_unix_ms=since,
        before_unix_ms=before,
        any_labels=tuple(names[i] for i in any_of),
        all_labels=tuple(names[i] for i in all_of),
        none_labels=tuple(names[i] for i in none_of),
        excluded_post_ids=rng.choice(columns.post_ids, excluded, replace=False),
        excluded_author_ids=rng.choice(columns.author_ids, _AUTHORS),
    )
