"""Kill a server at random instants while its corpus changes: `make crash TIMES=200 SEED=1`.

SIGKILL ends the process only: unlike a power failure, it loses nothing that the kernel buffers.
"""

import argparse
import itertools
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import grpc
import numpy as np

from commands import run_module
from crash_ledger import (
    Answer,
    Change,
    Delete,
    Floats,
    Ledger,
    LostError,
    Mark,
    Post,
    Upsert,
    check_answer,
)
from phoenix_retrieval.v1 import corpus_service_pb2 as pb
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from phoenix_retrieval.v1.corpus_service_pb2_grpc import CorpusServiceStub
from phoenix_retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from phoenix_retrieval.v1.user_pb2 import User
from phoenix_server.corpus.disk.snapshot import Snapshot, open_snapshot
from servers import ServerProcess, spawn_server

_CALLERS = 4
_LIVES_S = (0.02, 1.2)  # how long a server is changed before it is killed
_DOOMED = 0.15  # share of servers that are killed while they start
_SNAPSHOTS = (500, 5_000, 10**6)  # --snapshot-after
_PAGE = 2000  # posts of one call
_TOP_K = 100
_TOLERANCE = 2e-6  # of scores, which are sums in float32
_SIZES = ("--posts", "4000", "--vocab", "10000", "--layers", "2")


