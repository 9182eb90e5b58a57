"""Draw realistic requests for any model from a seed.

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
_NEWEST_MS = 23 * 365 * 24 * 3600 * 1000 // 2  # newest post id, since the epoch of ids: 11.5 years
_SPAN_MS = 30 * 24 * 3600 * 1000  # posts are up to a month old
_SNOWFLAKE_SHIFT = 22  # the bits below carry no time
_UNKNOWN_USER = 0.05  # share of users without an id
_UNKNOWN_ACTIONS = 0.02  # share of engagements without an action
# Probability of an action in an engagement; 0.01 for the model's other actions.
_ACTIONS = {1: 0.45, 4: 0.08, 5: 0.02, 6: 0.1, 11: 0.6, 13: 0.2}
_OTHER_ACTION = 0.01
_SURFACES = 0.7  # a surface is 0.7 times as frequent as the one before it


@dataclass(frozen=True, kw_only=True)
class RequestMix:
    """Distribution of requests.

    Users are new, occasional or heavy: their histories have a few engagements, up to as many as the
    model reads, or more than that.

    Attributes:
        count: Number of different requests.
        top_k: `top_k` of each request.
        new_users: Share of histories with 0 to 8 engagements.
        heavy_users: Share of histories from 1 to 1.5 times the model's longest.
        seed: Random seed.
    """

    count: int = 4000
    top_k: int = 200
    new_users: float = 0.15
    heavy_users: float = 0.35
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.count, self.top_k) < 1:
            raise ValueError("count, top_k: must be at least 1")
        if min(self.new_users, self.heavy_users) < 0 or self.new_users + self.heavy_users > 1:
            raise ValueError("new_users, heavy_users: must be shares with a sum of at most 1")


class _Posts(NamedTuple):
    ids: npt.NDArray[np.uint64]  # [P]
    authors: npt.NDArray[np.uint64]  # [P]
    cumulative: npt.NDArray[np.float64]  # [P], cumulative probabilities of the posts


def draw_requests(model: Model, mix: RequestMix) -> list[RetrieveRequest]:
    """Draw requests that a model accepts; equal sizes and mix give equal requests."""
    rng = np.random.default_rng(mix.seed)
    posts = _draw_posts(rng)
    lengths = _draw_lengths(rng, model.history_length, mix)
    return [
        RetrieveRequest(user=_draw_user(rng, posts, int(length), model), top_k=mix.top_k)
        for length in lengths
    ]


def let_users_repeat(
    new: Sequence[RetrieveRequest], regulars: Sequence[RetrieveRequest], *, seed: int = 0
) -> list[RetrieveRequest]:
    """Return the new requests, each followed by one that is drawn from the regulars."""
    drawn = np.random.default_rng(seed).integers(0, len(regulars), len(new))
    return [each for i, first in zip(drawn, new, strict=True) for each in (first, regulars[i])]


def write_requests(requests: Iterable[RetrieveRequest], path: Path) -> None:
    """Write length-prefixed requests, the format of ghz and `read_requests`."""
    buffer = BytesIO()
    for request in requests:
        proto.serialize_length_prefixed(request, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


def read_requests(path: Path) -> list[RetrieveRequest]:
    """Read requests that `write_requests` wrote.

    Raises:
        ValueError: The file holds no requests.
    """
    requests = list(_parse(path.read_bytes()))
    if not requests:
        raise ValueError(f"{path}: holds no requests")
    return requests


def history_lengths(requests: Sequence[RetrieveRequest]) -> npt.NDArray[np.int64]:
    """Return the number of engagements of each request, [len(requests)]."""
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
    """Draw a user with a history of `length` engagements, oldest first."""
    drawn = np.searchsorted(posts.cumulative, rng.random(length)).clip(max=_POSTS - 1)
    drawn = drawn[np.argsort(posts.ids[drawn])]
    known = not length or rng.random() >= _UNKNOWN_USER  # a user needs an id or a history
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
