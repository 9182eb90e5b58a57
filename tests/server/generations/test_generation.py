"""What a generation has in memory, and how it is brought up to date before it is activated."""

import pytest

from phoenix_server.corpus.updates.commands import UpdateTarget
from phoenix_server.errors import CorpusError, NotReadyError
from phoenix_server.generations import generation as module
from phoenix_server.generations.generation import Generation, GenerationState
from server.generations.cases import BUNDLE, CORPUS, fake_store, loaded


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[UpdateTarget]:
    """Return the targets whose journals are replayed from now on."""
    targets: list[UpdateTarget] = []
    monkeypatch.setattr(module, "replay", lambda *target: targets.append(UpdateTarget(*target)))
    return targets


def test_what_is_not_in_memory_is_not_ready() -> None:
    generation = Generation(3, BUNDLE, CORPUS)
    assert generation.state is GenerationState.LOADING
    with loaded(generation):
        assert generation.is_loaded
        assert generation.engine is generation.update_target.engine
    generation.detach()
    for name in ("engine", "batcher", "store", "update_target"):
        with pytest.raises(NotReadyError, match="generation 3 is loading"):
            getattr(generation, name)


def test_activation_replays_the_journal_and_adopts_the_snapshot(
    replays: list[UpdateTarget],
) -> None:
    adopted: list[object] = []
    with loaded(Generation(1, BUNDLE, CORPUS), fake_store(adopt=adopted.append)) as generation:
        generation.engine.snapshot = snapshot = object()  # pyright: ignore
        generation.prepare_activation()
        assert replays == [generation.update_target]
        assert adopted == [snapshot]


def test_a_corpus_whose_change_failed_half_way_is_not_activated(
    replays: list[UpdateTarget],
) -> None:
    with (
        loaded(Generation(1, BUNDLE, CORPUS), torn=True) as generation,
        pytest.raises(CorpusError, match="failed half-way"),
    ):
        generation.prepare_activation()
    assert not replays


def test_a_corpus_that_is_only_read_stays_as_it_was_loaded(replays: list[UpdateTarget]) -> None:
    with loaded(Generation(1, BUNDLE, CORPUS), fake_store(read_only=True)) as generation:
        generation.catch_up()
    assert not replays
