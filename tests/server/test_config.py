"""Settings of a server: a value that cannot be is an error that begins with the field's name."""

from pathlib import Path
from typing import Any

import pytest

from phoenix_retrieval.v1.model_service_pb2 import GetModelResponse
from phoenix_server.config import CallLimits, EngineConfig, Limits, QueueConfig, ServeConfig


def _serve(**changes: Any) -> ServeConfig:
    return ServeConfig(bundle=Path("bundle"), corpus=Path("corpus"), **changes)


@pytest.mark.parametrize(
    ("make", "field", "value"),
    [
        (Limits, "max_batch_users", 0),
        (Limits, "max_candidates", 0),
        (Limits, "max_excluded", -1),
        (Limits, "max_request_bytes", 1023),
        (Limits, "max_request_bytes", 1 << 31),
        (Limits, "max_history", 0),
        (CallLimits, "max_calls", 0),
        (CallLimits, "max_calls_per_connection", 0),
        (CallLimits, "max_streams", 0),
        (CallLimits, "max_bytes_in_flight", 0),
        (CallLimits, "receive_timeout_s", 0.0),
        (QueueConfig, "max_waiting", 0),
        (QueueConfig, "default_timeout_s", 0.0),
        (QueueConfig, "default_timeout_s", float("nan")),
        (QueueConfig, "reply_margin_s", -1.0),
        (EngineConfig, "user_batches", ()),
        (EngineConfig, "user_batches", (8, 4)),
        (EngineConfig, "batch_sizes", ()),
        (EngineConfig, "batch_sizes", (0, 1)),
        (EngineConfig, "batch_sizes", (1, 1)),
        (EngineConfig, "history_lengths", (-1,)),
        (EngineConfig, "result_sizes", (8, 4)),
        (EngineConfig, "max_top_k", 0),
        (EngineConfig, "candidate_batch", 0),
        (EngineConfig, "max_labels", 0),
        (EngineConfig, "capacity", 0),
        *((Limits, name, 2**31) for name in ("max_batch_users", "max_candidates")),
        *((Limits, name, 2**31) for name in ("max_excluded", "max_history")),
        (CallLimits, "max_calls_per_connection", 2**29),
        *((EngineConfig, name, 2**31) for name in ("max_top_k", "candidate_batch", "capacity")),
        (EngineConfig, "max_labels", 10**12),
        *((EngineConfig, name, (1, 2**31)) for name in ("user_batches", "batch_sizes")),
        *((EngineConfig, name, (1, 2**31)) for name in ("history_lengths", "result_sizes")),
        (_serve, "shards", 0),
        (_serve, "snapshot_after", 0),
        (_serve, "watch_interval_s", 0.0),
        (_serve, "grace_s", -0.1),
        (_serve, "user_cache", -1),
    ],
)
def test_an_invalid_value_is_an_error_that_begins_with_the_field(
    make: Any, field: str, value: object
) -> None:
    make()
    with pytest.raises(ValueError, match=f"^{field}: "):
        make(**{field: value})


def test_the_largest_values_fit_the_fields_of_the_api_and_of_grpc() -> None:
    names = ("max_batch_users", "max_candidates", "max_excluded", "max_history")
    limits = Limits(**dict.fromkeys(names, 2**31 - 1))
    calls = CallLimits(max_calls_per_connection=2**29 - 1)
    GetModelResponse(max_top_k=EngineConfig(max_top_k=2**31 - 1).max_top_k, **vars(limits))
    assert 4 * calls.max_calls_per_connection < 2**31


def test_a_corpus_that_is_served_read_only_evicts_no_posts() -> None:
    with pytest.raises(ValueError, match=r"^evict_oldest: "):
        _serve(read_only=True, evict_oldest=True)


def test_four_of_the_largest_requests_fit_in_flight() -> None:
    calls = CallLimits(max_bytes_in_flight=8191)
    with pytest.raises(ValueError, match=r"^max_bytes_in_flight: "):
        _serve(limits=Limits(max_request_bytes=2048), calls=calls)


def test_programs_cover_every_history_length_and_number_of_results() -> None:
    config = EngineConfig(
        user_batches=(1, 4),
        batch_sizes=(1, 8),
        history_lengths=(16, 64),
        result_sizes=(32, 500),
        max_top_k=100,
    )
    assert config.user_programs(32) == [(1, 16), (4, 16), (1, 32), (4, 32)]
    assert config.necessary_users(32) == [(1, 32), (4, 32)]
    assert config.searches() == [(1, 32), (8, 32), (1, 100), (8, 100)]
    assert config.necessary_searches() == [(1, 100), (8, 100)]
