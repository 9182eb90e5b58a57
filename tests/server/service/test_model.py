"""`ModelService` over a fake manager: which paths may be loaded, and how states are described."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from phoenix_retrieval.v1 import model_service_pb2 as pb
from phoenix_server.config import Limits
from phoenix_server.errors import ForbiddenError, InvalidRequestError
from phoenix_server.generations.generation import Generation, GenerationState
from phoenix_server.service.model import ModelServicer
from phoenix_server.service.state import ServingState
from server.generations.cases import BUNDLE, CORPUS, loaded

_CONTEXT: Any = None


class _Manager:
    """Records what is loaded, activated and rolled back."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.generation = Generation(7, BUNDLE, CORPUS)

    async def load(self, bundle: Path | None, corpus: Path | None, *, activate: bool) -> Generation:
        self.calls.append(("load", bundle, corpus, activate))
        return self.generation

    async def activate(self, number: int) -> Generation:
        self.calls.append(("activate", number))
        return self.generation

    async def roll_back(self) -> Generation:
        self.calls.append(("roll back",))
        return self.generation

    def listed(self) -> list[Generation]:
        return [self.generation]


@pytest.fixture
def manager() -> _Manager:
    return _Manager()


def _servicer(manager: Any, *allowed: Path) -> ModelServicer:
    return ModelServicer(ServingState(manager, Limits()), allowed)


async def test_paths_in_allowed_directories_are_loaded(manager: _Manager, tmp_path: Path) -> None:
    servicer = _servicer(manager, tmp_path)
    bundle, corpus = tmp_path / "bundles" / "2", tmp_path / "corpus"
    request = pb.LoadGenerationRequest(bundle=str(bundle), corpus=str(corpus), activate=True)
    response = await servicer.LoadGeneration(request, _CONTEXT)
    assert response.generation.number == 7
    await servicer.LoadGeneration(pb.LoadGenerationRequest(corpus=str(corpus)), _CONTEXT)
    assert manager.calls == [("load", bundle, corpus, True), ("load", None, corpus, False)]


async def test_paths_outside_are_forbidden(manager: _Manager, tmp_path: Path) -> None:
    inside = tmp_path / "allowed"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path)
    servicer = _servicer(manager, inside)
    for path in (tmp_path, inside / "..", inside / "link" / "2", Path("relative")):
        with pytest.raises(ForbiddenError, match=r"bundle: .* is not in a directory"):
            await servicer.LoadGeneration(pb.LoadGenerationRequest(bundle=str(path)), _CONTEXT)
    with pytest.raises(ForbiddenError, match="--allow-load"):
        await _servicer(manager).LoadGeneration(
            pb.LoadGenerationRequest(corpus=str(inside)), _CONTEXT
        )
    assert not manager.calls


async def test_requests_without_a_usable_path_are_invalid(manager: _Manager) -> None:
    servicer = _servicer(manager, Path("/"))
    with pytest.raises(InvalidRequestError, match="a bundle, a corpus or both are needed"):
        await servicer.LoadGeneration(pb.LoadGenerationRequest(), _CONTEXT)
    for path in ("/a\0b", "/" * 4097):
        with pytest.raises(InvalidRequestError, match="corpus: is not a path: it is longer than"):
            await servicer.LoadGeneration(pb.LoadGenerationRequest(corpus=path), _CONTEXT)
    assert not manager.calls


async def test_links_that_leave_the_allowed_directories_are_forbidden(
    manager: _Manager, tmp_path: Path
) -> None:
    allowed, bundle = tmp_path / "allowed", tmp_path / "allowed" / "2"
    (bundle / "tables").mkdir(parents=True)
    (allowed / "blob").touch()
    (bundle / "weights").symlink_to(allowed / "blob")
    servicer = _servicer(manager, allowed)
    await servicer.LoadGeneration(pb.LoadGenerationRequest(bundle=str(bundle)), _CONTEXT)
    (bundle / "tables" / "secret").symlink_to("/etc/passwd")
    with pytest.raises(ForbiddenError, match=r"bundle: .*/tables/secret is not in a directory"):
        await servicer.LoadGeneration(pb.LoadGenerationRequest(bundle=str(bundle)), _CONTEXT)
    (bundle / "tables" / "secret").unlink()
    (bundle / "circle").symlink_to(bundle / "circle")
    with pytest.raises(ForbiddenError, match="circle is not in a directory"):
        await servicer.LoadGeneration(pb.LoadGenerationRequest(bundle=str(bundle)), _CONTEXT)
    assert len(manager.calls) == 1


