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

Vectors and posts can be searched by, too; each query has a result of its own:

    (similar,) = client.search(post_ids=[7], top_k=10)

The client changes the corpus too:

    written = client.upsert_posts([Post(7, 8, datetime.now(UTC), labels=["news"])])
    result = client.retrieve(user, top_k=10, min_sequence=written.sequence)

It loads and activates generations, from directories of the server:

    client.load_generation("bundles/2", activate=True)
    client.roll_back_generation()

`AsyncPhoenixClient` has the same methods as coroutines. `phoenix_client.errors` shows the tree of
exceptions.
"""

import lazy_loader

# The public names are those of `__init__.pyi`. A module is imported when one of its names is first
# used, so that a program pays only for what it uses: not for the async client, say.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
