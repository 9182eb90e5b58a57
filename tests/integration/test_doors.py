"""Every way into a corpus takes and refuses the same values, in the same words."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phoenix_client.errors import PostsFileError
from phoenix_client.files.posts_file import parse_posts
from phoenix_client.wire.corpus_messages import upsert_request
from phoenix_retrieval.v1.corpus_service_pb2 import UpsertPostsRequest
from phoenix_server.build.build import BuildConfig, build_corpus
from phoenix_server.build.import_npz import import_corpus
from phoenix_server.bundle.bundle import Bundle, open_bundle
from phoenix_server.corpus.changes import PostColumns
from phoenix_server.corpus.disk.snapshot import open_snapshot
from phoenix_server.corpus.post_rules import clock_ms
from phoenix_server.errors import CorpusError, InvalidRequestError
from phoenix_server.service.upsert_request import read_posts

WIDTH = 128
SNOWFLAKE = 2_004_433_092_001_269_499
SNOWFLAKE_MS = (SNOWFLAKE >> 22) + 1_288_834_974_657
RECENT_MS = 1_750_000_000_000
UNIT = "it is in milliseconds since 1970"


class Post(NamedTuple):
    """A post as a door is given it; the default of each column is one that all doors take."""

    post_id: int = SNOWFLAKE
    author_id: int = 17
    created_at_ms: int | None = None
    labels: tuple[str, ...] = ()


class Stored(NamedTuple):
    """A post as a corpus holds it."""

    post_id: int
    author_id: int
    created_at_ms: int
    labels: frozenset[str]


class Refused(NamedTuple):
    """What a door says of a value; the place of the value comes before."""

    message: str


Door = Callable[[Post, Bundle, Path], Stored | Refused]


@pytest.fixture(scope="module")
def bundle(bundle_f32: Path) -> Bundle:
    return open_bundle(bundle_f32)


def _by_parquet(post: Post, bundle: Bundle, folder: Path) -> Stored | Refused:
    columns: dict[str, Any] = {
        "post_id": pa.array([post.post_id], pa.uint64()),
        "author_id": pa.array([post.author_id], pa.uint64()),
        "labels": pa.array([post.labels], pa.list_(pa.string())),
    }
    if post.created_at_ms is not None:
        columns["created_at"] = pa.array([post.created_at_ms], pa.timestamp("ms", "UTC"))
    pq.write_table(pa.table(columns), folder / "posts.parquet")
    try:
        build_corpus([folder / "posts.parquet"], bundle, folder / "built", BuildConfig())
    except CorpusError as exc:
        return Refused(exc.reason)
    return _stored(open_snapshot(folder / "built").columns())


def _by_npz(post: Post, bundle: Bundle, folder: Path) -> Stored | Refused:
    vectors = np.eye(1, WIDTH, dtype=np.float32)
    np.savez(
        folder / "posts.npz",
        post_ids=np.array([post.post_id], np.uint64),
        author_ids=np.array([post.author_id], np.uint64),
        candidate_representations=vectors,
        topics=np.array(post.labels or [""], object),
        allow_pickle=True,
    )
    try:
        import_corpus(folder / "posts.npz", bundle, folder / "imported", trust_pickle=True)
    except CorpusError as exc:
        return Refused(exc.reason)
    return _stored(open_snapshot(folder / "imported").columns())


def _by_upsert(post: Post, bundle: Bundle, folder: Path) -> Stored | Refused:
    del bundle, folder
    names = list(dict.fromkeys(post.labels))
    request = UpsertPostsRequest(
        post_ids=[post.post_id],
        author_ids=[post.author_id],
        created_at_unix_ms=[] if post.created_at_ms is None else [post.created_at_ms],
        label_names=names,
        label_counts=[len(post.labels)],
        label_indices=[names.index(label) for label in post.labels],
    )
    return _upsert(request)


def _by_json_lines(post: Post, bundle: Bundle, folder: Path) -> Stored | Refused:
    del bundle, folder
    line: dict[str, Any] = {
        "post_id": post.post_id,
        "author_id": post.author_id,
        "labels": post.labels,
    }
    if post.created_at_ms is not None:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=post.created_at_ms)
        line["created_at"] = moment.isoformat()
    try:
        request = upsert_request(parse_posts([json.dumps(line)]))
    except (PostsFileError, ValueError) as exc:
        return Refused(str(exc))
    return _upsert(request)


def _upsert(request: UpsertPostsRequest) -> Stored | Refused:
    try:
        return _stored(read_posts(request, limit=9, max_labels=9, width=WIDTH, now_ms=clock_ms()))
    except InvalidRequestError as exc:
        return Refused(str(exc))


def _stored(columns: PostColumns) -> Stored:
    names = columns.labels.names
    return Stored(
        post_id=int(columns.post_ids[0]),
        author_id=int(columns.author_ids[0]),
        created_at_ms=int(columns.created_at_unix_ms[0]),
        labels=frozenset(names[index] for index in columns.labels.indices),
    )


PARQUET, NPZ, UPSERT, JSON_LINES = _by_parquet, _by_npz, _by_upsert, _by_json_lines
ALL = (PARQUET, NPZ, UPSERT, JSON_LINES)
WITH_TIMES = (PARQUET, UPSERT, JSON_LINES)
SERVERS_OWN = (PARQUET, NPZ, UPSERT)  # JSON lines may be refused by the client, in its own words

NO_ID = "is 0, which is no id"
TAKEN: list[tuple[Post, tuple[Door, ...], int]] = [
    (Post(), ALL, SNOWFLAKE_MS),
    (Post(post_id=1), ALL, 0),
    (Post(post_id=2**63), ALL, 0),
    (Post(post_id=2**64 - 1), ALL, 0),
    (Post(author_id=1), ALL, SNOWFLAKE_MS),
    (Post(author_id=2**63), ALL, SNOWFLAKE_MS),
    (Post(author_id=2**64 - 1), ALL, SNOWFLAKE_MS),
    (Post(created_at_ms=RECENT_MS), WITH_TIMES, RECENT_MS),
    (Post(post_id=2**64 - 1, created_at_ms=RECENT_MS), WITH_TIMES, RECENT_MS),
    (Post(created_at_ms=365 * 86_400_000), WITH_TIMES, 365 * 86_400_000),
    (Post(created_at_ms=0), (PARQUET, UPSERT), 0),
    (Post(labels=("news",)), ALL, SNOWFLAKE_MS),
    (Post(labels=("news", "sports")), WITH_TIMES, SNOWFLAKE_MS),
    (Post(labels=("news", "news")), WITH_TIMES, SNOWFLAKE_MS),
    (Post(labels=("x" * 256,)), ALL, SNOWFLAKE_MS),
    (Post(labels=("é" * 128,)), ALL, SNOWFLAKE_MS),
    (Post(labels=("👩‍🚀",)), ALL, SNOWFLAKE_MS),
]
REFUSED: list[tuple[Post, tuple[Door, ...], str]] = [
    (Post(post_id=0), ALL, NO_ID),
    (Post(author_id=0), ALL, NO_ID),
    (Post(created_at_ms=1), WITH_TIMES, f"is 1, before 1971; {UNIT}"),
    (Post(created_at_ms=RECENT_MS // 1000), WITH_TIMES, f"is 1750000000, before 1971; {UNIT}"),
    (
        Post(created_at_ms=RECENT_MS * 10),
        WITH_TIMES,
        f"is {RECENT_MS * 10}, more than a day from now; {UNIT}",
    ),
    (Post(labels=("fine", "")), WITH_TIMES, "is empty"),
    (Post(labels=("a\nb",)), ALL, "holds a control character"),
    (Post(labels=("a\x00b",)), ALL, "holds a control character"),
    (Post(labels=("x" * 257,)), ALL, "has 257 characters, at most 256 bytes are accepted"),
    (Post(labels=("é" * 129,)), ALL, "has 258 bytes, at most 256 are accepted"),
]


def _name(door: Door) -> str:
    return door.__name__.removeprefix("_by_")


@pytest.mark.parametrize(
    ("door", "post", "created_at_ms"),
    [
        pytest.param(door, post, time, id=f"{_name(door)}-{number}")
        for number, (post, doors, time) in enumerate(TAKEN)
        for door in doors
    ],
)
def test_a_valid_post_is_taken_by_every_door(
    door: Door, post: Post, created_at_ms: int, bundle: Bundle, tmp_path: Path
) -> None:
    stored = door(post, bundle, tmp_path)
    assert isinstance(stored, Stored), stored
    expected = Stored(post.post_id, post.author_id, created_at_ms, frozenset(post.labels))
    assert stored == expected
    again = Post(stored.post_id, stored.author_id, stored.created_at_ms, tuple(stored.labels))
    assert UPSERT(again, bundle, tmp_path) == stored  # what a corpus holds can be written back


@pytest.mark.parametrize(
    ("door", "post", "what"),
    [
        pytest.param(door, post, what, id=f"{_name(door)}-{number}")
        for number, (post, doors, what) in enumerate(REFUSED)
        for door in doors
    ],
)
def test_an_invalid_post_is_refused_by_every_door(
    door: Door, post: Post, what: str, bundle: Bundle, tmp_path: Path
) -> None:
    refused = door(post, bundle, tmp_path)
    assert isinstance(refused, Refused), refused
    assert "\n" not in refused.message
    if door in SERVERS_OWN:
        assert refused.message.endswith(what)
