"""A corpus is equal to its reference model after any changes, snapshots, swaps and crashes."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from phoenix_server.runtime.program_cache import ProgramCache
from server.corpus.model import (
    TOP_KS,
    TOWERS,
    Model,
    Real,
    activate,
    begin,
    change,
    check,
    draw_change,
    restart,
)

_PROGRAMS = ProgramCache()  # shared by all examples, which have the same shapes


class Machine(RuleBasedStateMachine):
    """Changes, snapshots, swaps of the towers, restarts and crashes, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp())
        self._model: Model | None = None
        self._real: Real | None = None

    @initialize(
        seed=st.integers(0, 2**32 - 1),
        shards=st.sampled_from((1, 3)),
        top_k=st.sampled_from(TOP_KS),
        evict_oldest=st.booleans(),
    )
    def begin(self, seed: int, shards: int, top_k: int, evict_oldest: bool) -> None:
        self._rng = np.random.default_rng(seed)
        self._model, self._real = begin(
            self._folder / "corpus",
            self._rng,
            shards=shards,
            top_k=top_k,
            programs=_PROGRAMS,
            evict_oldest=evict_oldest,
        )

    @rule(count=st.integers(1, 5))
    def change(self, count: int) -> None:
        assert self._model is not None and self._real is not None
        change(self._model, self._real, [draw_change(self._rng, self._model) for _ in range(count)])

    @rule()
    def snapshot(self) -> None:
        assert self._real is not None
        self._real.snapshot()

    @rule(tower=st.sampled_from(TOWERS))
    def load(self, tower: str) -> None:
        assert self._real is not None
        self._real.load(tower)

    @rule(tower=st.sampled_from(TOWERS))
    def activate(self, tower: str) -> None:
        assert self._model is not None and self._real is not None
        activate(self._model, self._real, tower)

    @rule(tower=st.sampled_from(TOWERS), gently=st.booleans())
    def restart(self, tower: str, gently: bool) -> None:
        assert self._model is not None and self._real is not None
        restart(self._model, self._real, tower, gently=gently)

    @invariant()
    def is_as_the_model(self) -> None:
        if self._model is not None and self._real is not None:
            check(self._model, self._real, self._rng)

    def teardown(self) -> None:
        if self._real is not None:
            self._real.close()
        shutil.rmtree(self._folder)


TestModel = Machine.TestCase
TestModel.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)
