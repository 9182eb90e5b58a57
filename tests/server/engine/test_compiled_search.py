"""The compiled searches of a corpus, their masks and their times."""

from typing import Any

import jax
import numpy as np
import pytest

from phoenix_server.bundle.bundle import Bundle
from phoenix_server.bundle.towers import EncodedUsers
from phoenix_server.config import EngineConfig
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.corpus.memory.index import CorpusIndex
from phoenix_server.engine.compiled_search import CompiledSearch
from phoenix_server.engine.engine import Engine
from phoenix_server.errors import StartupError
from phoenix_server.runtime.program_cache import ProgramCache
from phoenix_server.search import sharded
from phoenix_server.search.shard import ScanConfig, Shard
from phoenix_server.search.shard_search import ShardTopK, search_shard

WIDTH = 128


@pytest.fixture(scope="module")
def corpus(engine: Engine) -> CorpusIndex:
    return engine.corpus


@pytest.fixture(scope="module")
def searches(corpus: CorpusIndex) -> CompiledSearch:
    searches = CompiledSearch(corpus, ProgramCache())
    for size in ((1, 7), (4, 7), (4, 250)):
        searches.compile(*size)
    searches.compile_assembly(2, 4)
    return searches


def _queries(searches: CompiledSearch, corpus: CorpusIndex, batch: int) -> jax.Array:
    queries = np.random.default_rng(1).standard_normal((batch, WIDTH), np.float32)
    return jax.device_put(queries, corpus.layout.devices[0])


@pytest.mark.parametrize(("top_k", "compiled"), [(1, 7), (7, 7), (8, 250), (250, 250)])
def test_a_search_runs_with_the_next_compiled_number_of_results(
    searches: CompiledSearch, corpus: CorpusIndex, top_k: int, compiled: int
) -> None:
    queries = _queries(searches, corpus, 4)
    found = searches.top_k(queries, [top_k] * 4)
    assert found.rows.shape == (4, compiled)
    for i in range(4):
        scores = searches.scores(queries[i])
        best = np.sort(scores)[::-1][:top_k]
        np.testing.assert_array_equal(np.asarray(found.scores)[i, :top_k], best)
        np.testing.assert_array_equal(scores[np.asarray(found.rows)[i, :top_k]], best)
    assert np.asarray(found.eligible).tolist() == [len(corpus)] * 4


def test_free_rows_score_minus_infinity(searches: CompiledSearch, corpus: CorpusIndex) -> None:
    scores = searches.scores(np.ones(WIDTH, np.float32))
    assert len(scores) == corpus.layout.total_rows
    live = corpus.layout.spread(len(corpus))
    assert np.isfinite(scores[live]).all()
    assert np.isneginf(np.delete(scores, live)).all()


def test_a_batch_runs_in_the_next_compiled_size(searches: CompiledSearch) -> None:
    assert [searches.batch_size(users) for users in (1, 2, 4)] == [1, 4, 4]
    assert searches.seconds(3) == searches.seconds(4) > 0


def test_users_of_a_chunk_are_written_at_their_places(
    searches: CompiledSearch, corpus: CorpusIndex
) -> None:
    batch = EncodedUsers(*_placed(corpus, np.zeros((4, WIDTH)), np.zeros(4)))
    chunk = EncodedUsers(*_placed(corpus, np.full((2, WIDTH), 3), np.array([5, 6])))
    one = searches.assemble(batch, chunk, np.array([2, 4], np.int32))  # 4 is padding
    assert np.asarray(one.norms).tolist() == [0, 0, 5, 0]
    assert np.asarray(one.representations)[:, 0].tolist() == [0, 0, 3, 0]
    both = searches.assemble(one, chunk, np.array([3, 0], np.int32))
    assert np.asarray(both.norms).tolist() == [6, 0, 5, 5]


def _placed(corpus: CorpusIndex, *arrays: Any) -> list[jax.Array]:
    device = corpus.layout.devices[0]
    return [jax.device_put(array.astype(np.float32), device) for array in arrays]


def test_an_exact_search_passes_its_check(searches: CompiledSearch) -> None:
    searches.check()


def test_a_search_that_is_not_exact_on_its_device_never_serves(
    bundle: Bundle, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_but_the_best(
        shard: Shard,
        eligible: jax.Array,
        queries: jax.Array,
        wanted: jax.Array,
        k: int,
        config: ScanConfig,
    ) -> ShardTopK:
        found = search_shard(shard, eligible, queries, wanted + 1, k + 1, config)
        best = found.scores == found.scores.max(axis=1, keepdims=True)
        return found._replace(scores=jax.numpy.where(best, -1.0, found.scores))

    monkeypatch.setattr(sharded, "search_shard", all_but_the_best)
    config = EngineConfig(
        user_batches=(1,), batch_sizes=(1,), history_lengths=(), result_sizes=(), max_top_k=9
    )
    with pytest.raises(StartupError, match="exact top k"):
        Engine(bundle, snapshot, tuple(jax.devices()[:1]), config)
