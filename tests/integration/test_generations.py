"""Bundles and corpora are exchanged while the server answers."""

import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from integration.conftest import SMALL
from integration.test_requests import user
from phoenix_export.bundle import write_bundle
from phoenix_export.checkpoint import open_checkpoint
from phoenix_retrieval.v1 import corpus_service_pb2 as corpus_pb
from phoenix_retrieval.v1 import model_service_pb2 as pb
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from phoenix_retrieval.v1.corpus_service_pb2_grpc import CorpusServiceStub
from phoenix_retrieval.v1.model_service_pb2_grpc import ModelServiceStub
from phoenix_retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from phoenix_server.build.import_npz import import_corpus
from phoenix_server.bundle.bundle import open_bundle
from phoenix_server.config import QueueConfig, ServeConfig
from phoenix_server.corpus.disk.store import Store
from phoenix_server.engine.engine import Engine
from phoenix_server.errors import CorpusError
from phoenix_server.generations import memory_budget
from phoenix_server.generations.generation import Generation
from running import run_server
from server.cases import copied, flip_bit, resum

TOP_K = 50


@dataclass(frozen=True)
class Stubs:
    """The services of one server."""

    model: ModelServiceStub
    corpus: CorpusServiceStub
    retrieval: RetrievalServiceStub

    def load(self, **request: Any) -> pb.Generation:
        return self.model.LoadGeneration(pb.LoadGenerationRequest(**request)).generation

    def activate(self, number: int) -> pb.Generation:
        request = pb.ActivateGenerationRequest(number=number)
        return self.model.ActivateGeneration(request).generation

    def roll_back(self) -> pb.Generation:
        return self.model.RollbackGeneration(pb.RollbackGenerationRequest()).generation

    def generations(self) -> dict[int, pb.Generation]:
        listed = self.model.ListGenerations(pb.ListGenerationsRequest()).generations
        return {each.number: each for each in listed}

    def stats(self) -> pb.GetServingStatsResponse:
        return self.model.GetServingStats(pb.GetServingStatsRequest())

    def retrieve(self, top_k: int = TOP_K, **options: Any) -> retrieval_pb.RetrieveResponse:
        request = retrieval_pb.RetrieveRequest(
            user=user(), top_k=top_k, return_user_representation=True, **options
        )
        return self.retrieval.Retrieve(request)

    def upsert(self, *post_ids: int) -> int:
        authors = [post_id + 1 for post_id in post_ids]
        request = corpus_pb.UpsertPostsRequest(post_ids=post_ids, author_ids=authors)
        return self.corpus.UpsertPosts(request).sequence

    def missing(self, *post_ids: int) -> list[int]:
        response = self.corpus.GetPosts(corpus_pb.GetPostsRequest(post_ids=post_ids))
        return list(response.missing_post_ids)

    def vectors(self, post_ids: list[int], author_ids: list[int]) -> np.ndarray[Any, Any]:
        parts: list[Any] = []
        for start in range(0, len(post_ids), 512):
            chosen = slice(start, start + 512)
            request = retrieval_pb.EncodeCandidatesRequest(
                post_ids=post_ids[chosen], author_ids=author_ids[chosen]
            )
            response = self.retrieval.EncodeCandidates(request)
            flat = np.array(response.candidate_representations, np.float64)
            parts.append(flat.reshape(-1, response.embedding_size))
        return np.concatenate(parts)


@contextmanager
def _served(config: ServeConfig) -> Generator[Stubs, None, None]:
    with run_server(config) as server, grpc.insecure_channel(server.address) as channel:
        yield Stubs(
            ModelServiceStub(channel), CorpusServiceStub(channel), RetrievalServiceStub(channel)
        )


