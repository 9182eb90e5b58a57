from __future__ import annotations

import json
import math

import pytest

from phoenix_client.transport.channels import channel_options, checked_timeout_s
from phoenix_retrieval.v1 import corpus_service_pb2, model_service_pb2, retrieval_service_pb2


def test_sizes_of_messages_are_limited_and_none_is_no_limit() -> None:
    options = dict(channel_options(1 << 20, None))
    assert options["grpc.max_send_message_length"] == 1 << 20
    assert options["grpc.max_receive_message_length"] == -1


def test_all_calls_are_repeated_but_those_that_would_act_twice() -> None:
    config = json.loads(str(dict(channel_options(None, None))["grpc.service_config"]))
    repeated, once = config["methodConfig"]
    policy = repeated["retryPolicy"]
    assert (policy["maxAttempts"], policy["retryableStatusCodes"]) == (3, ["UNAVAILABLE"])
    assert "retryPolicy" not in once
    services = {
        f"{service.full_name}": {method.name for method in service.methods}
        for file in (corpus_service_pb2, model_service_pb2, retrieval_service_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
    }
    assert {name["service"] for name in repeated["name"]} == services.keys()
    named = {(name["service"], name["method"]) for name in once["name"]}
    service = "phoenix_retrieval.v1.ModelService"
    assert named == {(service, "LoadGeneration"), (service, "RollbackGeneration")}
    assert {method for _, method in named} <= services[service]


def test_a_time_limit_must_be_above_0_and_finite() -> None:
    assert checked_timeout_s(0.5) == 0.5
    for timeout_s in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="timeout_s: must be above 0 and finite"):
            checked_timeout_s(timeout_s)


def test_a_time_limit_beyond_the_end_of_grpcs_clock_is_shortened() -> None:
    assert checked_timeout_s(1e9) == checked_timeout_s(9e9) == checked_timeout_s(1e300) == 1e9
