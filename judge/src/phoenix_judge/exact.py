"""Get exact answers from the server, and time the calls."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from phoenix_client.client import PhoenixClient
from phoenix_client.errors import FileError, InvalidArgumentError, MalformedReplyError
from phoenix_client.types.model import Model
from phoenix_client.types.results import RetrieveResult
from phoenix_client.types.users import User
from phoenix_judge.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Exact:
    """The exact answers of the server.

    Attributes:
        results: The exact top k of each user, with their representation.
        retrieve_s: Duration of each Retrieve call, as this client saw it, in seconds.
        encode_s: Duration of each EncodeUser call for the same users, without a search.
    """

    results: tuple[RetrieveResult, ...]
    retrieve_s: tuple[float, ...]
    encode_s: tuple[float, ...]


def ask(
    client: PhoenixClient,
    model: Model,
    users: Sequence[User],
    settings: Settings,
    *,
    name: str,
    report: Callable[[str], None],
) -> Exact:
    """Retrieve the exact top k of users, one after the other.

    Args:
        client: Connected to the server.
        model: What the server serves.
        users: At least one.
        settings: `top_k` and `repeat`: the number of posts, and of calls for each user. The first
            answer of a user is used; all times count.
        name: The file of the users, for errors.
        report: Called with the current step.

    Raises:
        FileError: The server rejects a user.
        MalformedReplyError: The server no longer serves `model`.
        PhoenixClientError: A call failed.
    """
    with _name_user(name, 0):
        client.encode_user(users[0])  # untimed, like the next: the first calls on a connection
    client.retrieve(users[0], top_k=settings.top_k, with_representation=True)
    results: list[RetrieveResult] = []
    retrieve_s: list[float] = []
    encode_s: list[float] = []
    for number, user in enumerate(users):
        report(f"asking the server: user {number + 1:,} of {len(users):,}")
        for turn in range(settings.repeat):
            with _name_user(name, number):
                began_s = time.perf_counter()
                result = client.retrieve(user, top_k=settings.top_k, with_representation=True)
                ended_s = time.perf_counter()
                client.encode_user(user)
            retrieve_s.append(ended_s - began_s)
            encode_s.append(time.perf_counter() - ended_s)
            if not turn:
                results.append(_checked(result, model))
    return Exact(results=tuple(results), retrieve_s=tuple(retrieve_s), encode_s=tuple(encode_s))


@contextmanager
def _name_user(name: str, number: int) -> Generator[None, None, None]:
    """Name the user of a request that the server rejects."""
    try:
        yield
    except InvalidArgumentError as error:
        problem = f"the server rejects this user: {error.message}"
        raise FileError(name, f"[{number}]", problem) from error


def _checked(result: RetrieveResult, model: Model) -> RetrieveResult:
    if result.generation != model.generation:
        raise MalformedReplyError(
            f"generation: is {result.generation}, was {model.generation} before; grade again"
        )
    if len(result.user_representation or ()) != model.embedding_size:
        raise MalformedReplyError(f"user_representation: is not {model.embedding_size} floats")
    if not result.candidates:
        raise MalformedReplyError("post_ids: is empty; the served corpus holds no posts")
    return result
