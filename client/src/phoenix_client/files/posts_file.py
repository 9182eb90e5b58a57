"""Reads posts from a file of JSON lines: one object a line.

    {"post_id": 1, "author_id": 2, "created_at": "2026-05-01T12:00:00Z", "labels": ["news"]}

`created_at` is of ISO 8601 with a time zone. A `vector`, as a list of numbers, all posts of a file
have, or none. These two may be missing or null, and `labels` may be missing. Ids are numbers or,
for tools that hold no 64-bit integers, strings of their digits. Keys unknown here and empty lines
are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from phoenix_client.errors import PostsFileError
from phoenix_client.files.json_reader import JsonReader
from phoenix_client.types import times
from phoenix_client.types.posts import Post

_MAX_FLOAT32 = (2 - 2**-23) * 2.0**127


def load_posts(path: str | Path) -> Iterator[Post]:
    """Read a file, a line when a post is asked for.

    Raises:
        PostsFileError: It cannot be read, or a line does not hold a post.
    """
    try:
        with Path(path).open("rb") as lines:
            yield from parse_posts(lines, name=str(path))
    except OSError as error:
        raise PostsFileError(str(path), "", error.strerror or str(error)) from error


def parse_posts(lines: Iterable[str | bytes], *, name: str = "<lines>") -> Iterator[Post]:
    """Read the lines of a file, each when a post is asked for; errors call the file `name`.

    Raises:
        PostsFileError: A line does not hold a post.
    """
    reader = _Reader(name)
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield reader.post(line, f"line {number}")


class _Reader(JsonReader):
    """Turns lines into posts. A location is a line, and the path of a value in it."""

    error_class = PostsFileError

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._first_line = ""
        self._width: int | None = None  # of the first post's vector, if it has one

    def post(self, text: str | bytes, line: str) -> Post:
        entry = self.object(self.parse(text, line), line)
        at = f"{line}: "
        return Post(
            post_id=self.uint(self.member(entry, "post_id", at), f"{at}post_id", 64, least=1),
            author_id=self.uint(self.member(entry, "author_id", at), f"{at}author_id", 64, least=1),
            created_at=self._created_at(entry.get("created_at"), f"{at}created_at"),
            labels=self._labels(entry.get("labels", []), f"{at}labels"),
            vector=self._vector(entry.get("vector"), line),
        )

    def _created_at(self, value: object, location: str) -> datetime | None:
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.misfit(location, "must be a string", value)
        try:
            moment = datetime.fromisoformat(value)
        except ValueError as error:
            raise self.misfit(location, "must be a time of ISO 8601", value) from error
        try:
            times.to_unix_ms(moment)
        except ValueError as error:
            raise self.fault(location, str(error)) from error
        return moment

    def _labels(self, value: object, location: str) -> tuple[str, ...]:
        labels: dict[str, None] = {}
        for index, label in enumerate(self.array(value, location)):
            at = f"{location}[{index}]"
            if not isinstance(label, str) or not label:
                raise self.misfit(at, "must be a string that is not empty", label)
            if not label.isascii() and any("\ud800" <= char <= "\udfff" for char in label):
                raise self.misfit(at, "must be text, without lone surrogates", label)
            if label in labels:
                raise self.misfit(at, "must not be there twice", label)
            labels[label] = None
        return tuple(labels)

    def _vector(self, value: object, line: str) -> tuple[float, ...] | None:
        location = f"{line}: vector"
        vector = None if value is None else self._floats(self.array(value, location), location)
        width = None if vector is None else len(vector)
        if not self._first_line:
            self._first_line, self._width = line, width
        if width != self._width:
            here, first = ("none" if w is None else f"one of {w}" for w in (width, self._width))
            raise self.fault(
                location,
                f"all posts have one of a length or none has: {self._first_line} has"
                f" {first}, this has {here}",
            )
        return vector

    def _floats(self, values: list[object], location: str) -> tuple[float, ...]:
        if not values:
            raise self.fault(location, "is empty")
        floats: list[float] = []
        for index, value in enumerate(values):
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not -_MAX_FLOAT32 <= value <= _MAX_FLOAT32
            ):
                raise self.misfit(f"{location}[{index}]", "must be a number in float32", value)
            floats.append(float(value))
        return tuple(floats)
