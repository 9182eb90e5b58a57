"""The reference model of a corpus: a dict of posts, and what changes, eviction and queries do."""

from collections import UserDict
from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.changes import Change, Ids, PostColumns, Posts
from phoenix_server.engine.filters import Filter


class Post(NamedTuple):
    """A post of the model.

    Attributes:
        author_id: Its author.
        created_at_unix_ms: Its creation time, 0 if unknown.
        labels: Its labels, in order.
        vector: The bytes of its float32 vector; empty if the vector is not known.
    """

    author_id: int
    created_at_unix_ms: int
    labels: tuple[str, ...]
    vector: bytes

    def columns(self) -> tuple[int, int, tuple[str, ...]]:
        """Return all but the vector, with the labels sorted: an index keeps no order of them."""
        return self.author_id, self.created_at_unix_ms, tuple(sorted(self.labels))

    def meets(self, wanted: Filter) -> bool:
        """Return whether the post meets a filter, apart from the excluded posts."""
        since, before = wanted.since_unix_ms, wanted.before_unix_ms
        labels = set(self.labels)
        return (
            (since is None or 0 < self.created_at_unix_ms >= since)
            and (before is None or 0 < self.created_at_unix_ms < before)
            and (not wanted.any_labels or not labels.isdisjoint(wanted.any_labels))
            and labels.issuperset(wanted.all_labels)
            and labels.isdisjoint(wanted.none_labels)
            and self.author_id not in wanted.excluded_author_ids.tolist()
        )


class Model(UserDict[int, Post]):
    """The posts of a corpus, by id.

    Two models are equal if they hold equal posts.

    Attributes:
        sequence: The number of the last change.
        label_names: The labels of all posts that were ever written.
    """

    def __init__(self, posts: Mapping[int, Post] | None = None) -> None:
        super().__init__(posts or {})
        self.sequence = 0
        self.label_names = frozenset(name for post in self.values() for name in post.labels)

    @property
    def used_labels(self) -> set[str]:
        """The labels of the posts."""
        return {name for post in self.values() for name in post.labels}

    @classmethod
    def of(cls, posts: PostColumns) -> Self:
        """Return the model of a corpus of some posts; without vectors, if they have none."""
        labels = iter(posts.labels.indices.tolist())
        vectors = posts.vectors if isinstance(posts, Posts) else np.zeros((len(posts), 0))
        return cls(
            {
                post_id: Post(
                    author_id,
                    created_at,
                    tuple(posts.labels.names[next(labels)] for _ in range(count)),
                    vector.tobytes(),
                )
                for post_id, author_id, created_at, count, vector in zip(
                    posts.post_ids.tolist(),
                    posts.author_ids.tolist(),
                    posts.created_at_unix_ms.tolist(),
                    posts.labels.counts.tolist(),
                    vectors,
                    strict=True,
                )
            }
        )

    def apply(self, change: Change) -> None:
        """Apply a change."""
        self.sequence += 1
        if isinstance(change, Posts):
            self.label_names |= set(change.labels.names)
            self.update(Model.of(change))
        else:
            for post_id in change.tolist():
                self.pop(post_id, None)

    def evict(self, written: Ids, capacity: int) -> list[int]:
        """Evict posts as `--evict-oldest` does before others are written; one change if any.

        Args:
            written: The posts to write.
            capacity: The capacity of the corpus.

        Returns:
            The evicted posts, oldest first.
        """
        own = set(written.tolist())
        others = sorted((post.created_at_unix_ms, n) for n, post in self.items() if n not in own)
        evicted = [n for _, n in others[: max(0, len(others) + len(own) - capacity)]]
        if evicted:
            self.apply(np.array(evicted, np.uint64))
        return evicted

    def answer(
        self, query: npt.NDArray[np.float32], wanted: Filter | None = None
    ) -> list[tuple[int, float]]:
        """Return all posts that meet a filter, with their scores in float64, best first.

        Posts with equal scores are in the order of their ids. `min_score` has no effect.
        """
        excluded = set[int]() if wanted is None else set(wanted.excluded_post_ids.tolist())
        found = {
            post_id: post.vector
            for post_id, post in self.items()
            if wanted is None or (post_id not in excluded and post.meets(wanted))
        }
        if not found:
            return []
        vectors = np.frombuffer(b"".join(found.values()), np.float32).reshape(len(found), -1)
        scores = vectors.astype(np.float64) @ query.astype(np.float64)
        return sorted(
            zip(found, scores.tolist(), strict=True), key=lambda each: (-each[1], each[0])
        )

    def unordered(self) -> dict[int, tuple[tuple[int, int, tuple[str, ...]], bytes]]:
        """Return the posts with their labels sorted: an index keeps no order of them."""
        return {post_id: (post.columns(), post.vector) for post_id, post in self.items()}
