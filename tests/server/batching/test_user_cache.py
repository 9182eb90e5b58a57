"""The cache, and a batcher that has one before the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import numpy as np
import pytest

from phoenix_server.batching.batcher import Batcher
from phoenix_server.batching.user_cache import UserCache
from phoenix_server.bundle.features import UserColumns
from phoenix_server.config import QueueConfig
from phoenix_server.engine.batch import PreparedBatch
from phoenix_server.engine.engine import Engine
from phoenix_server.engine.query import Answer, EncodedUser, Query
from server.batching.fakes import Device, norms, query, running, start
from server.cases import HISTORY_LENGTH, newest, random_user


def _encoded(seed: int) -> EncodedUser:
    vector = np.random.default_rng(seed).standard_normal(5, np.float32)
    return EncodedUser(vector[:4], float(vector[4]))


def test_a_user_comes_back_bit_for_bit() -> None:
    cache = UserCache(2)
    assert cache.find(b"key") is None
    cache.add(b"key", _encoded(1))
    known = cache.find(b"key")
    assert known is not None
    assert known.representation.tobytes() == _encoded(1).representation.tobytes()
    assert (known.norm, known.representation.dtype) == (_encoded(1).norm, np.float32)
    with pytest.raises(ValueError, match="read-only"):  # it is that of every later answer
        known.representation[0] = 0


def test_the_user_who_was_asked_for_least_recently_leaves() -> None:
    cache = UserCache(3)
    for name in (b"a", b"b", b"c"):
        cache.add(name, _encoded(1))
    assert cache.find(b"a")
    cache.add(b"d", _encoded(1))
    assert cache.find(b"b") is None
    cache.add(b"e", _encoded(1))
    assert cache.find(b"c") is None
    assert [name for name in (b"a", b"d", b"e") if cache.find(name)] == [b"a", b"d", b"e"]
    assert len(cache) == 3


def test_the_first_representation_of_a_user_stays() -> None:
    cache = UserCache(2)
    cache.add(b"key", _encoded(1))
    cache.add(b"key", _encoded(2))
    known = cache.find(b"key")
    assert known is not None
    assert known.norm == _encoded(1).norm
    assert len(cache) == 1


class _Watched:
    """An engine of a named tower.

    Attributes:
        with_columns: How many users of each batch had columns, which the tower encodes.
        costs_s: The time of the tower for each query, in seconds.
    """

    def __init__(self, engine: Engine, tower: str) -> None:
        self.with_columns: list[int] = []
        self.costs_s: list[float] = []
        self._engine = engine
        self._tower = tower

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def user_key(self, user: UserColumns) -> bytes:
        return self._engine.bundle.features.user_key(user, self._tower)

    def user_seconds(self, query: Query) -> float:
        self.costs_s.append(self._engine.user_seconds(query))
        return self.costs_s[-1]

    def prepare(self, queries: Sequence[Query]) -> PreparedBatch:
        self.with_columns.append(sum(isinstance(each.user, UserColumns) for each in queries))
        return self._engine.prepare(queries)


@asynccontextmanager
async def _batcher(
    engine: Engine, cache: UserCache | None, tower: str = "tower"
) -> AsyncGenerator[tuple[_Watched, Batcher], None]:
    watched = _Watched(engine, tower)
    batcher = Batcher(cast(Any, watched), QueueConfig(default_timeout_s=1e9), cache)
    try:
        yield watched, batcher
    finally:
        await asyncio.to_thread(batcher.close)


def _counts(batcher: Batcher) -> tuple[int, int, int]:
    stats = batcher.stats()
    return stats.user_cache_hits, stats.user_cache_misses, stats.user_cache_users


def _assert_same(answer: Answer, expected: Answer) -> None:
    """Check that answers to queries of another k are equal bit for bit, as far as both go."""
    for ours, theirs in zip(answer[:4], expected[:4], strict=True):
        count = min(len(ours), len(theirs))
        assert ours[:count].tobytes() == theirs[:count].tobytes()
    assert answer.representation.tobytes() == expected.representation.tobytes()
    assert answer.norm == expected.norm


async def test_a_user_who_is_known_gets_the_same_answer_without_the_tower(engine: Engine) -> None:
    async with _batcher(engine, UserCache(9)) as (watched, batcher):
        first = await batcher.retrieve(Query(random_user(5), 20))
        assert (watched.with_columns, _counts(batcher)) == ([1], (0, 1, 1))
        again = await batcher.retrieve(Query(random_user(5), 20))
        assert (watched.with_columns, _counts(batcher)) == ([1, 0], (1, 1, 1))
        _assert_same(again, first)
        others = [Query(random_user(n, seed=1), 9) for n in (3, 20, HISTORY_LENGTH)]
        queries = [*others, Query(random_user(5), 250)]
        among = (await asyncio.gather(*map(batcher.retrieve, queries)))[3]
        _assert_same(among, first)
        assert len(among.post_ids) == 250
        assert sum(watched.with_columns) == 4
        assert _counts(batcher) == (2, 4, 4)


async def test_users_who_are_only_encoded_are_kept_as_well(engine: Engine) -> None:
    async with _batcher(engine, UserCache(9)) as (watched, batcher):
        encoded = await batcher.retrieve(Query(random_user(5), 0))
        _assert_same(await batcher.retrieve(Query(random_user(5), 7)), encoded)
        assert sum(watched.with_columns) == 1


async def test_a_user_who_is_looked_up_has_columns_unless_they_are_known(engine: Engine) -> None:
    async with _batcher(engine, UserCache(9)) as (_, batcher):
        user = random_user(5)
        assert batcher.look_up(user) is user
        answer = await batcher.retrieve(Query(user, 20))
        known = batcher.look_up(user)
        assert isinstance(known, EncodedUser)
        assert known.representation.tobytes() == answer.representation.tobytes()
        assert _counts(batcher) == (1, 2, 1)


async def test_histories_of_one_end_are_one_user_if_the_tower_reads_no_more(engine: Engine) -> None:
    long = random_user(HISTORY_LENGTH + 9)
    async with _batcher(engine, UserCache(9)) as (watched, batcher):
        first = await batcher.retrieve(Query(long, 20))
        _assert_same(await batcher.retrieve(Query(newest(long, HISTORY_LENGTH), 20)), first)
        assert sum(watched.with_columns) == 1
        shorter = await batcher.retrieve(Query(newest(long, HISTORY_LENGTH - 1), 20))
        assert sum(watched.with_columns) == 2
        assert shorter.representation.tobytes() != first.representation.tobytes()


async def test_users_of_other_towers_are_encoded(engine: Engine) -> None:
    cache = UserCache(9)
    async with (
        _batcher(engine, cache, "tower") as (_, batcher),
        _batcher(engine, cache, "other") as (other, other_batcher),
        _batcher(engine, cache, "tower") as (same, same_batcher),
    ):
        for each in (batcher, other_batcher, same_batcher):
            await each.retrieve(Query(random_user(5), 20))
        assert (other.with_columns, same.with_columns) == ([1], [0])
        assert _counts(other_batcher) == (0, 1, 2)


async def test_equal_users_at_one_time_leave_the_first_answer_for_later_ones(
    engine: Engine,
) -> None:
    async with _batcher(engine, UserCache(9)) as (_, batcher):
        queries = [Query(random_user(5), top_k) for top_k in (20, 3)]
        first, _ = await asyncio.gather(*map(batcher.retrieve, queries))
        assert _counts(batcher) == (0, 2, 1)
        _assert_same(await batcher.retrieve(queries[0]), first)


async def test_without_a_cache_every_user_is_encoded(engine: Engine) -> None:
    async with _batcher(engine, None) as (watched, batcher):
        for _ in range(2):
            await batcher.retrieve(Query(random_user(5), 20))
        assert watched.with_columns == [1, 1]
        assert batcher.look_up(user := random_user(5)) is user
        assert _counts(batcher) == (0, 0, 0)


async def test_a_known_user_costs_no_tower_time(engine: Engine) -> None:
    async with _batcher(engine, UserCache(9)) as (watched, batcher):
        for _ in range(2):
            await batcher.retrieve(Query(random_user(5), 20))
        assert watched.costs_s == [engine.user_seconds(Query(random_user(5), 20)), 0]


async def test_recent_queries_have_columns_to_try_on_other_towers() -> None:
    async with running(users=UserCache(9)) as (device, batcher):
        device.release(3)
        first, again = query(1), query(1)
        for each in (first, again, first._replace(user=_encoded(1))):
            await batcher.retrieve(each)
        assert list(batcher.recent) == [first, again]
        assert _counts(batcher) == (1, 1, 1)


async def test_users_without_a_direction_or_an_answer_are_not_kept() -> None:
    device = Device()
    device.broken = 7, "launch"
    async with running(device, users=UserCache(9)) as (_, batcher):
        device.release(3)
        assert await norms(await start(batcher, 0)) == [0.0]
        with pytest.raises(LookupError, match="7 is broken"):
            await batcher.retrieve(query(7))
        assert _counts(batcher) == (0, 2, 0)
