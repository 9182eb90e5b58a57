"""Requests as a server might get them: drawn anew from a seed, for any model.

Shapes:
    P  posts that users engage with        n  engagements of a history
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from google.protobuf import proto

from phoenix_client import Model
from phoenix_retrieval.v1.retrieval_service_pb2 import RetrieveRequest
from phoenix_retrieval.v1.user_pb2 import User

SERVICE = "phoenix_retrieval.v1.RetrievalService"
METHOD_NAME = "Retrieve"
METHOD = f"/{SERVICE}/{METHOD_NAME}"

_POSTS = 200_000
_POSTS_PER_AUTHOR = 20
_POPULARITY = 0.8  # Zipf: the post of rank r is drawn in proportion to r ** -0.8
_NEWEST_MS = 23 * 365 * 24 * 3600 * 1000 // 2  # of post ids, since their epoch; eleven years
_SPAN_MS = 30 * 24 * 3600 * 1000  # posts are up to a month old
_SNOWFLAKE_SHIFT = 22  # below it an id carries no time
_UNKNOWN_USER = 0.05  # how many come without a user id
_UNKNOWN_ACTIONS = 0.02  # how many engagements say nothing of what was done
# How often an engagement has an action; the others of the model come one time in a hundred.
_ACTIONS = {1: 0.45, 4: 0.08, 5: 0.02, 6: 0.1, 11: 0.6, 13: 0.2}
_OTHER_ACTION = 0.01
_SURFACES = 0.7  # a surface comes 0.7 times as often as the one before it


@dataclass(frozen=True, kw_only=True)
class RequestMix:
    """What requests are like.

    Users are new, occasional or heavy: their histories are a few engagements long, spread over what
    the model reads, or longer than that.

    Attributes:
        count: How many different requests.
        top_k: How many posts each asks for.
        new_users: The share of histories of 0 to 8 engagements.
        heavy_users: The share of histories from the model's longest to half as long again.
        seed: Of all that is drawn.
    """

    count: int = 4000
    top_k: int = 200
    new_users: float = 0.15
    heavy_users: float = 0.35
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.count, self.top_k) < 1:
            raise ValueError("count, top_k: at least 1 of each")
        if min(self.new_users, self.heavy_users) < 0 or self.new_users + self.heavy_users > 1:
            raise ValueError("new_users, heavy_users: shares, of 1 together at most")


class _Posts(NamedTuple):
    ids: npt.NDArray[np.uint64]  # [P]
    authors: npt.NDArray[np.uint64]  # [P]
    cumulative: npt.NDArray[np.float64]  # [P], of the shares in which they are drawn


def draw_requests(model: Model, mix: RequestMix) -> list[RetrieveRequest]:
    """Draw requests that a model accepts; the same ones for the same sizes and mix."""
    rng = np.random.default_rng(mix.seed)
    posts = _draw_posts(rng)
    lengths = _draw_lengths(rng, model.history_length, mix)
    return [
        RetrieveRequest(user=_draw_user(rng, posts, int(length), model), top_k=mix.top_k)
        for length in lengths
    ]


def write_requests(requests: Iterable[RetrieveRequest], path: Path) -> None:
    """Write requests as ghz and `read_requests` take them: one after the other, lengths before."""
    buffer = BytesIO()
    for request in requests:
        proto.serialize_length_prefixed(request, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


def read_requests(path: Path) -> list[RetrieveRequest]:
    """Read what `write_requests` wrote.

    Raises:
        ValueError: The file holds none.
    """
    requests = list(_parse(path.read_bytes()))
    if not requests:
        raise ValueError(f"{path}: holds no requests")
    return requests


def history_lengths(requests: Sequence[RetrieveRequest]) -> npt.NDArray[np.int64]:
    """Return how many engagements each request has, [len(requests)]."""
    return np.array([len(request.user.post_ids) for request in requests])


def _parse(contents: bytes) -> Iterator[RetrieveRequest]:
    buffer = BytesIO(contents)
    while buffer.tell() < len(contents):
        yield proto.parse_length_prefixed(RetrieveRequest, buffer)


def _draw_posts(rng: np.random.Generator) -> _Posts:
    created = rng.integers(_NEWEST_MS - _SPAN_MS, _NEWEST_MS, _POSTS, np.uint64)
    low = rng.integers(0, 1 << _SNOWFLAKE_SHIFT, _POSTS, np.uint64)
    authors = rng.integers(1, 1 << 61, _POSTS // _POSTS_PER_AUTHOR, np.uint64)
    shares = np.arange(1, _POSTS + 1) ** -_POPULARITY
    return _Posts(
        ids=created << np.uint64(_SNOWFLAKE_SHIFT) | low,
        authors=authors[rng.integers(0, len(authors), _POSTS)],
        cumulative=np.cumsum(shares) / shares.sum(),
    )


def _draw_lengths(rng: np.random.Generator, longest: int, mix: RequestMix) -> npt.NDArray[np.int64]:
    """Draw the lengths of all histories."""
    kinds = rng.random(mix.count)
    new = rng.integers(0, min(8, longest) + 1, mix.count)
    occasional = rng.integers(1, longest + 1, mix.count)
    heavy = rng.integers(longest, longest + longest // 2 + 1, mix.count)
    return np.where(
        kinds < mix.new_users, new, np.where(kinds < 1 - mix.heavy_users, occasional, heavy)
    )


def _draw_user(rng: np.random.Generator, posts: _Posts, length: int, model: Model) -> User:
    """Draw a user with a history of `length`, oldest post first."""
    drawn = np.searchsorted(posts.cumulative, rng.random(length)).clip(max=_POSTS - 1)
    drawn = drawn[np.argsort(posts.ids[drawn])]
    known = not length or rng.random() >= _UNKNOWN_USER  # somebody must be known by something
    surfaces = rng.geometric(1 - _SURFACES, length) - 1
    return User(
        user_id=int(rng.integers(1, 1 << 61)) if known else 0,
        post_ids=posts.ids[drawn].tolist(),
        author_ids=posts.authors[drawn].tolist(),
        action_masks=_draw_masks(rng, length, model.num_actions).tolist(),
        product_surfaces=surfaces.clip(max=model.product_surface_vocab_size - 1).tolist(),
    )


def _draw_masks(rng: np.random.Generator, length: int, num_actions: int) -> npt.NDArray[np.uint64]:
    shares = np.array([_ACTIONS.get(action, _OTHER_ACTION) for action in range(num_actions)])
    done = rng.random((length, num_actions)) < shares  # [n, num_actions]
    done[rng.random(length) < _UNKNOWN_ACTIONS] = False
    bits = np.uint64(1) << np.arange(num_actions, dtype=np.uint64)
    return np.where(done, bits, np.uint64(0)).sum(axis=1, dtype=np.uint64)
