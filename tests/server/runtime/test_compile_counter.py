import threading
from collections.abc import Generator

import jax
import numpy as np
import pytest

from phoenix_server.runtime.compile_counter import CompileCounter


@pytest.fixture
def compilations() -> Generator[CompileCounter, None, None]:
    counter = CompileCounter()
    yield counter
    counter.close()


def _compile(constant: float) -> None:
    jax.jit(lambda x: x * constant)(np.ones(7, np.float32))


def test_expected_compilations_are_told_from_others(compilations: CompileCounter) -> None:
    with compilations.expected():
        _compile(2.0)
    assert (compilations.total, compilations.unforeseen) == (1, 0)
    _compile(3.0)
    assert (compilations.total, compilations.unforeseen) == (2, 1)


def test_what_another_thread_compiles_meanwhile_is_unforeseen(compilations: CompileCounter) -> None:
    with compilations.expected():
        thread = threading.Thread(target=_compile, args=(4.0,))
        thread.start()
        thread.join()
    assert (compilations.total, compilations.unforeseen) == (1, 1)


def test_a_closed_count_stays(compilations: CompileCounter) -> None:
    other = CompileCounter()
    other.close()
    _compile(5.0)
    assert (other.total, compilations.total) == (0, 1)


def test_a_count_may_be_closed_twice(compilations: CompileCounter) -> None:
    compilations.close()
    compilations.close()
