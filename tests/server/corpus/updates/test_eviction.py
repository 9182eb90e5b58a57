from phoenix_server.corpus.changes import Posts
from phoenix_server.corpus.updates.admission import Admission
from server.corpus.updates.cases import TimesOnly, eviction_queue, posts_at


def test_all_posts_are_scanned_once_per_sorted_part() -> None:
    rows, batch, most = 2000, 10, 200
    corpus = TimesOnly({n: n // 3 for n in range(1, rows + 1)}, capacity=rows)
    oldest, last = eviction_queue(corpus, sorted_posts=most, heap_chunk=16), 0
    for n in range(rows, 3 * rows, batch):
        admission = Admission(corpus, last + 1, oldest)  # pyright: ignore[reportArgumentType]
        posts = {n + i + 1: (n + i + 1) // 3 for i in range(batch)}
        last = admission.take(posts_at(posts)).sequence
        corpus.apply(admission.changes)
    assert sorted(corpus.held) == list(range(2 * rows + 1, 3 * rows + 1))
    assert corpus.scans == 2 * rows // most


def test_older_posts_written_later_are_the_next_to_be_evicted() -> None:
    corpus = TimesOnly({n: 5 for n in range(100, 120)}, capacity=20)
    oldest, last = eviction_queue(corpus, sorted_posts=4, heap_chunk=2), 0
    for n in range(99, 9, -1):  # each is the next to be evicted
        admission = Admission(corpus, last + 1, oldest)  # pyright: ignore[reportArgumentType]
        last = admission.take(posts_at({n: 5})).sequence
        assert not isinstance(admission.changes[0], Posts)
        assert admission.changes[0].tolist() == [100 if n == 99 else n + 1]
        corpus.apply(admission.changes)
    for _ in range(50):  # outdated entries of the same post do not accumulate
        admission = Admission(corpus, last + 1, oldest)  # pyright: ignore[reportArgumentType]
        last = admission.take(posts_at({10: 5})).sequence
        corpus.apply(admission.changes)
    assert corpus.scans < 50
    admission = Admission(corpus, last + 1, oldest)  # pyright: ignore[reportArgumentType]
    admission.take(posts_at({200: 9}))
    assert [change.tolist() for change in admission.changes if not isinstance(change, Posts)] == [
        [10]
    ]
