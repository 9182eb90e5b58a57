"""Read posts from a file of JSON lines: one object per line.

    {"post_id": 1, "author_id": 2, "created_at": "2026-05-01T12:00:00Z", "labels": ["news"]}

`created_at` is a time of ISO 8601 with a time zone. Either all posts of a file have a `vector`, a
list of numbers, or none has. These two may be missing or null, and `labels` may be missing. Ids are
numbers or, for tools without 64-bit integers, strings of their digits. Unknown keys and empty lines
are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from phoenix_client.errors import PostsFileError
from phoenix_client.files.json_value import JsonValue
from phoenix_client.types import times
from phoenix_client.types.posts import Post


def load_posts(path: str | Path) -> Iterator[Post]:
    """Read a file lazily: a line each time the next post is requested.

    Raises:
        PostsFileError: It cannot be read, or a line does not hold a post.
    """
    try:
        with Path(path).open("rb") as lines:
            yield from parse_posts(lines, name=str(path))
    except OSError as error:
        raise PostsFileError(str(path), "", error.strerror or str(error)) from error


def parse_posts(lines: Iterable[str | bytes], *, name: str = "<lines>") -> Iterator[Post]:
    """Read lines lazily: one each time the next post is requested; errors call the file `name`.

    Raises:
        PostsFileError: A line does not hold a post.
    """
    reader = _Reader(name)
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield reader.post(line, f"line {number}")


class _Reader:
    """Turns lines into posts, and checks that all posts have vectors of one width or none has."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._first_line = ""
        self._width: int | None = None  # of the first post's vector, if it has one

    def post(self, text: str | bytes, line: str) -> Post:
        entry = JsonValue.parse(text, PostsFileError, self._name, line)
        return Post(
            post_id=entry.member("post_id").uint(minimum=1),
            author_id=entry.member("author_id").uint(minimum=1),
            created_at=_created_at(entry.member("created_at", None)),
            labels=_labels(entry.member("labels", [])),
            vector=self._vector(entry.member("vector", None)),
        )

    def _vector(self, entry: JsonValue) -> tuple[float, ...] | None:
        vector = None if entry.value is None else entry.floats()
        width = None if vector is None else len(vector)
        if not self._first_line:
            self._first_line, self._width = entry.line, width
        if width != self._width:
            here, first = ("none" if w is None else f"one of {w}" for w in (width, self._width))
            raise entry.error(
                "give one of the same length in all posts, or in none:"
                f" {self._first_line} has {first}, this has {here}"
            )
        return vector


def _created_at(entry: JsonValue) -> datetime | None:
    if entry.value is None:
        return None
    text = entry.text()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise entry.misfit("must be a time of ISO 8601") from error
    try:
        times.to_unix_ms(moment)
    except ValueError as error:
        raise entry.error(str(error)) from error
    return moment


def _labels(entry: JsonValue) -> tuple[str, ...]:
    labels: list[str] = []
    for element in entry.elements():
        label = element.value
        if not isinstance(label, str) or not label:
            raise element.misfit("must be a string that is not empty")
        if not label.isascii() and any("\ud800" <= char <= "\udfff" for char in label):
            raise element.misfit("must be text, without lone surrogates")
        labels.append(label)
    return tuple(labels)
