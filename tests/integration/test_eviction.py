"""A full corpus that deletes its oldest posts to make room."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from integration.wire import Stubs, open_stubs
from phoenix_retrieval.v1 import corpus_service_pb2 as pb
from phoenix_server.config import ServeConfig
from phoenix_server.corpus.disk.snapshot import open_snapshot
from servers import run_server


def _columns(vector: list[float], count: int, time_ms: int) -> dict[str, Any]:
    return {"created_at_unix_ms": [time_ms] * count, "vectors": vector * count}


def test_the_oldest_posts_make_room_for_others(config: ServeConfig, corpus: Path) -> None:
    columns = open_snapshot(corpus).columns()
    order = np.lexsort((columns.post_ids, columns.created_at_unix_ms))
    oldest = columns.post_ids[order].tolist()
    config = replace(config, engine=replace(config.engine, capacity=3010), evict_oldest=True)
    now_ms = int(columns.created_at_unix_ms.max())

    def upsert(stubs: Stubs, *ids: int, time_ms: int = now_ms) -> pb.UpsertPostsResponse:
        return stubs.upsert(*ids, **_columns(mine, len(ids), time_ms))

    with run_server(config) as server, open_stubs(server.address) as stubs:
        assert stubs.state().evict_oldest
        mine = stubs.user_vector()
        written = upsert(stubs, *range(1, 8))
        assert (written.sequence, written.inserted, written.evicted) == (1, 7, 0)
        written = upsert(stubs, *range(6, 16))
        assert (written.sequence, written.inserted, written.replaced) == (3, 8, 2)
        assert written.evicted == 5
        streamed = stubs.corpus.StreamUpsertPosts(
            pb.StreamUpsertPostsRequest(
                change=pb.UpsertPostsRequest(
                    post_ids=[n, n + 1], author_ids=[n, n + 1], **_columns(mine, 2, now_ms)
                )
            )
            for n in range(20, 60, 2)
        )
        assert (streamed.inserted, streamed.evicted, streamed.sequence) == (40, 40, 43)
        older = upsert(stubs, 99, time_ms=0)  # it does not evict itself
        assert (older.inserted, older.evicted) == (1, 1)
        newer = upsert(stubs, 100)
        assert (newer.sequence, newer.inserted, newer.evicted) == (47, 1, 1)
        gone = [*oldest[:46], 99]
        assert stubs.missing(*gone, *oldest[46:60], 100) == gone
        before, state = stubs.retrieve(top_k=100), stubs.state()
        assert (state.rows, state.capacity) == (3010, 3010)
    with run_server(config) as server, open_stubs(server.address) as stubs:
        assert stubs.retrieve(top_k=100) == before
        assert stubs.state() == state
        again = upsert(stubs, 101)
        assert (again.sequence, again.evicted) == (49, 1)
        assert stubs.missing(*oldest[46:48]) == oldest[46:47]
