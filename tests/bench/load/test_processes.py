import grpc
import pytest

from phoenix_bench.load.processes import ChildError, spawn_child
from phoenix_bench.load.requests import METHOD


def test_the_echo_returns_the_same_reply_to_every_request() -> None:
    with (
        spawn_child("phoenix_bench.load.echo_process", first_line=b"reply".hex()) as child,
        grpc.insecure_channel(child.address) as channel,
    ):
        retrieve = channel.unary_unary(METHOD)
        assert [retrieve(request) for request in (b"one", b"two")] == [b"reply", b"reply"]


def test_a_child_that_ends_before_it_listens_is_an_error() -> None:
    with (
        pytest.raises(ChildError, match="ended with 1"),
        spawn_child("phoenix_bench.load.echo_process", first_line="no hexadecimal"),
    ):
        pytest.fail("it should not have come up")