class Crash:
    """Servers of one corpus, one after the other, and what they should hold."""

    def __init__(self, bundle: Path, corpus: Path, seed: int) -> None:
        """Begin with a corpus that has no changes yet."""
        built = open_snapshot(corpus)
        vectors = np.concatenate(list(built.vectors()))
        ids = built.columns().post_ids.tolist()
        posts = {
            post_id: Post(mark, vector)
            for post_id, mark, vector in zip(ids, _built_marks(built), vectors, strict=True)
        }
        # Some posts of the corpus as it was built, and some that it may come to hold.
        self._pool = ids[: len(ids) // 10] + list(range(1, len(ids) // 8))
        self._width = vectors.shape[1]
        self._serve = partial(spawn_server, "--bundle", bundle, "--corpus", corpus)
        self._random = random.Random(seed)
        self.ledger = Ledger(posts, built.manifest.sequence)
        self.start_s = 3.0
        self.killed_starting = 0

    def live(self) -> None:
        """Start a server, check what it holds, change it, and kill it at a random instant.

        Raises:
            LostError: It does not hold what it should.
            ServerEndedError: It does not start.
        """
        with self._spawn() as server:
            began = time.monotonic()
            if self._random.random() < _DOOMED:
                time.sleep(self._random.uniform(0, self.start_s))
                self.killed_starting += 1
                return
            address = server.await_ready()
            self.start_s = time.monotonic() - began
            with grpc.insecure_channel(address) as channel:
                self._check(channel)
                self._change(channel, kill=lambda: server.end(signal.SIGKILL))

    def check(self) -> None:
        """Start a server, check what it holds, and shut it down.

        Raises:
            LostError: It does not hold what it should, or its exit status is not 0.
            ServerEndedError: It does not start.
        """
        with self._spawn() as server:
            with grpc.insecure_channel(server.await_ready()) as channel:
                self._check(channel)
            if status := server.end():
                raise LostError(f"the server ended with status {status}:\n{server.log()}")

    def _spawn(self) -> AbstractContextManager[ServerProcess]:
        return self._serve("--snapshot-after", str(self._random.choice(_SNAPSHOTS)))

    def _check(self, channel: grpc.Channel) -> None:
        """Compare all posts that may have changed, and some answers, with the ledger."""
        corpus, retrieval = CorpusServiceStub(channel), RetrievalServiceStub(channel)
        sequence = corpus.GetCorpus(pb.GetCorpusRequest()).sequence
        held: dict[int, Mark] = {}
        everything = sorted({*self._pool, *self.ledger.posts})
        for start in range(0, len(everything), _PAGE):
            request = pb.GetPostsRequest(post_ids=everything[start : start + _PAGE])
            held |= _marks(corpus.GetPosts(request))
        self.ledger.settle(sequence, held)
        vectors = self._vectors(retrieval)
        for _ in range(3):
            user = User(
                user_id=self._random.randint(1, 1 << 60),
                post_ids=(some := self._random.sample(everything, 20)),
                author_ids=[self._random.randint(1, 1 << 60) for _ in some],
                action_masks=[1] * len(some),
            )
            found = retrieval.Retrieve(
                retrieval_pb.RetrieveRequest(
                    user=user, top_k=_TOP_K, return_user_representation=True
                )
            )
            representation = np.array(found.user_representation, np.float32)
            answer = Answer(representation, found.post_ids, found.scores, found.rows_scanned)
            check_answer(answer, _TOP_K, vectors, _TOLERANCE)

    def _vectors(self, retrieval: RetrievalServiceStub) -> dict[int, Floats]:
        """Return the vectors of all posts; posts without one are encoded by the server."""
        posts = self.ledger.posts
        vectors = {i: post.vector for i, post in posts.items() if post.vector is not None}
        encoded = [i for i, post in posts.items() if post.vector is None]
        for start in range(0, len(encoded), _PAGE):
            part = encoded[start : start + _PAGE]
            request = retrieval_pb.EncodeCandidatesRequest(
                post_ids=part, author_ids=[posts[i].mark.author for i in part]
            )
            made = retrieval.EncodeCandidates(request).candidate_representations
            vectors |= zip(part, np.array(made, np.float32).reshape(-1, self._width), strict=True)
        return vectors

    def _change(self, channel: grpc.Channel, kill: Callable[[], object]) -> None:
        """Change the corpus from several threads until the server is killed."""
        corpus, faults = CorpusServiceStub(channel), list[BaseException]()

        def call(seed: int) -> None:
            drawn = random.Random(seed)
            try:
                while True:
                    change = self._draw(drawn)
                    self.ledger.sent(change)
                    self.ledger.acknowledged(change, _send(corpus, change))
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    faults.append(error)
            except LostError as error:
                faults.append(error)

        callers = [
            threading.Thread(target=call, args=(self._random.getrandbits(64),))
            for _ in range(_CALLERS)
        ]
        for caller in callers:
            caller.start()
        time.sleep(self._random.uniform(*_LIVES_S))
        kill()
        for caller in callers:
            caller.join()
        if faults:
            raise faults[0]

    def _draw(self, drawn: random.Random) -> Change:
        ids = drawn.sample(self._pool, drawn.randint(1, 60))
        if drawn.random() < 0.3:
            return Delete(ids)
        mark = Mark(
            drawn.randint(1, 1 << 60),
            drawn.randint(1, 1_700_000_000_000),
            (f"label {drawn.randint(0, 30)}",),
        )
        if drawn.random() < 0.3:
            return Upsert(ids, mark, None)
        rng = np.random.default_rng(drawn.getrandbits(64))
        vectors = rng.standard_normal((len(ids), self._width), np.float32)
        return Upsert(ids, mark, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _send(corpus: CorpusServiceStub, change: Change) -> int:
    """Send a change, and return the number with which it was answered."""
    if isinstance(change, Delete):
        return corpus.DeletePosts(pb.DeletePostsRequest(post_ids=change.post_ids)).sequence
    count = len(change.post_ids)
    request = pb.UpsertPostsRequest(
        post_ids=change.post_ids,
        author_ids=[change.mark.author] * count,
        created_at_unix_ms=[change.mark.created_at_unix_ms] * count,
        label_names=change.mark.labels,
        label_counts=[1] * count,
        label_indices=[0] * count,
        vectors=() if change.vectors is None else change.vectors.ravel().tolist(),
    )
    return corpus.UpsertPosts(request).sequence


def _marks(found: pb.GetPostsResponse) -> dict[int, Mark]:
    """Return the marks of posts in a response."""
    names, indices = found.label_names, iter(found.label_indices)
    return {
        post_id: Mark(
            author, created, tuple(sorted(names[i] for i in itertools.islice(indices, count)))
        )
        for post_id, author, created, count in zip(
            found.post_ids,
            found.author_ids,
            found.created_at_unix_ms,
            found.label_counts,
            strict=True,
        )
    }


def _built_marks(built: Snapshot) -> Iterator[Mark]:
    """Yield the marks of the posts of a snapshot."""
    columns, names = built.columns(), built.manifest.label_names
    codes, ends = columns.labels.indices.tolist(), np.cumsum(columns.labels.counts).tolist()
    begin = 0
    for author, created, end in zip(
        columns.author_ids.tolist(), columns.created_at_unix_ms.tolist(), ends, strict=True
    ):
        yield Mark(author, created, tuple(sorted(names[code] for code in codes[begin:end])))
        begin = end


def _make(folder: Path) -> tuple[Path, Path]:
    """Write a small bundle, compiled ahead, and a corpus."""
    checkpoint, bundle, corpus = folder / "checkpoint", folder / "bundle" / "1", folder / "corpus"
    paths = ("--bundle", bundle, "--corpus", corpus)
    for module, *arguments in (
        ("phoenix_export", "demo", checkpoint, *_SIZES),
        ("phoenix_export", "bundle", checkpoint, "--out", bundle, "--no-saved-model"),
        (
            *("phoenix_server", "import-corpus", checkpoint / "sports_corpus.npz"),
            *("--bundle", bundle, "--out", corpus),
        ),
        ("phoenix_server", "compile", *paths),
    ):
        run_module(module, *arguments).checked()
    return bundle, corpus


def main() -> None:
    """Run, and print the progress."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="How often to kill.")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        crash = Crash(*_make(Path(folder)), arguments.seed)
        began, ledger = time.monotonic(), crash.ledger
        for done in range(1, arguments.times + 1):
            crash.live()
            if done % 10 == 0 or done == arguments.times:
                print(  # noqa: T201
                    f"{done} kills, {crash.killed_starting} of them while it started; changes "
                    f"answered: {ledger.answered}, unanswered but found: {ledger.found}; "
                    f"{time.monotonic() - began:.0f} s",
                    flush=True,
                )
        crash.check()
    print(f"{arguments.times} kills of seed {arguments.seed}: no difference")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