@pytest.fixture(scope="module")
def others(golden_layout: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return bundles like `bundle_f32`, with other weights."""
    folder = tmp_path_factory.mktemp("others")
    bundles: list[Path] = []
    for number in (2, 3):
        layout = copied(golden_layout, folder / f"layout{number}")
        path = layout / "retrieval" / "model_params.npz"
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        rng = np.random.default_rng(number)
        for name, array in arrays.items():
            arrays[name] = (array * rng.uniform(0.8, 1.2, array.shape)).astype(array.dtype)
        np.savez(path, **arrays)
        bundles.append(folder / "bundles" / str(number))
        write_bundle(open_checkpoint(layout, "float32"), bundles[-1], saved_model=False)
    return bundles


@pytest.fixture
def config(
    bundle_f32: Path, golden_corpus: Path, others: list[Path], tmp_path: Path
) -> ServeConfig:
    return ServeConfig(
        bundle=bundle_f32,
        corpus=copied(golden_corpus, tmp_path / "corpus"),
        shards=1,
        allow_load=(others[0].parent, tmp_path),
        engine=replace(
            SMALL,
            user_batches=(1,),
            batch_sizes=(1,),
            history_lengths=(),
            max_top_k=TOP_K,
            result_sizes=(),
        ),
    )


@pytest.fixture
def served(config: ServeConfig) -> Iterator[Stubs]:
    with _served(config) as stubs:
        yield stubs


def _assert_exact(served: Stubs, answer: retrieval_pb.RetrieveResponse, known: list[int]) -> None:
    """Check an answer against the vectors that the server's own towers give to all posts."""
    found = served.corpus.GetPosts(corpus_pb.GetPostsRequest(post_ids=known))
    assert not found.missing_post_ids
    assert answer.rows_scanned == len(known)
    vectors = served.vectors(list(found.post_ids), list(found.author_ids))
    scores = vectors @ np.array(answer.user_representation, np.float64)
    best = np.argsort(-scores, kind="stable")[:TOP_K]
    assert np.allclose(scores[best], answer.scores, rtol=0, atol=1e-5)
    by_id = dict(zip(found.post_ids, scores, strict=True))
    assert np.allclose([by_id[each] for each in answer.post_ids], scores[best], rtol=0, atol=1e-5)


@pytest.fixture
def posts(golden_layout: Path) -> list[int]:
    with np.load(golden_layout / "sports_corpus.npz") as file:
        return file["post_ids"].tolist()


def test_other_weights_answer_over_all_changes_and_compile_nothing(
    served: Stubs, others: list[Path], posts: list[int]
) -> None:
    served.upsert(1, 2, 3)
    before = served.retrieve()
    _assert_exact(served, before, [*posts, 1, 2, 3])
    answered = served.stats().answered
    loaded = served.load(bundle=str(others[0]))
    assert (loaded.number, loaded.state, loaded.sequence) == (2, pb.GENERATION_STATE_READY, 1)
    assert served.retrieve() == before  # the first one answers on
    served.upsert(4)  # after it was loaded
    active = served.activate(2)
    assert (active.state, active.sequence) == (pb.GENERATION_STATE_ACTIVE, 2)
    served.upsert(5)
    after = served.retrieve()
    assert after.generation == active.generation != before.generation
    assert after.user_representation != before.user_representation
    _assert_exact(served, after, [*posts, 1, 2, 3, 4, 5])
    stats = served.stats()
    assert stats.compilations_after_ready == 0
    assert stats.answered > answered  # those of the first one are among them


def test_going_back_brings_the_changes_along(
    served: Stubs, others: list[Path], posts: list[int]
) -> None:
    first = served.retrieve()
    served.load(bundle=str(others[0]), activate=True)
    served.upsert(1)
    served.corpus.CreateSnapshot(corpus_pb.CreateSnapshotRequest())  # the journal is empty then
    served.upsert(2)
    assert served.generations()[1].previous
    back = served.roll_back()
    assert (back.number, back.sequence) == (1, 2)
    again = served.retrieve()
    assert again.generation == first.generation
    _assert_exact(served, again, [*posts, 1, 2])
    assert served.roll_back().number == 2
    _assert_exact(served, served.retrieve(), [*posts, 1, 2])


def test_two_are_kept(served: Stubs, others: list[Path]) -> None:
    served.load(bundle=str(others[0]), activate=True)
    served.load(bundle=str(others[1]), activate=True)
    assert list(served.generations()) == [2, 3]
    assert _code(lambda: served.activate(1)) == grpc.StatusCode.NOT_FOUND
    assert served.roll_back().number == 2


class _EnginesInMemory:
    """Counts the engines of generations, from the moment they are loaded until they are freed."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def add(self, engine: Engine) -> None:
        self._change(1)
        weakref.finalize(engine, self._change, -1)

    def wait_for(self, count: int) -> bool:
        """Wait until there are `count`, which unloading leads to."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count == count, timeout=60)

    def _change(self, by: int) -> None:
        with self._changed:
            self._count += by
            self._changed.notify_all()


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> _EnginesInMemory:
    """Return the engines in memory of servers that start from now on."""
    in_memory = _EnginesInMemory()
    attach = Generation.attach

    def counted(generation: Generation, engine: Engine, store: Store, queue: QueueConfig) -> None:
        in_memory.add(engine)
        attach(generation, engine, store, queue)

    monkeypatch.setattr(Generation, "attach", counted)
    return in_memory


def test_what_is_not_kept_leaves_memory_and_the_rest_has_its_priority(
    engines: _EnginesInMemory, config: ServeConfig, others: list[Path]
) -> None:
    with _served(config) as served:
        before = os.getpriority(os.PRIO_PROCESS, 0)
        for bundle in (*others, *others):
            served.retrieve()
            served.load(bundle=str(bundle), activate=True)
            assert len(served.generations()) == 2
            assert engines.wait_for(2)
        assert served.stats().answered >= 4
        threads = [each for each in threading.enumerate() if each.name in ("device", "preparation")]
        assert threads
        for thread in threads:
            assert thread.native_id is not None
            assert os.getpriority(os.PRIO_PROCESS, thread.native_id) == before


def test_a_generation_that_is_behind_is_brought_along_or_refused(
    served: Stubs, others: list[Path], posts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    served.load(bundle=str(others[0]), activate=True)
    served.upsert(1)

    def fail(generation: Generation) -> None:
        raise MemoryError("no room on the device")

    with monkeypatch.context() as patch:
        patch.setattr(Generation, "catch_up", fail)
        served.corpus.CreateSnapshot(corpus_pb.CreateSnapshotRequest())  # trims the journal
    assert _code(served.roll_back) == grpc.StatusCode.FAILED_PRECONDITION
    assert served.upsert(2) == 2
    _assert_exact(served, served.retrieve(), [*posts, 1, 2])


def test_a_corpus_that_does_not_answer_can_be_loaded_again(
    served: Stubs, config: ServeConfig, golden_layout: Path, posts: list[int], tmp_path: Path
) -> None:
    other = tmp_path / "another"
    import_corpus(golden_layout / "sports_corpus.npz", open_bundle(config.bundle), other)
    served.load(corpus=str(other), activate=True)
    served.upsert(1)
    served.load(corpus=str(config.corpus), activate=True)
    assert served.missing(1) == [1]
    served.load(corpus=str(other), activate=True)
    _assert_exact(served, served.retrieve(), [*posts, 1])


def test_no_call_fails_while_generations_change(served: Stubs, others: list[Path]) -> None:
    names = {served.retrieve().generation}
    stop = threading.Event()
    answers: list[retrieval_pb.RetrieveResponse] = []
    sequences: list[int] = []
    errors: list[Exception] = []

    def repeat(call: Callable[[int], None]) -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                call(number)
        except Exception as exc:
            errors.append(exc)

    def write(number: int) -> None:
        sequence = served.upsert(number)
        answer = served.retrieve(min_sequence=sequence)
        assert answer.sequence >= sequence
        sequences.append(sequence)

    threads = [
        threading.Thread(target=repeat, args=(lambda _: answers.append(served.retrieve(5)),)),
        threading.Thread(target=repeat, args=(write,)),
    ]
    for thread in threads:
        thread.start()
    try:
        names.add(served.load(bundle=str(others[0]), activate=True).generation)
        served.corpus.CreateSnapshot(corpus_pb.CreateSnapshotRequest())
        served.roll_back()
        names.add(served.load(bundle=str(others[1]), activate=True).generation)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors
    assert len(names) == 3
    assert {answer.generation for answer in answers} <= names
    assert sequences == list(range(1, len(sequences) + 1))
    assert not served.missing(*range(1, len(sequences) + 1))


@pytest.mark.parametrize("bundle", [None, "others"])
def test_a_restart_has_all_changes_whichever_bundle_it_is_given(
    bundle: str | None, config: ServeConfig, others: list[Path], posts: list[int]
) -> None:
    with _served(config) as served:
        served.upsert(1)
        served.load(bundle=str(others[0]), activate=True)
        served.upsert(2)
        served.corpus.CreateSnapshot(corpus_pb.CreateSnapshotRequest())
        served.upsert(3)
    if bundle is not None:
        config = replace(config, bundle=others[0])
    with _served(config) as served:
        _assert_exact(served, served.retrieve(), [*posts, 1, 2, 3])
        assert served.upsert(4) == 4


def test_a_corpus_of_other_towers_is_taken_only_if_that_is_asked_for(
    config: ServeConfig, others: list[Path], posts: list[int]
) -> None:
    config = replace(config, bundle=others[1])
    with pytest.raises(CorpusError, match="was built with other towers"), _served(config):
        pass
    for read_only in (True, False):
        anew = replace(config, encode_anew=True, read_only=read_only)
        with _served(anew) as served:
            _assert_exact(served, served.retrieve(), posts)


def test_a_new_corpus_comes_with_its_own_changes(
    served: Stubs, config: ServeConfig, golden_layout: Path, posts: list[int], tmp_path: Path
) -> None:
    served.upsert(1)
    other = tmp_path / "another"
    import_corpus(golden_layout / "sports_corpus.npz", open_bundle(config.bundle), other)
    loaded = served.load(corpus=str(other), activate=True)
    assert loaded.sequence == 0
    assert served.missing(1) == [1]
    served.upsert(7)
    _assert_exact(served, served.retrieve(), [*posts, 7])
    assert served.roll_back().number == 1
    _assert_exact(served, served.retrieve(), [*posts, 1])
    assert served.missing(1, 7) == [7]


def test_what_cannot_be_loaded_is_refused_and_the_first_answers_on(
    served: Stubs, others: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = served.retrieve()

    def refused(**request: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            served.load(**request)
        error: Any = caught.value
        return error.code(), error.details()

    damaged = copied(others[0], tmp_path / "damaged")
    flip_bit(damaged / "weights.safetensors")
    code, reason = refused(bundle=str(damaged), activate=True)
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "was changed" in reason

    wrong = copied(others[0], tmp_path / "wrong")
    with np.load(wrong / "selftest.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["user_tower/outputs/user_representation"] += 0.5
    np.savez(wrong / "selftest.npz", **arrays)
    resum(wrong)
    code, reason = refused(bundle=str(wrong), activate=True)
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "user_representation differs by 0.5" in reason

    code, reason = refused(bundle="/etc")
    assert code == grpc.StatusCode.PERMISSION_DENIED
    assert reason.startswith("bundle: /etc is not in a directory that this server loads from")
    assert refused()[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert refused(corpus="a\0b")[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert refused(corpus=str(tmp_path / "none"))[0] == grpc.StatusCode.FAILED_PRECONDITION

    monkeypatch.setattr(memory_budget, "available_host_bytes", lambda: 10_000_000)
    code, reason = refused(bundle=str(others[0]))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "10 MB are free" in reason

    assert _code(served.roll_back) == grpc.StatusCode.FAILED_PRECONDITION
    assert served.retrieve() == before
    listed = served.generations()
    assert [each.state for each in listed.values()] == [
        pb.GENERATION_STATE_ACTIVE,
        *4 * [pb.GENERATION_STATE_FAILED],
    ]
    assert "was changed" in listed[2].reason


def test_what_does_not_answer_makes_room(
    served: Stubs, others: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    served.load(bundle=str(others[0]), activate=True)
    free = iter([10_000_000, 10**12])  # before the other is dropped, and after
    monkeypatch.setattr(memory_budget, "available_host_bytes", lambda: next(free))
    served.load(bundle=str(others[1]), activate=True)
    assert list(served.generations()) == [2, 3]


def test_the_newest_of_a_watched_directory_answers(
    config: ServeConfig, others: list[Path], bundle_f32: Path, posts: list[int], tmp_path: Path
) -> None:
    watched = tmp_path / "watched"
    first = copied(bundle_f32, watched / "1")
    config = replace(config, bundle=first, watch=watched, watch_interval_s=0.02, encode_anew=True)

    def state_of(served: Stubs, bundle: Path) -> int:
        """Wait until a bundle answers or has failed."""
        while True:
            for each in served.generations().values():
                if each.bundle == str(bundle) and each.state in (
                    pb.GENERATION_STATE_ACTIVE,
                    pb.GENERATION_STATE_FAILED,
                ):
                    return each.state

    with _served(config) as served:
        served.upsert(1)
        damaged = copied(others[0], tmp_path / "damaged")
        flip_bit(damaged / "weights.safetensors")
        damaged.rename(watched / "2")
        assert state_of(served, watched / "2") == pb.GENERATION_STATE_FAILED
        assert served.generations()[1].state == pb.GENERATION_STATE_ACTIVE
        copied(others[1], tmp_path / "whole").rename(watched / "10")
        assert state_of(served, watched / "10") == pb.GENERATION_STATE_ACTIVE
        _assert_exact(served, served.retrieve(), [*posts, 1])


def _code(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code()
