from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from phoenix_server.bundle.bundle import open_bundle, verify
from phoenix_server.bundle.towers import Towers
from phoenix_server.config import ServeConfig
from phoenix_server.corpus.disk.reencode import Encoder
from phoenix_server.errors import BundleError
from phoenix_server.generations.loader import load_engine
from phoenix_server.runtime.compile_counter import CompileCounter
from phoenix_server.runtime.program_cache import ProgramCache
from server.cases import copied, random_user, resum

Arrays = dict[str, Any]

_REPRESENTATION = "user_tower/outputs/user_representation"
_NORM = "user_tower/outputs/user_norm"
_CANDIDATE = "candidate_tower/outputs/candidate_representation"


def _towers(path: Path, users: tuple[int, int] = (2, 16), posts: int = 3) -> Towers:
    towers = Towers(open_bundle(path), jax.devices()[0])
    towers.compile_users(*users)
    towers.compile_candidates(posts)
    return towers


@pytest.fixture(scope="module")
def own_bundle(bundle_f32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(bundle_f32, tmp_path_factory.mktemp("towers") / "bundle")


@pytest.fixture(scope="module")
def own_towers(own_bundle: Path) -> Towers:
    """Return compiled towers whose self-test tests may spoil."""
    return _towers(own_bundle)


@pytest.fixture
def selftest(bundle_f32: Path, own_bundle: Path) -> Arrays:
    """Return what the self-test holds; `_fails` writes it back."""
    (own_bundle / "selftest.npz").write_bytes((bundle_f32 / "selftest.npz").read_bytes())
    with np.load(bundle_f32 / "selftest.npz") as file:
        return dict(file)


def _fails(towers: Towers, bundle: Path, arrays: Arrays) -> str:
    """Run a self-test whose sums hold, and return why it failed."""
    np.savez(bundle / "selftest.npz", **arrays)
    resum(bundle)
    verify(open_bundle(bundle))
    with pytest.raises(BundleError) as caught:
        towers.self_test()
    assert caught.value.path == bundle / "selftest.npz"
    return caught.value.reason


def test_the_self_test_passes_in_batches_smaller_than_itself(
    own_towers: Towers, selftest: Arrays
) -> None:
    assert len(selftest[_REPRESENTATION]) > 2
    assert len(selftest[_CANDIDATE]) > 3
    own_towers.self_test()


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_the_self_test_passes_in_larger_batches(dtype: str, request: pytest.FixtureRequest) -> None:
    _towers(request.getfixturevalue(f"bundle_{dtype}"), (5, 127), 11).self_test()


@pytest.mark.parametrize("name", [_REPRESENTATION, _NORM, _CANDIDATE])
@pytest.mark.parametrize("row", [0, -1])
def test_an_answer_that_differs_fails(
    own_towers: Towers, own_bundle: Path, selftest: Arrays, name: str, row: int
) -> None:
    answers = selftest[name]
    answers[row] *= 1.001
    reason = _fails(own_towers, own_bundle, selftest)
    assert reason.startswith(f"{name.rpartition('/')[2]} differs by ")
    assert "where 1e-05 is allowed" in reason


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", [_REPRESENTATION, _NORM, _CANDIDATE])
def test_an_answer_that_is_not_finite_fails(
    own_towers: Towers, own_bundle: Path, selftest: Arrays, name: str, value: float
) -> None:
    selftest[name].flat[0] = value
    assert "differs by " in _fails(own_towers, own_bundle, selftest)


@pytest.mark.parametrize("entity", ["user", "item", "author"])
def test_other_hash_functions_fail(
    own_towers: Towers, own_bundle: Path, selftest: Arrays, entity: str
) -> None:
    selftest[f"rows/{entity}"][3] += 1
    assert _fails(own_towers, own_bundle, selftest) == f"{entity} ids hash to other rows"


def _drop(name: str) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.pop(name)


@pytest.mark.parametrize(
    "change",
    [
        _drop("ids/item"),
        _drop(_REPRESENTATION),
        _drop("user_tower/inputs/user_rows"),
        _drop("user_tower/inputs/history_product_surfaces"),
        _drop("candidate_tower/inputs/author_rows"),
        lambda arrays: [arrays.pop(k) for k in list(arrays) if k.startswith("candidate_")],
        lambda arrays: arrays.update({_CANDIDATE: arrays[_CANDIDATE][:, :-1]}),
        lambda arrays: arrays.update({_CANDIDATE: np.zeros((99, 128), np.float32)}),
        lambda arrays: arrays.update(
            {"user_tower/inputs/history_product_surfaces": np.zeros((4, 200), np.int32)}
        ),
        lambda arrays: arrays.update({"ids/item": np.array([object()])}),
    ],
)
def test_a_self_test_that_does_not_fit_fails(
    own_towers: Towers, own_bundle: Path, selftest: Arrays, change: Callable[[Arrays], object]
) -> None:
    change(selftest)
    assert _fails(own_towers, own_bundle, selftest).startswith("cannot be used: ")


@pytest.mark.parametrize("keep", [0, 1, 1000])
def test_a_self_test_that_cannot_be_read_fails(
    own_towers: Towers, own_bundle: Path, selftest: Arrays, keep: int
) -> None:
    path = own_bundle / "selftest.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BundleError, match=r"selftest\.npz: cannot be used: ") as caught:
        own_towers.self_test()
    assert caught.value.path == path


def test_a_tampered_self_test_keeps_a_server_from_starting(
    bundle_f32: Path, golden_corpus: Path, tmp_path: Path
) -> None:
    path = copied(bundle_f32, tmp_path / "bundle")
    with np.load(path / "selftest.npz") as file:
        arrays = dict(file)
    arrays["rows/user"][0] += 1
    np.savez(path / "selftest.npz", **arrays)
    with pytest.raises(BundleError, match=r"selftest\.npz: was truncated or|was changed"):
        load_engine(ServeConfig(bundle=path, corpus=golden_corpus, read_only=True))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["tables/author_embeddings.safetensors", "weights.safetensors"])
