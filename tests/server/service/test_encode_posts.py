"""Many posts, encoded a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_server.corpus.changes import Ids
from phoenix_server.errors import DeadlineExceededError
from phoenix_server.generations.generation import Generation
from phoenix_server.service import encode_posts as encoding
from phoenix_server.service.encode_posts import encode_posts

_CALL_S = 2.0


class _Slow:
    """A generation whose every call takes two seconds of a clock of its own."""

    def __init__(self, batch: int) -> None:
        self.now_s = 100.0
        self.calls: list[int] = []
        self.timeouts_s: list[float | None] = []
        self.batcher = self.engine = self
        self._batch = batch

    def post_batches(self, count: int) -> Iterator[slice]:
        return (slice(start, start + self._batch) for start in range(0, count, self._batch))

    def encode_posts(self, post_ids: Ids, author_ids: Ids) -> np.ndarray[Any, Any]:
        self.calls.append(len(post_ids))
        return np.stack([post_ids, author_ids], axis=1).astype(np.float32)

    async def call(
        self, function: Callable[[], object], *, kind: str, timeout_s: float | None
    ) -> object:
        assert kind == "encode_candidates"
        self.timeouts_s.append(timeout_s)
        if timeout_s is not None and timeout_s < _CALL_S:
            raise DeadlineExceededError("too late")
        self.now_s += _CALL_S
        return function()


def _encode(slow: _Slow, posts: int, timeout_s: float | None) -> Any:
    ids = np.arange(1, posts + 1, dtype=np.uint64)
    return encode_posts(cast(Generation, slow), ids, ids + np.uint64(7), timeout_s)


@given(posts=st.integers(1, 40), batch=st.integers(1, 12))
async def test_posts_are_encoded_a_batch_at_a_time_in_order(posts: int, batch: int) -> None:
    slow = _Slow(batch)
    vectors = await _encode(slow, posts, None)
    assert vectors.tolist() == [[n, n + 7] for n in range(1, posts + 1)]
    assert slow.calls == [min(batch, posts - start) for start in range(0, posts, batch)]
    assert slow.timeouts_s == [None] * len(slow.calls)


async def test_each_batch_has_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = _Slow(4)
    monkeypatch.setattr(encoding, "time", SimpleNamespace(monotonic=lambda: slow.now_s))
    await _encode(slow, 12, 7.5)
    assert slow.timeouts_s == [7.5, 5.5, 3.5]
    with pytest.raises(DeadlineExceededError):
        await _encode(slow, 12, 5.0)
    assert slow.timeouts_s[3:] == [5.0, 3.0, 1.0]
