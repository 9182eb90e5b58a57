"""Client of the Phoenix retrieval server.

    from phoenix_client import Action, Engagement, History, PhoenixClient, User

    history = History.from_engagements([Engagement(2, 3, {Action.FAVORITE, Action.DWELL})])
    with PhoenixClient("127.0.0.1:50051") as client:
        result = client.retrieve(User(1, history), top_k=10, with_author_ids=True)
    for candidate in result.candidates:
        ...

A filter restricts the posts:

    fresh = Filter(created_since=datetime.now(UTC) - timedelta(days=1), none_labels=["nsfw"])
    result = client.retrieve(user, top_k=10, filter=fresh)

The client changes the corpus too:

    written = client.upsert_posts([Post(7, 8, datetime.now(UTC), labels=["news"])])
    result = client.retrieve(user, top_k=10, min_sequence=written.sequence)

It loads and activates generations, from directories of the server:

    client.load_generation("bundles/2", activate=True)
    client.roll_back_generation()

`AsyncPhoenixClient` has the same methods as coroutines. `phoenix_client.errors` shows the tree of
exceptions.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phoenix_client.aio import AsyncPhoenixClient as AsyncPhoenixClient
    from phoenix_client.client import PhoenixClient as PhoenixClient
    from phoenix_client.errors import CallCancelledError as CallCancelledError
    from phoenix_client.errors import DeadlineExceededError as DeadlineExceededError
    from phoenix_client.errors import FailedPreconditionError as FailedPreconditionError
    from phoenix_client.errors import FieldViolation as FieldViolation
    from phoenix_client.errors import FileError as FileError
    from phoenix_client.errors import InternalError as InternalError
    from phoenix_client.errors import InvalidArgumentError as InvalidArgumentError
    from phoenix_client.errors import MalformedReplyError as MalformedReplyError
    from phoenix_client.errors import NotFoundError as NotFoundError
    from phoenix_client.errors import PermissionDeniedError as PermissionDeniedError
    from phoenix_client.errors import PhoenixClientError as PhoenixClientError
    from phoenix_client.errors import PostsFileError as PostsFileError
    from phoenix_client.errors import ResourceExhaustedError as ResourceExhaustedError
    from phoenix_client.errors import SequenceError as SequenceError
    from phoenix_client.errors import UnauthenticatedError as UnauthenticatedError
    from phoenix_client.errors import UnavailableError as UnavailableError
    from phoenix_client.errors import UnimplementedError as UnimplementedError
    from phoenix_client.errors import UnknownStatusError as UnknownStatusError
    from phoenix_client.files.posts_file import load_posts as load_posts
    from phoenix_client.files.posts_file import parse_posts as parse_posts
    from phoenix_client.files.sequence import load_sequence as load_sequence
    from phoenix_client.files.sequence import load_sequences as load_sequences
    from phoenix_client.files.sequence import parse_sequence as parse_sequence
    from phoenix_client.types.corpus import CorpusState as CorpusState
    from phoenix_client.types.corpus import Deleted as Deleted
    from phoenix_client.types.corpus import FoundPosts as FoundPosts
    from phoenix_client.types.corpus import Snapshot as Snapshot
    from phoenix_client.types.corpus import Upserted as Upserted
    from phoenix_client.types.filters import Filter as Filter
    from phoenix_client.types.generations import Generation as Generation
    from phoenix_client.types.generations import GenerationState as GenerationState
    from phoenix_client.types.model import Model as Model
    from phoenix_client.types.posts import Post as Post
    from phoenix_client.types.posts import Posts as Posts
    from phoenix_client.types.queries import RetrieveQuery as RetrieveQuery
    from phoenix_client.types.results import Candidate as Candidate
    from phoenix_client.types.results import Candidates as Candidates
    from phoenix_client.types.results import EncodedCandidates as EncodedCandidates
    from phoenix_client.types.results import EncodedUser as EncodedUser
    from phoenix_client.types.results import RetrieveResult as RetrieveResult
    from phoenix_client.types.results import ScoredPost as ScoredPost
    from phoenix_client.types.results import ScoredPosts as ScoredPosts
    from phoenix_client.types.results import ScoreResult as ScoreResult
    from phoenix_client.types.stats import ServingStats as ServingStats
    from phoenix_client.types.users import Action as Action
    from phoenix_client.types.users import Engagement as Engagement
    from phoenix_client.types.users import History as History
    from phoenix_client.types.users import User as User

# The public names of each module, separated by spaces. A module is imported when one of its names
# is first used, so that a program pays only for what it uses: not for the async client, say.
_EXPORTS = {
    "aio": "AsyncPhoenixClient",
    "client": "PhoenixClient",
    "errors": (
        "CallCancelledError DeadlineExceededError FailedPreconditionError FieldViolation "
        "FileError InternalError InvalidArgumentError MalformedReplyError NotFoundError "
        "PermissionDeniedError PhoenixClientError PostsFileError ResourceExhaustedError "
        "SequenceError UnauthenticatedError UnavailableError UnimplementedError "
        "UnknownStatusError"
    ),
    "files.posts_file": "load_posts parse_posts",
    "files.sequence": "load_sequence load_sequences parse_sequence",
    "types.corpus": "CorpusState Deleted FoundPosts Snapshot Upserted",
    "types.filters": "Filter",
    "types.generations": "Generation GenerationState",
    "types.model": "Model",
    "types.posts": "Post Posts",
    "types.queries": "RetrieveQuery",
    "types.results": (
        "Candidate Candidates EncodedCandidates EncodedUser RetrieveResult ScoredPost "
        "ScoredPosts ScoreResult"
    ),
    "types.stats": "ServingStats",
    "types.users": "Action Engagement History User",
}

_MODULES = {name: module for module, names in _EXPORTS.items() for name in names.split()}
__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
