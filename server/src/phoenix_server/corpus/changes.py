"""Changes of a corpus, in columns, and what is left of many of them.

Shapes:
    n  posts of a change        D  width of a vector        L  labels of all its posts
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint64]


class Labels(NamedTuple):
    """The labels of posts, by name.

    Attributes:
        names: The distinct names.
        counts: [n] i32, how many labels each post has.
        indices: [L] i32, the labels of all posts, one post after the other, as indices into names.
    """

    names: tuple[str, ...]
    counts: npt.NDArray[np.int32]
    indices: npt.NDArray[np.int32]

    @staticmethod
    def none(posts: int) -> "Labels":
        """Return no labels for so many posts."""
        return Labels((), np.zeros(posts, np.int32), np.zeros(0, np.int32))

    def of(self, chosen: npt.NDArray[np.intp]) -> "Labels":
        """Return those of [m] chosen posts; all names stay."""
        starts = np.cumsum(self.counts) - self.counts
        counts = self.counts[chosen]
        ends = np.cumsum(counts)
        within = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
        return Labels(self.names, counts, self.indices[np.repeat(starts[chosen], counts) + within])


@dataclass(frozen=True, kw_only=True)
class Posts:
    """Posts with all that is known of them.

    Attributes:
        post_ids: [n] u64, distinct in a change, never 0.
        author_ids: [n] u64, never 0.
        created_at_unix_ms: [n] i64, milliseconds since 1970 UTC, 0 where unknown.
        labels: Their labels.
        vectors: [n, D] f32, unit vectors.
        tower: The fingerprint of the towers that made the vectors; empty where nobody asks.
    """

    post_ids: Ids
    author_ids: Ids
    created_at_unix_ms: npt.NDArray[np.int64]
    labels: Labels
    vectors: npt.NDArray[np.float32]
    tower: str = ""

    def __len__(self) -> int:
        return len(self.post_ids)

    def of(self, chosen: npt.NDArray[np.intp]) -> "Posts":
        """Return [m] chosen posts."""
        return Posts(
            post_ids=self.post_ids[chosen],
            author_ids=self.author_ids[chosen],
            created_at_unix_ms=self.created_at_unix_ms[chosen],
            labels=self.labels.of(chosen),
            vectors=self.vectors[chosen],
            tower=self.tower,
        )


Change = Posts | Ids
"""Posts to write, or the ids of posts to delete."""


class Net(NamedTuple):
    """What is left of changes: each post comes once.

    Attributes:
        written: Posts as they were last written. None: there are none.
        deleted: [m] u64, posts that were last deleted; the corpus may not have held them.
        label_names: The labels of all that was written, also of posts that were deleted since.
    """

    written: Posts | None
    deleted: Ids
    label_names: tuple[str, ...] = ()


class History(NamedTuple):
    """Changes, one after the other, in columns.

    Attributes:
        changes: How many there are.
        post_ids: [n] u64, of the posts that they write and delete, in order.
        is_write: [n] bool, which they write.
        writes: Those, in order, in one part or more; a part may hold a post several times.
    """

    changes: int
    post_ids: Ids
    is_write: npt.NDArray[np.bool_]
    writes: Sequence[Posts]

    @staticmethod
    def of(changes: Sequence[Change]) -> "History":
        """Return changes so."""
        ids = [change.post_ids if isinstance(change, Posts) else change for change in changes]
        kinds = np.array([isinstance(change, Posts) for change in changes], np.bool_)
        return History(
            changes=len(changes),
            post_ids=np.concatenate([np.zeros(0, np.uint64), *ids]),
            is_write=np.repeat(kinds, list(map(len, ids))),
            writes=[change for change in changes if isinstance(change, Posts)],
        )

    def net(self) -> Net:
        """Return what is left of them: the last of each post counts.

        Raises:
            ValueError: The vectors are of several towers.
        """
        # The first among those from behind is the last.
        _, first = np.unique(self.post_ids[::-1], return_index=True)
        last = np.zeros(len(self.post_ids), np.bool_)
        last[len(last) - 1 - first] = True
        deleted = self.post_ids[last & ~self.is_write]
        if not self.writes:
            return Net(None, deleted)
        kept = last[self.is_write]
        written = self.writes[0] if len(self.writes) == 1 else concatenate(self.writes)
        names = written.labels.names
        if not kept.all():
            written = written.of(np.flatnonzero(kept))
        return Net(written if len(written) else None, deleted, names)


def net(changes: Sequence[Change]) -> Net:
    """Return what is left of changes; see `History.net`."""
    return History.of(changes).net()


def concatenate(parts: Sequence[Posts]) -> Posts:
    """Return posts of one tower, one after the other; at least one part.

    Raises:
        ValueError: Their vectors are of several towers.
    """
    if len(towers := {part.tower for part in parts}) > 1:
        raise ValueError(f"vectors of {len(towers)} towers do not go together")
    codes: dict[str, int] = {}
    indices: list[npt.NDArray[np.int32]] = []
    for part in parts:
        mine = [codes.setdefault(name, len(codes)) for name in part.labels.names]
        indices.append(np.array(mine, np.int32)[part.labels.indices])
    return Posts(
        post_ids=np.concatenate([part.post_ids for part in parts]),
        author_ids=np.concatenate([part.author_ids for part in parts]),
        created_at_unix_ms=np.concatenate([part.created_at_unix_ms for part in parts]),
        labels=Labels(
            tuple(codes),
            np.concatenate([part.labels.counts for part in parts]),
            np.concatenate(indices),
        ),
        vectors=np.concatenate([part.vectors for part in parts]),
        tower=parts[0].tower,
    )
