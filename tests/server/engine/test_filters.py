"""Masks of filters over the golden corpus, against numpy."""

from pathlib import Path

import jax
import numpy as np
import numpy.typing as npt
import pytest

from phoenix_server.corpus.changes import Ids, PostColumns, net
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.corpus.memory.index import CorpusIndex
from phoenix_server.engine.engine import Engine
from phoenix_server.engine.filters import Filter, FilterMasks
from phoenix_server.runtime.program_cache import ProgramCache
from server.corpus.change_cases import id_array, labelled, written_corpus
from server.search.cases import unpack_masks

BATCH = 2


class _Masks:
    """Filters applied to the golden corpus."""

    def __init__(self, engine: Engine, snapshot: Snapshot) -> None:
        self.columns: PostColumns = snapshot.columns()
        self._rows = engine.corpus.layout.spread(len(engine.corpus))
        self._masks = FilterMasks(engine.corpus, ProgramCache())
        self._masks.compile(BATCH)

    def of(self, *filters: Filter | None) -> npt.NDArray[np.bool_]:
        """Return which posts each filter lets pass: [B, N]."""
        masks = self._masks.masks(filters, self._masks.look_up(filters), BATCH)
        bits = unpack_masks(masks)
        assert not np.delete(bits, self._rows, axis=1).any()  # free rows
        return bits[:, self._rows]

    def has(self, label: str) -> npt.NDArray[np.bool_]:
        """Return which posts have a label: [N]."""
        counts = self.columns.labels.counts
        found = np.zeros(len(counts), np.bool_)
        code = self.columns.labels.names.index(label)
        found[np.repeat(np.arange(len(counts)), counts)[self.columns.labels.indices == code]] = True
        return found


@pytest.fixture(scope="module")
def masks(engine: Engine, snapshot: Snapshot) -> _Masks:
    return _Masks(engine, snapshot)


def test_without_conditions_all_posts_pass(masks: _Masks) -> None:
    assert masks.of(None, Filter()).all()
    assert masks.of(None).all()  # the second query is padding


def test_times_are_from_since_on_and_before_before(masks: _Masks) -> None:
    times = masks.columns.created_at_unix_ms
    since, before = (int(time) for time in np.quantile(times, (0.3, 0.6), method="nearest"))
    found = masks.of(
        Filter(since_unix_ms=since, before_unix_ms=before), Filter(since_unix_ms=since)
    )
    np.testing.assert_array_equal(found[0], (times >= since) & (times < before))
    np.testing.assert_array_equal(found[1], times >= since)


def test_labels_are_any_of_all_of_and_none_of(masks: _Masks) -> None:
    first, second, third = masks.columns.labels.names[:3]
    found = masks.of(
        Filter(any_labels=(first, second)),
        Filter(all_labels=(first,), none_labels=(second, third)),
    )
    np.testing.assert_array_equal(found[0], masks.has(first) | masks.has(second))
    expected = masks.has(first) & ~masks.has(second) & ~masks.has(third)
    np.testing.assert_array_equal(found[1], expected)


def test_excluded_posts_and_posts_of_excluded_authors_do_not_pass(masks: _Masks) -> None:
    ids, authors = masks.columns.post_ids, masks.columns.author_ids
    unknown = np.array([1, 2**64 - 1], np.uint64)
    excluded: Ids = np.concatenate([ids[::3], ids[:5], unknown])
    found = masks.of(
        Filter(excluded_post_ids=excluded, excluded_author_ids=authors[:2]),
        Filter(excluded_author_ids=authors[7:8]),
    )
    gone = np.isin(ids, excluded) | np.isin(authors, authors[:2])
    np.testing.assert_array_equal(found[0], ~gone)
    np.testing.assert_array_equal(found[1], authors != authors[7])


def test_more_exclusions_than_one_device_call_takes_are_all_applied(
    engine: Engine, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phoenix_server.engine.filters._EXCLUSIONS", 1000)
    masks = _Masks(engine, snapshot)
    ids = masks.columns.post_ids
    everything_but_one = Filter(excluded_post_ids=ids[1:])
    found = masks.of(everything_but_one, Filter(excluded_post_ids=ids[:1500]))
    assert np.flatnonzero(found[0]).tolist() == [0]
    assert np.flatnonzero(found[1]).tolist() == list(range(1500, len(ids)))


def test_only_conditions_before_the_selection_need_a_mask() -> None:
    one = np.ones(1, np.uint64)
    assert not Filter().needs_mask
    assert not Filter(min_score=0.5).needs_mask
    for condition in (
        Filter(since_unix_ms=0),
        Filter(before_unix_ms=0),
        Filter(any_labels=("a",)),
        Filter(all_labels=("a",)),
        Filter(none_labels=("a",)),
        Filter(excluded_post_ids=one),
        Filter(excluded_author_ids=one),
    ):
        assert condition.needs_mask


def test_a_label_that_gave_way_while_a_query_waited_is_one_that_no_post_has(
    tmp_path: Path,
) -> None:
    snapshot, _ = written_corpus(tmp_path / "corpus", 20)
    programs = ProgramCache()
    corpus = CorpusIndex(snapshot, tuple(jax.devices()[:1]), capacity=30, max_labels=2)
    corpus.arrays.compile_updates(programs)
    masks = FilterMasks(corpus, programs)
    masks.compile(3)

    def found(*filters: Filter) -> list[list[int]]:
        bits = unpack_masks(masks.masks(filters, masks.look_up(filters), 3))
        return [sorted(corpus.post_ids[each].tolist()) for each in bits]

    asked = Filter(any_labels=("red",)), Filter(all_labels=("red",)), Filter(none_labels=("red",))
    red = [n for n in range(1, 21) if n % 3 != 1]
    others = [n for n in range(1, 21) if n % 3 == 1]
    assert found(*asked) == [red, red, others]
    corpus.apply(net([id_array(*red), labelled([1, 7], "new", "newer")]), 2)
    assert set(corpus.labels.names) == {"new", "newer"}
    assert found(*asked) == [[], [], others]
    named = Filter(any_labels=("red", "new")), Filter(all_labels=("new", "red"))
    assert found(*named, Filter(none_labels=("new", "red"))) == [[1, 7], [], [4, 10, 13, 16, 19]]