def test_numbers_that_are_not_finite_are_refused(
    bundle_f32: Path, tmp_path: Path, name: str, value: float
) -> None:
    path = copied(bundle_f32, tmp_path / "bundle")
    tensors = load_file(path / name)
    tensor = max(tensors)
    tensors[tensor].flat[-1] = value
    save_file(tensors, path / name)
    resum(path)
    verify(open_bundle(path))
    with pytest.raises(BundleError) as caught:
        Towers(open_bundle(path), jax.devices()[0])
    assert caught.value.path == path / name
    assert caught.value.reason == f"{tensor} holds values that are not finite"


def test_a_second_bundle_of_the_same_shapes_compiles_nothing(
    bundle_f32: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phoenix_server.bundle.towers._LARGE_ROWS", 1)  # these tables are small
    programs, compilations = ProgramCache(), CompileCounter()
    try:
        counts: list[int] = []
        served: list[Towers] = []  # the first go on while the second are loaded
        for _ in range(2):
            jax.clear_caches()  # as a server does once all is compiled
            towers = Towers(open_bundle(bundle_f32), jax.devices()[0], programs)
            served.append(towers)
            towers.compile_candidates(3)
            towers.self_test()
            counts.append(compilations.total)
        assert counts[0] == counts[1] > 0
    finally:
        compilations.close()


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_batches_in_lanes_are_encoded_as_alone(
    own_bundle: Path, monkeypatch: pytest.MonkeyPatch, lanes: int, count: int
) -> None:
    monkeypatch.setattr("phoenix_server.bundle.towers.count_lanes", lambda device: lanes)
    towers = _towers(own_bundle)
    assert towers.lanes == lanes
    assert towers.user_seconds(16) > 0
    features = open_bundle(own_bundle).features
    batches = [features.users([random_user(seed + 1, seed)], 2, 16) for seed in range(count)]
    for batch, encoded in zip(batches, towers.encode_batches(batches), strict=True):
        alone = towers.encode_users(batch)
        np.testing.assert_array_equal(encoded.representations, alone.representations)
        np.testing.assert_array_equal(encoded.norms, alone.norms)


def test_a_size_that_was_not_compiled_is_a_mistake(own_towers: Towers, own_bundle: Path) -> None:
    features = open_bundle(own_bundle).features
    with pytest.raises(KeyError):
        own_towers.encode_users(features.users([], 3, 16))
    one = np.ones(1, np.uint64)
    with pytest.raises(KeyError):
        own_towers.run_candidate_tower(features.candidates(one, one, 4))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
def test_posts_are_cut_into_batches_of_the_compiled_size(own_towers: Towers, count: int) -> None:
    batches = list(own_towers.post_batches(count))
    assert [i for batch in batches for i in range(count)[batch]] == list(range(count))
    assert all(batch.stop - batch.start == 3 for batch in batches[:-1])
    assert all(0 < batch.stop - batch.start <= 3 for batch in batches[-1:])


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7])
def test_posts_are_encoded_with_a_call_between_batches(own_towers: Towers, count: int) -> None:
    posts, authors = np.arange(1, 2 * count + 1, dtype=np.uint64).reshape(2, count)
    calls: list[int] = []
    vectors = own_towers.encode_posts(posts, authors, between_batches=lambda: calls.append(1))
    assert vectors.shape == (count, 128)
    assert len(calls) == -(-count // 3)
    for i in range(count):
        alone = own_towers.encode_posts(posts[i : i + 1], authors[i : i + 1])
        assert alone.tobytes() == vectors[i].tobytes()


def test_towers_are_an_encoder_of_their_fingerprint(own_towers: Towers, own_bundle: Path) -> None:
    encoder: Encoder = own_towers
    assert encoder.tower == open_bundle(own_bundle).manifest.tower_fingerprint
