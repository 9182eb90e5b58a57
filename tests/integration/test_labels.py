"""Labels over the wire: new ones take the places of those that no post has any more."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from google.rpc import code_pb2

from integration.conftest import QUICK
from integration.generation_cases import serve
from integration.wire import Stubs, failure, violations
from phoenix_retrieval.v1 import model_service_pb2 as model_pb
from phoenix_retrieval.v1 import retrieval_service_pb2 as pb
from phoenix_server.config import ServeConfig
from phoenix_server.corpus.disk.snapshot import open_snapshot
from phoenix_server.service.field_count import max_fields

_FREE = 3  # labels beside those of the golden posts


@pytest.fixture
def golden_labels(corpus: Path) -> set[str]:
    return set(open_snapshot(corpus).manifest.label_names)


def _write(stubs: Stubs, post_id: int, *names: str) -> None:
    """Write a post with some labels."""
    stubs.upsert(
        post_id,
        vectors=stubs.user_vector(),
        label_names=names,
        label_counts=[len(names)],
        label_indices=range(len(names)),
    )


def _labels(stubs: Stubs, *post_ids: int) -> list[set[str]]:
    """Return the labels of posts."""
    found = stubs.posts(*post_ids)
    names = (found.label_names[index] for index in found.label_indices)
    return [set(islice(names, count)) for count in found.label_counts]


def _found(stubs: Stubs, **conditions: Any) -> list[int]:
    """Return the posts that meet a filter, in order of their ids."""
    return sorted(stubs.retrieve(top_k=9, filter=pb.Filter(**conditions)).post_ids)


def test_labels_of_posts_that_are_gone_give_way_for_ever(
    config: ServeConfig, golden_labels: set[str]
) -> None:
    most = len(golden_labels) + _FREE
    config = replace(config, engine=replace(QUICK, max_labels=most))
    with serve(config) as stubs:
        for n in range(0, 15, _FREE):
            names = [f"label {n}", f"label {n + 1}", f"label {n + 2}"]
            _write(stubs, 1, *names)
            state = stubs.state()
            assert set(state.label_names) == golden_labels.union(names)
            assert state.max_labels == most
            assert _found(stubs, any_labels=names[:1]) == [1]
            if n:
                gone = f"label {n - 1}"
                assert violations(lambda name=gone: _found(stubs, none_labels=[name])) == {
                    "filter.none_labels": f"the corpus does not know the label {gone!r}"
                }
        before = stubs.state()
        status = failure(lambda: _write(stubs, 2, "more"))
        assert status.code == code_pb2.RESOURCE_EXHAUSTED
        assert f"has {most} of at most {most} labels, 1 more came" in status.message
        assert stubs.state() == before
        stubs.delete(1)
        assert set(stubs.state().label_names) == set(before.label_names)
        assert _found(stubs, any_labels=["label 14"]) == []
        _write(stubs, 2, "more")
        _write(stubs, 3, "more", "again")
        assert _found(stubs, any_labels=["more"]) == [2, 3]
        assert _found(stubs, all_labels=["more", "again"]) == [3]
        after = stubs.state()
        assert golden_labels | {"more", "again"} < set(after.label_names)
        assert len(after.label_names) == most
        assert _labels(stubs, 2, 3) == [{"more"}, {"more", "again"}]
    for wants_snapshot in (True, False):  # from the journal, then from a snapshot
        with serve(config) as stubs:
            assert _labels(stubs, 2, 3) == [{"more"}, {"more", "again"}]
            assert len(stubs.state().label_names) == most
            assert golden_labels | {"more", "again"} < set(stubs.state().label_names)
            assert _found(stubs, any_labels=["more"]) == [2, 3]
            if wants_snapshot:
                stubs.snapshot()
            else:
                model = stubs.model.GetModel(model_pb.GetModelRequest())
                assert len(model.corpus.label_names) == most
                _write(stubs, 4, "last")
                assert _found(stubs, any_labels=["last"]) == [4]


def test_a_request_takes_no_place_for_a_label_that_none_of_its_posts_has(
    config: ServeConfig, golden_labels: set[str]
) -> None:
    most = len(golden_labels) + _FREE
    with serve(replace(config, engine=replace(QUICK, max_labels=most))) as stubs:
        before = stubs.state()
        stubs.upsert(1, vectors=stubs.user_vector(), label_names=["a", "b"], label_counts=[0])
        assert stubs.state().label_names == before.label_names


def test_posts_may_have_all_labels_of_a_corpus_with_more_than_the_option(
    config: ServeConfig,
) -> None:
    names = [f"label {n}" for n in range(max_fields(config.limits, max_labels=3))]
    with serve(replace(config, engine=replace(QUICK, max_labels=len(names) + 99))) as stubs:
        _write(stubs, 1, *names)
        stubs.snapshot()
    with serve(replace(config, engine=replace(QUICK, max_labels=3))) as stubs:
        _write(stubs, 2, *names)
        assert _labels(stubs, 2) == [set(names)]
