"""Posts of the corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from phoenix_client.types.columns import Columns
from phoenix_client.types.times import from_unix_ms


class Post(NamedTuple):
    """A post, to be written to the corpus or as the corpus holds it.

    Attributes:
        post_id: The post; never 0.
        author_id: The post's author; never 0.
        created_at: When the post was created, with a time zone; stored to the millisecond. None:
            not known. If no post of a call, or of a batch of a stream, has one, the server derives
            the times from the ids.
        labels: The post's labels; repeating one changes nothing.
        vector: The post's unit vector, `Model.embedding_size` floats. None: the server encodes the
            post from the two ids. Either all posts of a call have one or none has. Posts that
            were looked up have none.
    """

    post_id: int
    author_id: int
    created_at: datetime | None = None
    labels: Sequence[str] = ()
    vector: Sequence[float] | None = None


@dataclass(frozen=True)
class Posts(Columns[Post]):
    """Posts as the corpus holds them, in columns.

    Indexing and iterating build `Post`s; a slice is `Posts`.

    Attributes:
        post_ids: Ids of the posts.
        author_ids: Ids of their authors.
        created_at_unix_ms: When they were created, in milliseconds since 1970 UTC; 0 if not
            known.
        labels: Their labels.
    """

    author_ids: Sequence[int]
    created_at_unix_ms: Sequence[int]
    labels: Sequence[tuple[str, ...]]

    def row(self, index: int, /) -> Post:
        """Build the post at `index`."""
        return Post(
            post_id=self.post_ids[index],
            author_id=self.author_ids[index],
            created_at=from_unix_ms(self.created_at_unix_ms[index]),
            labels=self.labels[index],
        )
