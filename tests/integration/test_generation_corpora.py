"""Generations of other corpora, and corpora of other bundles; while it serves and at a start."""

from dataclasses import replace
from pathlib import Path

import pytest

from integration.generation_cases import assert_exact, serve
from integration.wire import Stubs
from phoenix_server.build.import_npz import import_corpus
from phoenix_server.bundle.bundle import open_bundle
from phoenix_server.config import ServeConfig
from phoenix_server.errors import CorpusError


@pytest.fixture
def other(config: ServeConfig, golden_layout: Path, tmp_path: Path) -> Path:
    """Return another corpus of the same posts."""
    out = tmp_path / "another"
    import_corpus(golden_layout / "sports_corpus.npz", open_bundle(config.bundle), out)
    return out


def test_a_corpus_that_is_not_active_can_be_loaded_again(
    served: Stubs, config: ServeConfig, other: Path, posts: list[int]
) -> None:
    served.load(corpus=str(other), activate=True)
    served.upsert(1)
    served.load(corpus=str(config.corpus), activate=True)
    assert served.missing(1) == [1]
    served.load(corpus=str(other), activate=True)
    assert_exact(served, [*posts, 1])


def test_a_new_corpus_comes_with_its_own_changes(
    served: Stubs, other: Path, posts: list[int]
) -> None:
    served.upsert(1)
    loaded = served.load(corpus=str(other), activate=True)
    assert loaded.sequence == 0
    assert served.missing(1) == [1]
    served.upsert(7)
    assert_exact(served, [*posts, 7])
    assert served.roll_back().number == 1
    assert_exact(served, [*posts, 1])
    assert served.missing(1, 7) == [7]


@pytest.mark.parametrize("bundle", [None, "others"])
def test_a_restart_has_all_changes_whichever_bundle_it_is_given(
    bundle: str | None, config: ServeConfig, others: list[Path], posts: list[int]
) -> None:
    with serve(config) as served:
        served.upsert(1)
        served.load(bundle=str(others[0]), activate=True)
        served.upsert(2)
        served.snapshot()
        served.upsert(3)
    if bundle is not None:
        config = replace(config, bundle=others[0])
    with serve(config) as served:
        assert_exact(served, [*posts, 1, 2, 3])
        assert served.upsert(4).sequence == 4


def test_a_corpus_of_other_towers_is_served_only_if_asked_for(
    config: ServeConfig, others: list[Path], posts: list[int]
) -> None:
    config = replace(config, bundle=others[1])
    with pytest.raises(CorpusError, match="was built with other towers"), serve(config):
        pass
    for read_only in (True, False):
        with serve(replace(config, encode_anew=True, read_only=read_only)) as served:
            assert_exact(served, posts)
