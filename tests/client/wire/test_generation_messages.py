from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from phoenix_client import (
    Generation,
    GenerationState,
)
from phoenix_client.wire import generation_messages
from phoenix_retrieval.v1 import model_service_pb2 as model_pb2


def test_every_state_of_the_contract_but_none_has_its_own() -> None:
    names = [name for name, value in model_pb2.GenerationState.items() if value != 0]
    assert names == [f"GENERATION_STATE_{state.name}" for state in GenerationState]
    sent = [model_pb2.Generation(state=name) for name in names]
    read = generation_messages.read_generations(model_pb2.ListGenerationsResponse(generations=sent))
    assert [each.state for each in read] == list(GenerationState)


@given(
    st.builds(
        Generation,
        number=st.integers(0, 2**32 - 1),
        state=st.sampled_from(GenerationState),
        generation=st.text(),
        bundle=st.text(),
        corpus=st.text(),
        tower_fingerprint=st.text(),
        corpus_rows=st.integers(0, 2**64 - 1),
        sequence=st.integers(0, 2**64 - 1),
        previous=st.booleans(),
        reason=st.text(),
    )
)
def test_every_field_is_read(generation: Generation) -> None:
    sent: dict[str, Any] = asdict(generation) | {
        "state": f"GENERATION_STATE_{generation.state.name}"
    }
    message = model_pb2.Generation(**sent)
    assert {each.name for each in message.DESCRIPTOR.fields} == set(sent)
    reply = model_pb2.ListGenerationsResponse(generations=[message])
    assert generation_messages.read_generations(reply) == (generation,)
