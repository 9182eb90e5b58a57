"""One generation: a bundle's towers and a corpus. Numpy in, numpy out.

Shapes:
    B  users of a batch        n  posts asked for        R  rows of the corpus
    D  width of a representation

Programs are compiled ahead, for a few sizes: a user's history is padded to the next length, users
of one length run together in a batch of the next size, and all are searched for at once. So a
history's neighbours never make it longer. A user alone and one among others may run through towers
of different batch sizes, whose float operations differ in order: by up to 1e-6 in float32 and 5e-3
in bfloat16. The search gives a representation the same answer bit for bit in any company.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from phoenix_server.bundle.buckets import plan_users
from phoenix_server.bundle.bundle import Bundle
from phoenix_server.bundle.features import HostArrays, UserColumns
from phoenix_server.bundle.towers import Towers
from phoenix_server.config import EngineConfig
from phoenix_server.corpus.changes import Labels, NetChange
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.corpus.memory.index import CorpusIndex, Exclusions, default_capacity
from phoenix_server.engine.compiled_search import Assembled, CompiledSearch
from phoenix_server.engine.filters import Filter, Filters
from phoenix_server.engine.pairing import check_pair, generation_name
from phoenix_server.runtime.compile_counter import CompileCounter
from phoenix_server.runtime.devices import Device
from phoenix_server.runtime.program_cache import ProgramCache
from phoenix_server.search.ranking import exact_ranks
from phoenix_server.search.sharded import TopK

_log = logging.getLogger(__name__)


class Query(NamedTuple):
    """A user, and how many posts they want; with `top_k` 0 they only want to be encoded.

    Attributes:
        user: The user.
        top_k: How many posts.
        labels: Whether to say which labels they have.
        filter: What they must be. None: any.
    """

    user: UserColumns
    top_k: int
    labels: bool = False
    filter: Filter | None = None


class Answer(NamedTuple):
    """The exact top k of one user.

    Attributes:
        post_ids: [k] u64, best first; k is the smaller of top_k and `eligible`, or less if there is
            a least score.
        scores: [k] f32.
        author_ids: [k] u64.
        created_at_unix_ms: [k] i64.
        labels: Of the posts, if they were asked for.
        eligible: How many posts could have been returned.
        scanned: How many posts there are.
        sequence: The last change of the corpus that was seen.
        representation: [D] f32, the user's unit vector.
        norm: Its length before it became a unit vector.
    """

    post_ids: npt.NDArray[np.uint64]
    scores: npt.NDArray[np.float32]
    author_ids: npt.NDArray[np.uint64]
    created_at_unix_ms: npt.NDArray[np.int64]
    labels: Labels | None
    eligible: int
    scanned: int
    sequence: int
    representation: npt.NDArray[np.float32]
    norm: float


class Ranking(NamedTuple):
    """Scores and ranks of posts among all others.

    Attributes:
        scores: [n] f32.
        ranks: [n] i64, from 1.
        scanned: How many posts there are.
        sequence: The last change of the corpus that was seen.
    """

    scores: npt.NDArray[np.float32]
    ranks: npt.NDArray[np.int64]
    scanned: int
    sequence: int


class PreparedBatch(NamedTuple):
    """A batch on the host, ready for the device.

    Attributes:
        queries: The queries.
        batch_size: B of the search.
        chunks: For each run of the user tower its inputs, and the places of its users in the
            batch; those beyond the batch are padding.
        excluded: What each query may not find, as it was when it was looked up.
    """

    queries: tuple[Query, ...]
    batch_size: int
    chunks: tuple[tuple[HostArrays, npt.NDArray[np.int32]], ...]
    excluded: Sequence[Exclusions | None]


class LaunchedBatch(NamedTuple):
    """A batch on the device, perhaps not yet done.

    Attributes:
        queries: The queries.
        users: What the user tower gives.
        found: What the search gives; None where nobody wants posts.
    """

    queries: tuple[Query, ...]
    users: Assembled
    found: TopK | None


class Engine:
    """Answers queries over one generation. One thread prepares and launches; any may collect."""

    def __init__(
        self,
        bundle: Bundle,
        snapshot: Snapshot,
        devices: tuple[Device, ...],
        config: EngineConfig,
        programs: ProgramCache | None = None,
        towers: Towers | None = None,
    ) -> None:
        """Load everything, compile what can serve everything, and run the bundle's self-test.

        Args:
            bundle: The towers; its files have been verified.
            snapshot: The corpus, likewise.
            devices: One a shard. The towers run on the first.
            config: The sizes to compile for.
            programs: Share programs with these. Default: with none.
            towers: The bundle's, if they have been loaded. They encode posts.

        Raises:
            CorpusError: The corpus was built with other towers, or holds odd vectors.
            BundleError: The bundle cannot be used, or fails its self-test.
            StartupError: The search does not work on these devices.
        """
        check_pair(bundle, snapshot)
        self.bundle = bundle
        self.snapshot = snapshot
        self.config = config
        self.generation = generation_name(bundle, snapshot)
        self._longest = bundle.manifest.model.history_length
        self._compilations = CompileCounter()
        self._programs = ProgramCache(beside=programs)
        with ThreadPoolExecutor(max_workers=1) as pool:
            made = pool.submit(self._make_towers, devices[0], towers)
            with self._compilations.expected():
                self.corpus = CorpusIndex(
                    snapshot,
                    devices,
                    capacity=config.capacity or default_capacity(snapshot.manifest.rows),
                    max_labels=config.max_labels,
                    scan=config.scan,
                )
                self.corpus.arrays.compile_updates(self._programs)
                self._filters = Filters(self.corpus, self._programs)
                self._searches = CompiledSearch(self.corpus, self._programs)
                self._compile_necessary_searches()
            self._towers = made.result()

    def compile_rest(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Compile all sizes; each is used as soon as it is there. Any thread may do so.

        Args:
            stopped: Asked between two programs whether to leave off.
        """
        with self._compilations.expected():
            for compile_one in self._rest():
                if stopped():
                    return
                compile_one()

    @property
    def unforeseen_compilations(self) -> int:
        """How many programs were compiled by anyone since the engine was made, unasked."""
        return self._compilations.unforeseen

    @property
    def loaded_programs(self) -> tuple[int, int]:
        """How many programs came from a cache of compiled ones, and how many there are."""
        return self._compilations.loaded, self._compilations.total

    @property
    def tower(self) -> str:
        """The fingerprint of the towers."""
        return self._towers.tower

    @property
    def max_batch(self) -> int:
        """Most users of one batch."""
        return self.config.batch_sizes[-1]

    def user_seconds(self, query: Query) -> float:
        """Return about how long the device works on a user in a full batch."""
        return self._towers.user_seconds(min(len(query.user.post_ids), self._longest))

    def batch_seconds(self, users: int) -> float:
        """Return about how long the device works on a batch besides."""
        return self._searches.seconds(users)

    def retrieve(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer at most `max_batch` queries together, in order."""
        return self.collect(self.launch(self.prepare(queries)))

    def prepare(self, queries: Sequence[Query]) -> PreparedBatch:
        """Turn queries into what the towers take; on the host alone."""
        lengths = [min(len(query.user.post_ids), self._longest) for query in queries]
        batch = self._searches.batch_size(len(queries))
        chunks: list[tuple[HostArrays, npt.NDArray[np.int32]]] = []
        for users, size, length in plan_users(lengths, self._towers.user_sizes):
            columns = [queries[place].user for place in users]
            places = np.full(size, batch, np.int32)
            places[: len(users)] = users
            chunks.append((self.bundle.features.users(columns, size, length), places))
        excluded = self._filters.look_up([query.filter for query in queries])
        return PreparedBatch(tuple(queries), batch, tuple(chunks), excluded)

    def launch(self, prepared: PreparedBatch) -> LaunchedBatch:
        """Hand a batch to the device; returns while it works, as far as the device allows."""
        users = self._encode(prepared)
        most = max(query.top_k for query in prepared.queries)
        if not most:
            return LaunchedBatch(prepared.queries, users, None)
        masks = None
        filters = [query.filter for query in prepared.queries]
        if any(each is not None and each.masks for each in filters):
            masks = self._filters.masks(filters, prepared.excluded, prepared.batch_size)
        found = self._searches.top_k(users.representations, most, masks)
        return LaunchedBatch(prepared.queries, users, found)

    def collect(self, launched: LaunchedBatch) -> list[Answer]:
        """Wait for a batch's answers, in the order of its queries; before the corpus changes."""
        representations, norms = map(np.asarray, launched.users)
        if launched.found is None:
            scores, rows = (
                np.empty((len(norms), 0), np.float32),
                np.empty((len(norms), 0), np.int32),
            )
            eligible = np.zeros(1, np.int32)
        else:
            scores, rows = np.asarray(launched.found.scores), np.asarray(launched.found.rows)
            eligible = np.asarray(launched.found.eligible)
        post_ids, author_ids = self.corpus.post_ids[rows], self.corpus.author_ids[rows]
        created_at = self.corpus.created_at_unix_ms[rows]
        answers: list[Answer] = []
        for i, query in enumerate(launched.queries):
            could = int(eligible[i % len(eligible)]) if query.top_k else 0
            count = min(query.top_k, could)
            if query.filter is not None and query.filter.min_score is not None:
                count = int(np.count_nonzero(scores[i, :count] >= query.filter.min_score))
            best = i, slice(count)
            # Copies: views would keep the whole batch alive as long as one answer.
            answers.append(
                Answer(
                    post_ids[best].copy(),
                    scores[best].copy(),
                    author_ids[best].copy(),
                    created_at[best].copy(),
                    self.corpus.labels.at(rows[best]) if query.labels else None,
                    could,
                    len(self.corpus),
                    self.corpus.sequence,
                    representations[i].copy(),
                    float(norms[i]),
                )
            )
        return answers

    def encode_posts(
        self, post_ids: npt.NDArray[np.uint64], author_ids: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.float32]:
        """Return the unit vectors of posts, [n, D]."""
        return self._towers.encode_posts(post_ids, author_ids)

    def post_batches(self, count: int) -> Iterator[slice]:
        """Cut `count` posts into the batches that the candidate tower encodes at once."""
        return self._towers.post_batches(count)

    def score_posts(
        self, user: UserColumns, post_ids: npt.NDArray[np.uint64]
    ) -> Callable[[], Ranking]:
        """Score the whole corpus for a user; on the thread that changes it.

        Returns:
            What ranks posts, [n], by these scores, in any thread: it takes a while.

        Raises:
            PostNotFoundError: Some are not in the corpus; lists them.
        """
        rows = self.corpus.rows_of(post_ids)
        users = self._encode(self.prepare([Query(user, 0)]))
        scores = self._searches.scores(np.asarray(users.representations)[0])
        if np.isnan(scores).any():
            raise ArithmeticError("the user tower gave a vector that is not finite")
        ids = self.corpus.post_ids.copy()
        scanned, sequence = len(self.corpus), self.corpus.sequence
        return lambda: Ranking(scores[rows], exact_ranks(scores, ids, rows), scanned, sequence)

    def apply(self, change: NetChange, sequence: int) -> None:
        """Change the corpus; between two batches, on the thread that launches them.

        Args:
            change: What to write and to delete.
            sequence: The number of the last change in it.
        """
        self.corpus.apply(change, sequence)

    def close(self) -> None:
        """Stop counting what is compiled; nothing else keeps it alive."""
        self._compilations.close()

    def _make_towers(self, device: Device, towers: Towers | None) -> Towers:
        """Load the towers, compile what can encode everybody, and test it."""
        with self._compilations.expected():
            if towers is None:
                towers = Towers(self.bundle, device, self._programs)
                towers.compile_candidates(self.config.candidate_batch)
            for size in self.config.necessary_users(self._longest):
                towers.compile_users(*size)
            towers.self_test()
        return towers

    def _compile_necessary_searches(self) -> None:
        """Compile what can search for any batch, and test it."""
        for size in self.config.necessary_searches():
            self._compile_search(*size)
        for batch in self.config.batch_sizes:
            for chunk in self.config.user_batches:
                if chunk < 2 * batch or chunk == self.config.user_batches[0]:  # see plan_users
                    self._searches.compile_assembly(chunk, batch)
        self._searches.check()

    def _compile_search(self, batch_size: int, top_k: int) -> None:
        """Compile a search, and before it what makes the masks that it takes."""
        self._filters.compile(batch_size)
        self._searches.compile(batch_size, top_k)

    def _encode(self, prepared: PreparedBatch) -> Assembled:
        chunks = [
            (Assembled(*self._towers.encode_users(inputs)), places)
            for inputs, places in prepared.chunks
        ]
        if len(chunks) == 1 and len(chunks[0][1]) == prepared.batch_size:
            return chunks[0][0]  # the users are in their places
        width = self.corpus.layout.width
        assembled = Assembled(
            *jax.device_put(
                (
                    np.zeros((prepared.batch_size, width), np.float32),
                    np.zeros(prepared.batch_size, np.float32),
                ),
                self.corpus.layout.devices[0],
            )
        )
        for chunk, places in chunks:
            assembled = self._searches.assemble(assembled, chunk, places)
        return assembled

    def _rest(self) -> Iterator[Callable[[], None]]:
        """Yield what compiles one program that is not there yet, the most useful first."""
        began = time.monotonic()
        for size in self.config.searches():
            if size not in self.config.necessary_searches():
                yield partial(self._compile_search, *size)
        for size in self.config.user_programs(self._longest):
            if size not in self.config.necessary_users(self._longest):
                yield partial(self._towers.compile_users, *size)
        _log.info("compiled the other sizes in %.1f s", time.monotonic() - began)


def compile_towers(bundle: Bundle, device: Device, config: EngineConfig) -> None:
    """Compile what an engine needs of a bundle, whatever the corpus.

    Raises:
        BundleError: The bundle cannot be used, or fails its self-test.
    """
    towers = Towers(bundle, device)
    towers.compile_candidates(config.candidate_batch)
    for size in config.user_programs(bundle.manifest.model.history_length):
        towers.compile_users(*size)
    towers.self_test()