@pytest.mark.parametrize("depth", [1, 2])
async def test_links_behind_a_link_to_a_directory_are_looked_at(
    manager: _Manager, tmp_path: Path, depth: int
) -> None:
    allowed, bundle = tmp_path / "allowed", tmp_path / "allowed" / "2"
    bundle.mkdir(parents=True)
    for number in range(depth):
        (allowed / f"tables{number}").mkdir()
        (allowed / f"tables{number}" / "next").symlink_to(allowed / f"tables{number + 1}")
    (bundle / "tables").symlink_to(allowed / "tables0")
    (bundle / "itself").symlink_to(bundle)
    request = pb.LoadGenerationRequest(bundle=str(bundle))
    await _servicer(manager, allowed).LoadGeneration(request, _CONTEXT)
    (allowed / f"tables{depth - 1}" / "secret").symlink_to("/etc/passwd")
    with pytest.raises(ForbiddenError, match=r"bundle: .*/secret is not in a directory"):
        await _servicer(manager, allowed).LoadGeneration(request, _CONTEXT)
    assert len(manager.calls) == 1


async def test_more_files_than_can_be_looked_at_are_forbidden(
    manager: _Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phoenix_server.service.model.MAX_FILES", 3)
    for name in "abc":
        (tmp_path / name).touch()
    request = pb.LoadGenerationRequest(bundle=str(tmp_path))
    await _servicer(manager, tmp_path).LoadGeneration(request, _CONTEXT)
    (tmp_path / "d").touch()
    with pytest.raises(ForbiddenError, match="holds more than 3 files"):
        await _servicer(manager, tmp_path).LoadGeneration(request, _CONTEXT)
    assert len(manager.calls) == 1


@pytest.mark.parametrize("can_be_entered", [True, False])
async def test_a_directory_that_cannot_be_listed_is_forbidden_if_it_can_be_entered(
    manager: _Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_be_entered: bool
) -> None:
    def scandir(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "access", lambda *_: can_be_entered)
    load = _servicer(manager, tmp_path).LoadGeneration(
        pb.LoadGenerationRequest(corpus=str(tmp_path)), _CONTEXT
    )
    if can_be_entered:
        with pytest.raises(ForbiddenError, match=f"corpus: {tmp_path}: Permission denied"):
            await load
    else:  # as lost+found
        await load
    assert len(manager.calls) == (not can_be_entered)


async def test_generations_are_activated_by_number_and_rolled_back(manager: _Manager) -> None:
    servicer = _servicer(manager)
    await servicer.ActivateGeneration(pb.ActivateGenerationRequest(number=7), _CONTEXT)
    await servicer.RollbackGeneration(pb.RollbackGenerationRequest(), _CONTEXT)
    assert manager.calls == [("activate", 7), ("roll back",)]


@pytest.mark.parametrize(
    ("state", "described", "previous"),
    [
        (GenerationState.LOADING, pb.GENERATION_STATE_LOADING, False),
        (GenerationState.READY, pb.GENERATION_STATE_READY, False),
        (GenerationState.ACTIVE, pb.GENERATION_STATE_ACTIVE, False),
        (GenerationState.ROLLBACK, pb.GENERATION_STATE_READY, True),
        (GenerationState.FAILED, pb.GENERATION_STATE_FAILED, False),
    ],
)
async def test_a_generation_is_listed_with_its_state(
    manager: _Manager, state: GenerationState, described: pb.GenerationState, previous: bool
) -> None:
    manager.generation.state = state
    manager.generation.reason = "damaged" if state is GenerationState.FAILED else ""
    response = await _servicer(manager).ListGenerations(pb.ListGenerationsRequest(), _CONTEXT)
    (generation,) = response.generations
    assert generation == pb.Generation(
        number=7,
        state=described,
        bundle=str(BUNDLE),
        corpus=str(CORPUS),
        reason=manager.generation.reason,
        previous=previous,
    )


async def test_a_loaded_generation_is_listed_with_its_corpus(manager: _Manager) -> None:
    with loaded(manager.generation) as generation:
        engine: Any = generation.engine
        engine.generation, engine.tower = "ab12", "f" * 64
        engine.corpus = _Corpus(sequence=9)
        response = await _servicer(manager).ListGenerations(pb.ListGenerationsRequest(), _CONTEXT)
    (listed,) = response.generations
    assert (listed.generation, listed.tower_fingerprint) == ("ab12", "f" * 64)
    assert (listed.corpus_rows, listed.sequence) == (3, 9)


async def test_a_failed_generation_is_listed_without_a_corpus_while_it_is_unloaded(
    manager: _Manager,
) -> None:
    with loaded(manager.generation) as generation:
        generation.state = GenerationState.FAILED
        response = await _servicer(manager).ListGenerations(pb.ListGenerationsRequest(), _CONTEXT)
    (listed,) = response.generations
    assert (listed.number, listed.state) == (7, pb.GENERATION_STATE_FAILED)
    assert (listed.generation, listed.tower_fingerprint, listed.corpus_rows) == ("", "", 0)


class _Corpus(SimpleNamespace):
    def __len__(self) -> int:
        return 3
