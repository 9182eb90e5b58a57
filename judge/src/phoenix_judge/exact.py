"""Asks the server for exact answers, and times it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from phoenix_client.client import PhoenixClient
from phoenix_client.errors import FileError, InvalidArgumentError, MalformedReplyError
from phoenix_client.types.model import Model
from phoenix_client.types.results import RetrieveResult
from phoenix_client.types.users import User


@dataclass(frozen=True, kw_only=True)
class Exact:
    """What the server answered.

    Attributes:
        results: The exact top k of each user, with their representation.
        retrieve_s: How long the calls took, as this client saw it, in seconds.
        encode_s: How long calls took that encode the same users and search nothing.
    """

    results: tuple[RetrieveResult, ...]
    retrieve_s: tuple[float, ...]
    encode_s: tuple[float, ...]


def ask(
    client: PhoenixClient,
    model: Model,
    users: Sequence[User],
    *,
    top_k: int,
    repeat: int,
    name: str,
    report: Callable[[str], None],
) -> Exact:
    """Ask for the exact top k of users, one after the other.

    Args:
        client: Asks.
        model: What the server serves.
        users: At least one.
        top_k: How many posts.
        repeat: How often to ask for each user; the first answer counts, all times do.
        name: The file that the users come from, for errors.
        report: Called with what is done now.

    Raises:
        FileError: The server refuses a user.
        MalformedReplyError: The server serves something else than `model`.
        PhoenixClientError: A call failed.
    """
    with _refused(name, 0):
        client.encode_user(users[0])  # untimed, as the next: what a connection's first calls take
    client.retrieve(users[0], top_k=top_k, with_representation=True)
    results: list[RetrieveResult] = []
    retrieve_s: list[float] = []
    encode_s: list[float] = []
    for number, user in enumerate(users):
        report(f"asking the server: user {number + 1:,} of {len(users):,}")
        for turn in range(repeat):
            with _refused(name, number):
                began_s = time.perf_counter()
                result = client.retrieve(user, top_k=top_k, with_representation=True)
                ended_s = time.perf_counter()
                client.encode_user(user)
            retrieve_s.append(ended_s - began_s)
            encode_s.append(time.perf_counter() - ended_s)
            if not turn:
                results.append(_checked(result, model))
    return Exact(
        results=tuple(results),
        retrieve_s=tuple(retrieve_s),
        encode_s=tuple(encode_s),
    )


@contextmanager
def _refused(name: str, number: int) -> Generator[None, None, None]:
    """Say of a request that the server refuses which user it was for."""
    try:
        yield
    except InvalidArgumentError as error:
        problem = f"the server refuses this user: {error.message}"
        raise FileError(name, f"[{number}]", problem) from error


def _checked(result: RetrieveResult, model: Model) -> RetrieveResult:
    if result.generation != model.generation:
        raise MalformedReplyError(
            f"generation: is {result.generation}, was {model.generation} before; judge again"
        )
    if len(result.user_representation or ()) != model.embedding_size:
        raise MalformedReplyError(f"user_representation: is not {model.embedding_size} floats")
    if not result.candidates:
        raise MalformedReplyError("post_ids: is empty; the served corpus holds no posts")
    return result
