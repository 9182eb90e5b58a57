"""Changes of a corpus as columns, and the net effect of several of them.

Shapes:
    n  posts of a change        D  width of a vector        L  labels of all its posts
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from phoenix_server.runtime.arrays import F32, I32, I64, U64, Bools

Ids = U64


class Labels(NamedTuple):
    """The labels of posts.

    Attributes:
        names: The distinct names.
        counts: [n] i32, the number of labels of each post.
        indices: [L] i32, the labels of all posts, post by post, as indices into `names`.
    """

    names: tuple[str, ...]
    counts: I32
    indices: I32

    @staticmethod
    def none(count: int) -> "Labels":
        """Return the labels of `count` posts without labels."""
        return Labels((), np.zeros(count, np.int32), np.zeros(0, np.int32))

    @property
    def used(self) -> tuple[str, ...]:
        """The names that some post has."""
        counts = np.bincount(self.indices, minlength=len(self.names))
        return tuple(self.names[index] for index in np.flatnonzero(counts))

    def without_unused(self) -> "Labels":
        """Return the same labels; `names` holds only those that some post has."""
        used = self.used
        codes = {name: code for code, name in enumerate(used)}
        table = np.array([codes.get(name, -1) for name in self.names], np.int32)
        return Labels(used, self.counts, table[self.indices])

    def take(self, chosen: npt.NDArray[np.intp]) -> "Labels":
        """Return the labels of [m] chosen posts; `names` stays as it is."""
        starts = np.cumsum(self.counts) - self.counts
        counts = self.counts[chosen]
        ends = np.cumsum(counts)
        within = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
        return Labels(self.names, counts, self.indices[np.repeat(starts[chosen], counts) + within])


@dataclass(frozen=True, kw_only=True)
class PostColumns:
    """Posts without their vectors.

    Attributes:
        post_ids: [n] u64, distinct in a change, never 0.
        author_ids: [n] u64, never 0.
        created_at_unix_ms: [n] i64, milliseconds since 1970 UTC, 0 where unknown.
        labels: The labels of the posts.
    """

    post_ids: Ids
    author_ids: Ids
    created_at_unix_ms: I64
    labels: Labels

    def __len__(self) -> int:
        return len(self.post_ids)

    def take(self, chosen: npt.NDArray[np.intp]) -> Self:
        """Return [m] chosen posts."""
        arrays = {k: v[chosen] for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        return replace(self, labels=self.labels.take(chosen), **arrays)


@dataclass(frozen=True, kw_only=True)
class Posts(PostColumns):
    """Posts with their vectors.

    Attributes:
        vectors: [n, D] f32, unit vectors.
        tower: The fingerprint of the towers that made the vectors; empty if not known.
    """

    vectors: F32
    tower: str = ""


Change = Posts | Ids
"""Posts to write, or the ids of posts to delete."""


class ChangeResult(NamedTuple):
    """The result of a change.

    Attributes:
        sequence: The number of the change.
        inserted: The number of posts that are new.
        replaced: The number of posts that replaced a post with the same id.
        deleted: The number of posts that were deleted.
        evicted: The number of posts that the change before this one deleted to make room.
    """

    sequence: int
    inserted: int
    replaced: int
    deleted: int
    evicted: int = 0


class NetChange(NamedTuple):
    """The net effect of several changes; each post occurs once.

    Attributes:
        written: The posts whose last change is a write, as last written; None if there are none.
        deleted: [m] u64, the posts whose last change is a deletion. The corpus may not hold them.
        label_names: The labels of all posts written, including posts deleted later.
    """

    written: Posts | None
    deleted: Ids
    label_names: tuple[str, ...] = ()


class History(NamedTuple):
    """Consecutive changes, as columns.

    Attributes:
        changes: The number of changes.
        post_ids: [n] u64, the posts that the changes write and delete, in order.
        is_write: [n] bool, True where the post is written.
        writes: The written posts, in order, in parts; a part may hold a post several times.
    """

    changes: int
    post_ids: Ids
    is_write: Bools
    writes: Sequence[Posts]

    @staticmethod
    def of(changes: Sequence[Change]) -> "History":
        """Return the history of some changes."""
        ids = [change.post_ids if isinstance(change, Posts) else change for change in changes]
        kinds = np.array([isinstance(change, Posts) for change in changes], np.bool_)
        return History(
            changes=len(changes),
            post_ids=np.concatenate([np.zeros(0, np.uint64), *ids]),
            is_write=np.repeat(kinds, list(map(len, ids))),
            writes=[change for change in changes if isinstance(change, Posts)],
        )

    def net(self) -> NetChange:
        """Return the net effect: the last change of each post.

        Raises:
            ValueError: The vectors are of several towers.
        """
        # np.unique returns first occurrences; in reverse order these are the last ones.
        _, first = np.unique(self.post_ids[::-1], return_index=True)
        last = np.zeros(len(self.post_ids), np.bool_)
        last[len(last) - 1 - first] = True
        deleted = self.post_ids[last & ~self.is_write]
        if not self.writes:
            return NetChange(None, deleted)
        kept = last[self.is_write]
        written = self.writes[0] if len(self.writes) == 1 else concatenate(self.writes)
        names = written.labels.names
        if not kept.all():
            written = written.take(np.flatnonzero(kept))
        return NetChange(written if len(written) else None, deleted, names)


def net(changes: Sequence[Change]) -> NetChange:
    """Return the net effect of changes; see `History.net`."""
    return History.of(changes).net()


def concatenate(parts: Sequence[Posts]) -> Posts:
    """Concatenate one or more parts, whose vectors are of one tower.

    Raises:
        ValueError: The vectors are of several towers.
    """
    if len(towers := {part.tower for part in parts}) > 1:
        raise ValueError(f"posts have vectors of {len(towers)} towers and cannot be concatenated")
    codes: dict[str, int] = {}
    indices: list[I32] = []
    for part in parts:
        own = [codes.setdefault(name, len(codes)) for name in part.labels.names]
        indices.append(np.array(own, np.int32)[part.labels.indices])
    counts = np.concatenate([part.labels.counts for part in parts])
    names = ("post_ids", "author_ids", "created_at_unix_ms", "vectors")
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    labels = Labels(tuple(codes), counts, np.concatenate(indices))
    return Posts(labels=labels, tower=parts[0].tower, **columns)
