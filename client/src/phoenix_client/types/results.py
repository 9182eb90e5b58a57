"""Immutable results. Columns stay columns; rows are built on access."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from phoenix_client.types.columns import Columns
from phoenix_client.types.times import UNKNOWN, from_unix_ms


class Candidate(NamedTuple):
    """A retrieved post.

    Attributes:
        post_id: The post.
        score: Dot product of the user's and the post's unit vectors, -1 to 1.
        author_id: The post's author; None unless requested.
        labels: The post's labels; empty unless requested.
        created_at: When the post was created, in UTC; None unless requested and known.
    """

    post_id: int
    score: float
    author_id: int | None = None
    labels: tuple[str, ...] = ()
    created_at: datetime | None = None


@dataclass(frozen=True)
class Candidates(Columns[Candidate]):
    """Retrieved posts, best first, in columns.

    Indexing and iterating build `Candidate`s; a slice is `Candidates`.

    Attributes:
        post_ids: Ids of the posts.
        scores: Their scores, descending.
        author_ids: Ids of their authors. Empty unless requested.
        created_at_unix_ms: When they were created, in milliseconds since 1970 UTC; 0 if not
            known. Empty unless requested.
        labels: Their labels. Empty unless requested.
    """

    _may_be_empty = frozenset({"author_ids", "created_at_unix_ms", "labels"})

    scores: Sequence[float]
    author_ids: Sequence[int] = ()
    created_at_unix_ms: Sequence[int] = ()
    labels: Sequence[tuple[str, ...]] = ()

    def row(self, index: int, /) -> Candidate:
        """Build the candidate of rank `index + 1`."""
        created_at_unix_ms = self.created_at_unix_ms[index] if self.created_at_unix_ms else UNKNOWN
        return Candidate(
            post_id=self.post_ids[index],
            score=self.scores[index],
            author_id=self.author_ids[index] if self.author_ids else None,
            labels=self.labels[index] if self.labels else (),
            created_at=from_unix_ms(created_at_unix_ms),
        )


@dataclass(frozen=True)
class RetrieveResult:
    """The exact top k of one user.

    Attributes:
        generation: Names the bundle and the corpus that answered.
        rows_scanned: Number of posts scanned: all of the corpus.
        rows_eligible: Number of them that meet the filter, not counting its `min_score`.
        candidates: The `min(top_k, rows_eligible)` best posts, fewer only if the filter has a
            `min_score`. Order: score descending, then post id ascending.
        user_representation: The user's unit vector; None unless requested.
        sequence: Number of the last change of the corpus that the answer includes.
    """

    generation: str
    rows_scanned: int
    rows_eligible: int
    candidates: Candidates
    user_representation: tuple[float, ...] | None = None
    sequence: int = 0


class ScoredPost(NamedTuple):
    """A post that was scored for a user.

    Attributes:
        post_id: The post.
        score: Dot product of the user's and the post's unit vectors, -1 to 1.
        rank: Its exact rank among all eligible posts, from 1.
    """

    post_id: int
    score: float
    rank: int


@dataclass(frozen=True)
class ScoredPosts(Columns[ScoredPost]):
    """Scored posts, in the order of the request, in columns.

    Attributes:
        post_ids: Ids of the posts.
        scores: Their scores.
        ranks: Their ranks, from 1.
    """

    scores: Sequence[float]
    ranks: Sequence[int]

    def row(self, index: int, /) -> ScoredPost:
        """Build the scored post at `index`."""
        return ScoredPost(self.post_ids[index], self.scores[index], self.ranks[index])


@dataclass(frozen=True)
class ScoreResult:
    """Exact scores and ranks of given posts.

    Attributes:
        generation: Names the bundle and the corpus that answered.
        rows_scanned: Number of posts scanned: all of the corpus.
        rows_eligible: Number of them that are ranked.
        posts: The posts, in the order of the request.
        sequence: Number of the last change of the corpus that the answer includes.
    """

    generation: str
    rows_scanned: int
    rows_eligible: int
    posts: ScoredPosts
    sequence: int = 0


@dataclass(frozen=True)
class EncodedUser:
    """A user's representation.

    Attributes:
        generation: Names the bundle and the corpus that answered.
        user_representation: The user's unit vector, `embedding_size` floats.
        user_norm: Norm of the mean of the transformer's outputs, before normalisation.
    """

    generation: str
    user_representation: tuple[float, ...]
    user_norm: float


@dataclass(frozen=True)
class EncodedCandidates:
    """Unit vectors of posts, in the order of the request.

    Indexing and iterating give one post's vector: a read-only view of `embedding_size` float32,
    not copied. With numpy, all of them at once, not copied either:
    `np.asarray(encoded.values).reshape(-1, encoded.embedding_size)`.

    Attributes:
        generation: Names the bundle and the corpus that answered.
        embedding_size: Width of a vector.
        values: All vectors, one after the other, as float32.
    """

    generation: str
    embedding_size: int
    values: memoryview

    def __len__(self) -> int:
        return len(self.values) // self.embedding_size

    def __iter__(self) -> Iterator[memoryview]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> memoryview:
        start = range(0, len(self.values), self.embedding_size)[index]
        return self.values[start : start + self.embedding_size]
