from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load.cases import a_model
from phoenix_bench.load.requests import (
    RequestMix,
    draw_requests,
    history_lengths,
    let_users_repeat,
    read_requests,
    write_requests,
)
from phoenix_retrieval.v1.manifest_pb2 import ModelSizes
from phoenix_server.service.requests import read_top_k, read_user


@given(
    history_length=st.integers(1, 200),
    num_actions=st.integers(1, 64),
    surfaces=st.integers(1, 20),
    seed=st.integers(0, 2**32),
)
def test_a_server_of_any_model_sizes_accepts_every_request(
    history_length: int, num_actions: int, surfaces: int, seed: int
) -> None:
    model = a_model(history_length=history_length, num_actions=num_actions, surfaces=surfaces)
    sizes = ModelSizes(
        history_length=history_length,
        num_actions=num_actions,
        product_surface_vocab_size=surfaces,
    )
    for request in draw_requests(model, RequestMix(count=20, seed=seed)):
        read_user(request.user, sizes, 4096)
        assert read_top_k(request.top_k, 1000) == 200


def test_the_same_seed_draws_the_same_requests() -> None:
    mix = RequestMix(count=50, seed=3)
    assert draw_requests(a_model(), mix) == draw_requests(a_model(), mix)
    assert draw_requests(a_model(), mix) != draw_requests(a_model(), RequestMix(count=50, seed=4))


def test_half_of_the_requests_are_of_regular_users() -> None:
    requests = draw_requests(a_model(), RequestMix(count=50))
    new, regulars = requests[:40], requests[40:]
    mixed = let_users_repeat(new, regulars)
    assert mixed[::2] == new
    assert all(each in regulars for each in mixed[1::2])
    assert len({each.user.user_id for each in mixed[1::2]}) > 1


def test_histories_are_short_long_and_longer_than_the_model_reads() -> None:
    lengths = history_lengths(draw_requests(a_model(), RequestMix(count=2000)))
    assert lengths.min() == 0
    assert np.mean(lengths <= 8) == pytest.approx(0.15 + 0.5 * 8 / 127, abs=0.03)
    assert np.mean(lengths >= 127) == pytest.approx(0.35 + 0.5 / 127, abs=0.03)


def test_histories_are_ordered_oldest_first() -> None:
    for request in draw_requests(a_model(), RequestMix(count=50)):
        assert list(request.user.post_ids) == sorted(request.user.post_ids)


def test_users_engage_with_the_same_popular_posts() -> None:
    requests = draw_requests(a_model(), RequestMix(count=500))
    posts = np.concatenate([np.array(request.user.post_ids, np.uint64) for request in requests])
    _, counts = np.unique(posts, return_counts=True)
    assert counts.max() > 20 > 2 > np.median(counts)


def test_requests_round_trip_through_their_file(tmp_path: Path) -> None:
    requests = draw_requests(a_model(), RequestMix(count=20))
    write_requests(requests, tmp_path / "load" / "requests.bin")
    assert read_requests(tmp_path / "load" / "requests.bin") == requests


def test_each_request_is_prefixed_with_its_length(tmp_path: Path) -> None:
    (request,) = draw_requests(
        a_model(history_length=1), RequestMix(count=1, heavy_users=1, new_users=0)
    )
    write_requests([request], tmp_path / "requests.bin")
    serialised = request.SerializeToString()
    assert len(serialised) < 128, "so that the length is one byte"
    assert (tmp_path / "requests.bin").read_bytes() == bytes([len(serialised)]) + serialised


def test_a_file_without_requests_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "requests.bin").touch()
    with pytest.raises(ValueError, match="holds no requests"):
        read_requests(tmp_path / "requests.bin")


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"top_k": 0}, {"new_users": 0.6, "heavy_users": 0.6}, {"new_users": -1}]
)
def test_an_invalid_mix_is_rejected(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"at least|at most"):
        RequestMix(**wrong)  # pyright: ignore[reportArgumentType]
