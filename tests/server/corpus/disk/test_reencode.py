from dataclasses import replace

import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.changes import History, Ids, Posts
from phoenix_server.corpus.disk.reencode import reencode, reencode_history
from server.corpus.change_cases import TOWER, WIDTH, OwnTowers, id_array, posts_of
from server.corpus.reference import Model


class _OtherTowers:
    tower = "other"

    def encode_posts(self, post_ids: Ids, author_ids: Ids) -> npt.NDArray[np.float32]:
        return np.tile((post_ids + author_ids).astype(np.float32)[:, None], WIDTH)


def test_vectors_of_other_towers_are_encoded_and_all_else_stays() -> None:
    posts = posts_of([5, 3])
    changed = reencode(posts, _OtherTowers())
    assert isinstance(changed, Posts)
    assert changed.tower == "other"
    expected = _OtherTowers().encode_posts(posts.post_ids, posts.author_ids)
    np.testing.assert_array_equal(changed.vectors, expected)
    assert Model.of(replace(changed, vectors=posts.vectors)) == Model.of(posts)


def test_deletions_and_vectors_of_the_same_towers_stay() -> None:
    posts, deletion = posts_of([5, 3]), id_array(5)
    assert posts.tower == TOWER
    assert reencode(posts, OwnTowers()) is posts
    assert reencode(deletion, OwnTowers()) is deletion


def test_vectors_of_unknown_towers_count_as_those_of_the_encoder() -> None:
    posts = replace(posts_of([5, 3]), tower="")
    changed = reencode(posts, _OtherTowers())
    assert isinstance(changed, Posts)
    assert changed.tower == "other"
    assert changed.vectors is posts.vectors


def test_all_writes_of_a_history_are_encoded() -> None:
    history = History.of([posts_of([1]), id_array(1), replace(posts_of([2]), tower="other")])
    changed = reencode_history(history, _OtherTowers())
    assert [posts.tower for posts in changed.writes] == ["other", "other"]
    assert (changed.changes, changed.post_ids.tolist()) == (3, [1, 1, 2])
