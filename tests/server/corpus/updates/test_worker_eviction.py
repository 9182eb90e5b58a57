"""The oldest posts of a corpus that is full are deleted to make room for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest

from phoenix_server.corpus.changes import Change, ChangeResult, Posts
from phoenix_server.errors import CorpusFullError, StorageError
from server.corpus.change_cases import id_array, posts_of
from server.corpus.reference import Model
from server.corpus.updates.worker_cases import (
    CAPACITY,
    assert_holds,
    assert_kept,
    outcomes_of,
    running_corpus,
)


async def test_random_changes_evict_what_they_do_one_by_one(corpus: Path, model: Model) -> None:
    rng, number = np.random.default_rng(1), 0
    for _ in range(3):  # and after a restart
        async with running_corpus(corpus, evict_oldest=True) as running:
            for _ in range(6):
                changes: list[Change] = []
                for _ in range(int(rng.integers(1, 8))):
                    ids = rng.choice(80, int(rng.integers(1, 30)), replace=False) + 1
                    posts = posts_of(ids.tolist(), seed=int(rng.integers(2**32)))
                    changes.append(posts if rng.random() < 0.8 else posts.post_ids)
                outcomes = await outcomes_of(await running.together(*changes))
                number += 1
                for change, outcome in zip(changes, outcomes, strict=True):
                    ids = change.post_ids if isinstance(change, Posts) else change
                    known = sum(post_id in model for post_id in ids.tolist())
                    number += 1
                    if isinstance(change, Posts):
                        evicted = len(model.evict(ids, CAPACITY))
                        number += evicted > 0
                        assert outcome == ChangeResult(number, len(ids) - known, known, 0, evicted)
                    else:
                        assert outcome == ChangeResult(number, 0, 0, known)
                    model.apply(change)
                assert_holds(running.target.corpus, model)
    assert_kept(corpus, model, number)


async def test_what_was_found_to_be_old_counts_even_if_a_change_is_not_made(
    corpus: Path, model: Model, connections: list[apsw.Connection]
) -> None:
    async with running_corpus(corpus, evict_oldest=True) as running:
        first, second = posts_of(range(101, 130), names=[]), posts_of(range(131, 140), names=[])
        assert await running.done(first) == [ChangeResult(2, 29, 0, 0, 9)]
        for change in (id_array(*range(1, 10)), first):
            model.apply(change)
        pages: Any = connections[0].execute("PRAGMA page_count").get
        connections[0].execute(f"PRAGMA max_page_count = {pages}")
        large = await running.together(second, id_array(*range(1000, 9000)))
        assert all(isinstance(outcome, StorageError) for outcome in await outcomes_of(large))
        connections[0].execute("PRAGMA max_page_count = 1000000")
        assert_holds(running.target.corpus, model)
        (done,) = await running.done(second)
        assert (done.inserted, done.evicted) == (9, 9)
        assert model.evict(second.post_ids, CAPACITY) == list(range(10, 19))
        model.apply(second)
        assert_holds(running.target.corpus, model)


async def test_posts_that_do_not_fit_an_empty_corpus_evict_nobody(
    corpus: Path, model: Model
) -> None:
    async with running_corpus(corpus, evict_oldest=True) as running:
        with pytest.raises(CorpusFullError, match="room for 20 more posts of 40, 41 came"):
            await running.done(posts_of(range(101, 142), names=[]))
        assert_holds(running.target.corpus, model)
        all_new = posts_of(range(101, 141), names=[])
        assert await running.done(all_new) == [ChangeResult(2, 40, 0, 0, 20)]
        model = Model.of(all_new)
        assert_holds(running.target.corpus, model)
