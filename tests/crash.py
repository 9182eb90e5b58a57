"""Kill a server at random instants while its corpus changes: `make crash TIMES=200 SEED=1`.

SIGKILL ends the process only: unlike a power failure, it loses nothing that the kernel buffers.
"""

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import grpc
import numpy as np

from commands import run_module
from crash_ledger import Answer, Ledger, LostError, check_answer
from phoenix_retrieval.v1 import corpus_service_pb2 as pb
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from phoenix_retrieval.v1.corpus_service_pb2_grpc import CorpusServiceStub
from phoenix_retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from phoenix_retrieval.v1.user_pb2 import User
from phoenix_server.corpus.changes import Change, Labels, PostColumns, Posts
from phoenix_server.corpus.disk.snapshot import open_snapshot
from server.corpus.reference import Model
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
        model = Model.of(built.columns())
        for post_id, vector in zip(list(model), vectors, strict=True):
            model[post_id] = model[post_id]._replace(vector=vector.tobytes())
        model.sequence = built.manifest.sequence
        ids = list(model)
        # Some posts of the corpus as it was built, and some that it may come to hold.
        self._pool = ids[: len(ids) // 10] + list(range(1, len(ids) // 8))
        self._width = vectors.shape[1]
        self._serve = partial(spawn_server, "--bundle", bundle, "--corpus", corpus)
        self._random = random.Random(seed)
        self.ledger = Ledger(model)
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
        held = Model()
        everything = sorted({*self._pool, *self.ledger.model})
        for start in range(0, len(everything), _PAGE):
            request = pb.GetPostsRequest(post_ids=everything[start : start + _PAGE])
            held.update(_received(corpus.GetPosts(request)))
        self.ledger.settle(sequence, held)
        model = self._encoded(retrieval)
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
            check_answer(answer, _TOP_K, model, _TOLERANCE)

    def _encoded(self, retrieval: RetrievalServiceStub) -> Model:
        """Return the posts of the ledger, those without a vector with one from the server."""
        model = self.ledger.model.copy()
        without = [post_id for post_id, post in model.items() if not post.vector]
        for start in range(0, len(without), _PAGE):
            part = without[start : start + _PAGE]
            request = retrieval_pb.EncodeCandidatesRequest(
                post_ids=part, author_ids=[model[post_id].author_id for post_id in part]
            )
            encoded = retrieval.EncodeCandidates(request).candidate_representations
            vectors = np.array(encoded, np.float32).reshape(-1, self._width)
            for post_id, vector in zip(part, vectors, strict=True):
                model[post_id] = model[post_id]._replace(vector=vector.tobytes())
        return model

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
        ids = np.array(drawn.sample(self._pool, drawn.randint(1, 60)), np.uint64)
        if drawn.random() < 0.3:
            return ids
        count = len(ids)
        authors = np.full(count, drawn.randint(1, 1 << 60), np.uint64)  # tell the change apart
        created_at = np.full(count, drawn.randint(10**11, 1_700_000_000_000), np.int64)
        name = f"label {drawn.randint(0, 30)}"
        vectors = np.zeros((count, 0), np.float32)  # the server encodes them
        if drawn.random() >= 0.3:
            rng = np.random.default_rng(drawn.getrandbits(64))
            vectors = rng.standard_normal((count, self._width), np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Posts(
            post_ids=ids,
            author_ids=authors,
            created_at_unix_ms=created_at,
            labels=Labels((name,), np.ones(count, np.int32), np.zeros(count, np.int32)),
            vectors=vectors,
        )


def _send(corpus: CorpusServiceStub, change: Change) -> int:
    """Send a change, and return the number with which it was answered."""
    if not isinstance(change, Posts):
        return corpus.DeletePosts(pb.DeletePostsRequest(post_ids=change.tolist())).sequence
    request = pb.UpsertPostsRequest(
        post_ids=change.post_ids.tolist(),
        author_ids=change.author_ids.tolist(),
        created_at_unix_ms=change.created_at_unix_ms.tolist(),
        label_names=change.labels.names,
        label_counts=change.labels.counts.tolist(),
        label_indices=change.labels.indices.tolist(),
        vectors=change.vectors.ravel().tolist(),
    )
    return corpus.UpsertPosts(request).sequence


def _received(found: pb.GetPostsResponse) -> Model:
    """Return the posts of a response."""
    return Model.of(
        PostColumns(
            post_ids=np.array(found.post_ids, np.uint64),
            author_ids=np.array(found.author_ids, np.uint64),
            created_at_unix_ms=np.array(found.created_at_unix_ms, np.int64),
            labels=Labels(
                tuple(found.label_names),
                np.array(found.label_counts, np.int32),
                np.array(found.label_indices, np.int32),
            ),
        )
    )


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
