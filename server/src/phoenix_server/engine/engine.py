"""The engine: a bundle's towers and a corpus, compiled and searched. Numpy in, numpy out.

Shapes:
    B  users of a batch        n  posts of a call        D  width of a representation

Programs are compiled ahead, for a few sizes. A user's history is padded to the next compiled
length; users of one length run together, in batches of compiled sizes; one search serves all users
of a batch. So the padding of a history does not depend on the other users of the batch.

A user alone and the same user in a batch may run through tower programs of different batch sizes,
which order float operations differently: the representations differ by up to 1e-6 in float32 and
5e-3 in bfloat16. For one representation the search returns the same answer bit for bit, whatever
else is in the batch. A user who comes encoded keeps their representation.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import numpy as np

from phoenix_server.bundle.bundle import Bundle
from phoenix_server.bundle.features import UserColumns
from phoenix_server.bundle.towers import EncodedUsers, Towers
from phoenix_server.config import EngineConfig
from phoenix_server.corpus.changes import NetChange
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.corpus.memory.index import CorpusIndex, default_capacity
from phoenix_server.engine.batch import (
    LaunchedBatch,
    PreparedBatch,
    collect_answers,
    place_encoded,
    plan_chunks,
)
from phoenix_server.engine.compiled_search import CompiledSearch
from phoenix_server.engine.filters import FilterMasks
from phoenix_server.engine.pairing import check_pair, generation_name
from phoenix_server.engine.post_vectors import PostVectors
from phoenix_server.engine.query import Answer, EncodedUser, Query, Ranking
from phoenix_server.runtime.arrays import F32, U64
from phoenix_server.runtime.compile_counter import CompileCounter
from phoenix_server.runtime.devices import Device
from phoenix_server.runtime.program_cache import ProgramCache
from phoenix_server.search.choice import describe_lack, describe_search
from phoenix_server.search.ranking import exact_ranks

_log = logging.getLogger(__name__)


class Engine:
    """Answers queries over one bundle and one corpus.

    One thread prepares and one thread launches; any thread may collect. Changes of the corpus are
    applied on the thread that launches, between two batches.

    Attributes:
        bundle: The towers.
        snapshot: The corpus as it was loaded.
        corpus: The corpus as it is now.
        config: The sizes that it compiles for.
        generation: The name of the pair of bundle and corpus.
    """

    def __init__(
        self,
        bundle: Bundle,
        snapshot: Snapshot,
        devices: tuple[Device, ...],
        config: EngineConfig,
        programs: ProgramCache | None = None,
        towers: Towers | None = None,
    ) -> None:
        """Load bundle and corpus, compile the necessary programs, and run the self-test.

        The necessary programs can serve any batch; `compile_rest` adds the faster ones.

        Args:
            bundle: The towers; its files have been verified.
            snapshot: The corpus; its files have been verified.
            devices: One a shard. The towers run on the first.
            config: The sizes to compile for.
            programs: A cache to share programs with. Default: none.
            towers: The bundle's towers, if they are loaded and can encode posts.

        Raises:
            CorpusError: The corpus was built with other towers, or a vector is not finite or not of
                unit length.
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
            loading = pool.submit(self._load_towers, devices[0], towers)
            with self._compilations.expected():
                self.corpus = CorpusIndex(
                    snapshot,
                    devices,
                    capacity=config.capacity or default_capacity(snapshot.manifest.rows),
                    max_labels=config.max_labels,
                    scan=config.scan,
                )
                _log.info("searching with %s", describe_search(self.corpus.layout))
                if lack := describe_lack(self.corpus.layout, config.scan):
                    _log.warning("%s", lack)
                self.corpus.arrays.compile_updates(self._programs)
                self._filters = FilterMasks(self.corpus, self._programs)
                self._posts = PostVectors(self.corpus, self._programs)
                self._searches = CompiledSearch(self.corpus, self._programs)
                self._compile_necessary_searches()
            self._towers = loading.result()

    def compile_rest(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Compile the remaining sizes, on any thread. Each is used as soon as it is compiled.

        Args:
            stopped: Asked before each program; True ends the compiling.
        """
        with self._compilations.expected():
            for compile_one in self._rest():
                if stopped():
                    return
                compile_one()

    @property
    def unforeseen_compilations(self) -> int:
        """Programs compiled by any thread of the process that did not expect to compile.

        Counted since the engine was created.
        """
        return self._compilations.unforeseen

    @property
    def loaded_programs(self) -> tuple[int, int]:
        """The number of programs loaded from the persistent cache, and of all programs."""
        return self._compilations.loaded, self._compilations.total

    @property
    def tower(self) -> str:
        """The fingerprint of the towers."""
        return self._towers.tower

    @property
    def max_batch(self) -> int:
        """The largest number of users in one batch."""
        return self.config.batch_sizes[-1]

    def user_key(self, user: UserColumns) -> bytes:
        """Return a key of what these towers see of a user; see `FeatureBuilder.user_key`."""
        return self.bundle.features.user_key(user, self.tower)

    def user_seconds(self, query: Query) -> float:
        """Return the device time of one user's encoding in a full batch, in seconds.

        It is 0 for a user who is encoded already, and for a post in place of a user.
        """
        if not isinstance(query.user, UserColumns):
            return 0.0
        return self._towers.user_seconds(min(len(query.user.post_ids), self._longest))

    def batch_seconds(self, users: int) -> float:
        """Return the device time of the search of a batch, in seconds."""
        return self._searches.seconds(users)

    def retrieve(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer at most `max_batch` queries together, in order."""
        return self.collect(self.launch(self.prepare(queries)))

    def prepare(self, queries: Sequence[Query]) -> PreparedBatch:
        """Turn queries into inputs of the towers; uses the host only."""
        size = self._searches.batch_size(len(queries))
        encoded = place_encoded(queries, size, self.corpus.layout.width)
        towers, features = self._towers, self.bundle.features
        chunks = plan_chunks(queries, size, features, towers.user_sizes, towers.lanes)
        filters = [query.conditions for query in queries]
        excluded = self._filters.look_up(filters)
        return PreparedBatch(tuple(queries), encoded, chunks, filters, excluded)

    def launch(self, prepared: PreparedBatch) -> LaunchedBatch:
        """Start a batch on the device; returns while it runs, as far as the device allows."""
        queries, filters = prepared.queries, prepared.filters
        users, missing = self._posts.read(queries, self._encode(prepared))
        wanted = [query.top_k for query in queries]
        if not any(wanted):
            return LaunchedBatch(queries, users, None, missing)
        masks = None
        if any(each is not None and each.needs_mask for each in filters):
            masks = self._filters.masks(filters, prepared.excluded, prepared.batch_size)
        found = self._searches.top_k(users.representations, wanted, masks)
        return LaunchedBatch(queries, users, found, missing)

    def collect(self, launched: LaunchedBatch) -> list[Answer]:
        """Wait for a batch, and return its answers in order; before the corpus changes."""
        return collect_answers(launched, self.corpus)

    def encode_posts(self, post_ids: U64, author_ids: U64) -> F32:
        """Return the unit vectors of posts, [n, D]."""
        return self._towers.encode_posts(post_ids, author_ids)

    def post_batches(self, count: int) -> Iterator[slice]:
        """Cut `count` posts into the batches that the candidate tower encodes at once."""
        return self._towers.post_batches(count)

    def score_posts(self, user: UserColumns | EncodedUser, post_ids: U64) -> Callable[[], Ranking]:
        """Score the whole corpus for a user; on the thread that changes the corpus.

        Returns:
            A function that ranks the posts, [n], by these scores. It takes a while, and may run in
            any thread.

        Raises:
            PostNotFoundError: Some posts are not in the corpus; lists them.
        """
        rows = self.corpus.rows_of(post_ids)
        users = self._encode(self.prepare([Query(user, 0)]))
        scores = self._searches.scores(np.asarray(users.representations)[0])
        if np.isnan(scores).any():
            raise ArithmeticError("the user tower returned a vector that is not finite")
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
        """Stop counting compilations: JAX's listeners are all that keeps the engine alive."""
        self._compilations.close()

    def _load_towers(self, device: Device, towers: Towers | None) -> Towers:
        """Load the towers, compile the necessary programs, and run the self-test."""
        with self._compilations.expected():
            if towers is None:
                towers = Towers(self.bundle, device, self._programs)
                towers.compile_candidates(self.config.candidate_batch)
            for size in self.config.necessary_users(self._longest):
                towers.compile_users(*size)
            towers.self_test()
        return towers

    def _compile_necessary_searches(self) -> None:
        """Compile the programs that can search for any batch, and test one."""
        for size in self.config.necessary_searches():
            self._compile_search(*size)
        for batch in self.config.batch_sizes:
            for chunk in self.config.user_batches:
                if chunk < 2 * batch or chunk == self.config.user_batches[0]:  # see plan_users
                    self._searches.compile_assembly(chunk, batch)
        self._searches.check()

    def _compile_search(self, batch_size: int, top_k: int) -> None:
        """Compile a search, and before it the programs for its masks and posts."""
        self._filters.compile(batch_size)
        self._posts.compile(batch_size)
        self._searches.compile(batch_size, top_k)

    def _encode(self, prepared: PreparedBatch) -> EncodedUsers:
        """Run the user tower for each chunk, and write the results to their places."""
        chunks = self._towers.encode_batches([inputs for inputs, _ in prepared.chunks])
        if prepared.is_in_place:
            return chunks[0]
        users = EncodedUsers(*jax.device_put(prepared.encoded, self.corpus.layout.devices[0]))
        for chunk, (_, places) in zip(chunks, prepared.chunks, strict=True):
            users = self._searches.assemble(users, chunk, places)
        return users

    def _rest(self) -> Iterator[Callable[[], None]]:
        """Yield a function for each size that is not compiled, the most useful first."""
        began = time.monotonic()
        any_count = self.corpus.layout.serves_any_count
        for batch, top_k in self.config.searches():
            is_useful = top_k == self.config.max_top_k or not any_count
            if is_useful and (batch, top_k) not in self.config.necessary_searches():
                yield partial(self._compile_search, batch, top_k)
        for size in self.config.user_programs(self._longest):
            if size not in self.config.necessary_users(self._longest):
                yield partial(self._towers.compile_users, *size)
        _log.info("compiled the other sizes in %.1f s", time.monotonic() - began)
