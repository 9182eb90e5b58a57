"""A corpus is equal to its reference model after any changes, snapshots, swaps and crashes."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from phoenix_server.runtime.program_cache import ProgramCache
from server.corpus.comparison import Comparison
from server.corpus.real_corpus import TOP_KS, TOWERS

_PROGRAMS = ProgramCache()  # shared by all examples, which have the same shapes


class Machine(RuleBasedStateMachine):
    """Changes, snapshots, swaps of the towers, restarts and crashes, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp())
        self._corpus: Comparison | None = None

    @initialize(
        seed=st.integers(0, 2**32 - 1),
        shards=st.sampled_from((1, 3)),
        top_k=st.sampled_from(TOP_KS),
        evict_oldest=st.booleans(),
    )
    def begin(self, seed: int, shards: int, top_k: int, evict_oldest: bool) -> None:
        self._corpus = Comparison(
            self._folder / "corpus",
            np.random.default_rng(seed),
            shards=shards,
            top_k=top_k,
            programs=_PROGRAMS,
            evict_oldest=evict_oldest,
        )

    @property
    def corpus(self) -> Comparison:
        assert self._corpus is not None
        return self._corpus

    @rule(count=st.integers(1, 5))
    def change(self, count: int) -> None:
        self.corpus.change(count)

    @rule()
    def snapshot(self) -> None:
        self.corpus.snapshot()

    @rule(tower=st.sampled_from(TOWERS))
    def load(self, tower: str) -> None:
        self.corpus.load(tower)

    @rule(tower=st.sampled_from(TOWERS))
    def activate(self, tower: str) -> None:
        self.corpus.activate(tower)

    @rule(tower=st.sampled_from(TOWERS), gently=st.booleans())
    def restart(self, tower: str, gently: bool) -> None:
        self.corpus.restart(tower, gently=gently)

    @invariant()
    def is_equal_to_the_model(self) -> None:
        if self._corpus is not None:
            self._corpus.check()

    def teardown(self) -> None:
        if self._corpus is not None:
            self._corpus.close()
        shutil.rmtree(self._folder)


TestModel = Machine.TestCase
TestModel.settings = settings(max_examples=12, stateful_step_count=15)
