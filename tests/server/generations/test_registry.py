"""The states of generations change in one place, along the table of moves."""

from collections.abc import Iterator

import pytest

from phoenix_server.errors import GenerationError, NoGenerationError, NotReadyError
from phoenix_server.generations.generation import MOVES, Generation, GenerationState
from phoenix_server.generations.registry import Registry
from server.batching.fakes import query
from server.generations.cases import BUNDLE, CORPUS, attach

S = GenerationState


@pytest.fixture
def registry() -> Iterator[Registry]:
    made = Registry(0)
    yield made
    for generation in made.all():
        if generation.is_loaded:
            assert generation.close()


def add_ready(registry: Registry) -> Generation:
    generation = registry.add(BUNDLE, CORPUS)
    attach(generation)
    registry.set_ready(generation)
    return generation


def test_numbers_count_from_one(registry: Registry) -> None:
    assert [registry.add(BUNDLE, CORPUS).number for _ in range(3)] == [1, 2, 3]
    assert [each.number for each in registry.all()] == [1, 2, 3]
    assert all(each.state is S.LOADING for each in registry.all())


def test_nothing_is_active_before_the_first_is_loaded(registry: Registry) -> None:
    generation = registry.add(BUNDLE, CORPUS)
    assert not registry.has_active
    with pytest.raises(NotReadyError, match="is loading its bundle and corpus"):
        _ = registry.active
    with pytest.raises(NotReadyError, match="generation 1 is loading"):
        _ = generation.engine
    with pytest.raises(NoGenerationError, match="no generation 1 that is ready"):
        registry.standby(1)


def test_the_active_generation_becomes_the_rollback_generation(registry: Registry) -> None:
    first, second = add_ready(registry), add_ready(registry)
    registry.set_active(first)
    with pytest.raises(GenerationError, match="no generation to roll back to"):
        _ = registry.rollback
    registry.set_active(second)
    assert (registry.active, registry.rollback) == (second, first)
    assert (first.state, second.state) == (S.ROLLBACK, S.ACTIVE)
    registry.set_active(first)
    assert (registry.active, registry.rollback) == (first, second)
    assert registry.idle() == [second]
    assert [registry.standby(number) for number in (1, 2)] == [first, second]


def test_a_generation_that_cannot_be_activated_leaves_the_active_one(registry: Registry) -> None:
    active, loading = add_ready(registry), registry.add(BUNDLE, CORPUS)
    registry.set_active(active)
    with pytest.raises(AssertionError, match=f"{S.LOADING} does not become {S.ACTIVE}"):
        registry.set_active(loading)
    assert registry.active is active
    assert (active.state, loading.state) == (S.ACTIVE, S.LOADING)


@pytest.mark.parametrize("state", S)
@pytest.mark.parametrize("next_state", [S.READY, S.ACTIVE])
def test_only_the_moves_of_the_table_are_made(
    registry: Registry, state: GenerationState, next_state: GenerationState
) -> None:
    generation = registry.add(BUNDLE, CORPUS)
    generation.state = state
    move = registry.set_ready if next_state is S.READY else registry.set_active
    if next_state in MOVES[state]:
        move(generation)
        assert generation.state is next_state
    else:
        with pytest.raises(AssertionError, match=f"{state} does not become {next_state}"):
            move(generation)


def test_a_failed_generation_says_why_and_cannot_be_activated(registry: Registry) -> None:
    generation = add_ready(registry)
    registry.fail(generation, "out of memory")
    assert (generation.state, generation.reason) == (S.FAILED, "out of memory")
    assert not generation.is_standby
    with pytest.raises(NoGenerationError):
        registry.standby(1)
    assert registry.idle() == [generation]  # it is still in memory
    assert generation.close()
    registry.remove(generation)
    assert not generation.is_loaded
    assert registry.all() == [generation]  # it stays listed


def test_a_generation_that_is_unloading_does_not_fail_any_more(registry: Registry) -> None:
    generation = add_ready(registry)
    registry.begin_unloading(generation)
    registry.fail(generation, "it misses changes")
    assert generation.state is S.UNLOADING
    assert generation.close()
    registry.remove(generation)
    assert registry.all() == []


def test_the_last_eight_failures_are_remembered(registry: Registry) -> None:
    for _ in range(12):
        registry.fail(registry.add(BUNDLE, CORPUS), "damaged")
    assert [each.number for each in registry.all()] == list(range(5, 13))


def test_the_counts_of_unloaded_generations_stay(registry: Registry) -> None:
    first, second = add_ready(registry), add_ready(registry)
    registry.set_active(first)
    registry.set_active(second)
    assert first.close()
    with pytest.raises(NotReadyError):
        first.batcher.run_between_batches(lambda: None)
    before = registry.stats()
    registry.begin_unloading(first)
    registry.remove(first)
    after = registry.stats()
    assert after.answered == before.answered
    assert after.uptime_s >= before.uptime_s > 0
    assert [each.number for each in registry.all()] == [2]


@pytest.mark.parametrize(
    ("user_cache", "tower", "hits"), [(2, "tower", 1), (2, "other tower", 0), (0, "tower", 0)]
)
async def test_generations_of_one_tower_share_the_user_cache(
    user_cache: int, tower: str, hits: int
) -> None:
    registry = Registry(user_cache)
    generations = [registry.add(BUNDLE, CORPUS) for _ in range(2)]
    for generation, name in zip(generations, ("tower", tower), strict=True):
        device = attach(generation)
        device.tower, device.batch_s = name, 0.0
        device.release()
        registry.set_ready(generation)
        registry.set_active(generation)
        await generation.batcher.retrieve(query(1))
    stats = registry.stats()
    assert (stats.answered, stats.user_cache_hits) == (2, hits)
    assert stats.user_cache_users == (2 - hits if user_cache else 0)
    for generation in generations:
        assert generation.close()
