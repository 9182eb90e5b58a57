"""One generation: a bundle's towers and a corpus. Numpy in, numpy out.

Shapes:
    B  users of a batch        n  posts asked for        N  posts of the corpus
    D  width of a representation

All programs are compiled when the engine is made, for a few sizes: batches are padded to the next
batch size, histories to the next length, and `top_k` to the next number of results. Within one
size an answer is the same bit for bit whoever else is in the batch. Between sizes the order of
float operations differs: a representation moves by up to 1e-6 in float32 and 5e-3 in bfloat16.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from phoenix_server.artifacts import MANIFEST, sha256
from phoenix_server.bundle import Bundle
from phoenix_server.corpus.index import CorpusIndex
from phoenix_server.corpus.snapshot import Snapshot
from phoenix_server.devices import Device
from phoenix_server.errors import CorpusError, StartupError
from phoenix_server.features import UserColumns
from phoenix_server.towers import EncodedUsers, Towers

_log = logging.getLogger(__name__)

_ROUNDING = 1e-4  # of a float32 score of a vector some eleven long

_Array = jax.Array | npt.NDArray[np.float32]


class Query(NamedTuple):
    """A user, and how many posts they want; with `top_k` 0 they only want to be encoded."""

    user: UserColumns
    top_k: int


class Answer(NamedTuple):
    """The exact top k of one user.

    Attributes:
        rows: [k] i32, corpus rows, best first; k is the smaller of top_k and `eligible`.
        scores: [k] f32.
        eligible: How many rows could have been returned.
        representation: [D] f32, the user's unit vector.
        norm: Its length before it became a unit vector.
    """

    rows: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    eligible: int
    representation: npt.NDArray[np.float32]
    norm: float


class _Found(NamedTuple):
    """What a search found for a batch, on the host; see `TopK`."""

    scores: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int32]
    eligible: int


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The sizes that an engine compiles for.

    Attributes:
        batch_sizes: Users of a batch, ascending.
        history_lengths: Lengths shorter than the model's that are compiled too, ascending.
        result_sizes: Numbers of results below `max_top_k` that are compiled too, ascending.
        max_top_k: Most results of a query.
        candidate_batch: Posts that the candidate tower encodes at once.
    """

    batch_sizes: tuple[int, ...] = (1, 8, 32)
    history_lengths: tuple[int, ...] = (16, 64)
    result_sizes: tuple[int, ...] = (128,)
    max_top_k: int = 1000
    candidate_batch: int = 512

    def __post_init__(self) -> None:
        for name in ("batch_sizes", "history_lengths", "result_sizes"):
            sizes = getattr(self, name)
            if list(sizes) != sorted(set(sizes)) or min(sizes, default=1) < 1:
                raise ValueError(f"{name}: {sizes} is not ascending and positive")
        if not self.batch_sizes or self.max_top_k < 1 or self.candidate_batch < 1:
            raise ValueError("batch_sizes, max_top_k, candidate_batch: at least one of each")


class Engine:
    """Answers queries over one generation. Not for several threads at once."""

    def __init__(
        self,
        bundle: Bundle,
        snapshot: Snapshot,
        devices: tuple[Device, ...],
        config: EngineConfig,
    ) -> None:
        """Load everything, compile everything and run the bundle's self-test.

        Args:
            bundle: The towers; its files have been verified.
            snapshot: The corpus, likewise.
            devices: One a shard. The towers run on the first.
            config: The sizes to compile for.

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
        length = bundle.manifest.model.history_length
        self._lengths = _steps(config.history_lengths, length)
        self._result_sizes = _steps(config.result_sizes, config.max_top_k)
        self._towers = Towers(bundle, devices[0])
        _log.info("compiling the towers")
        self._towers.compile_users((b, s) for b in config.batch_sizes for s in self._lengths)
        self._towers.compile_candidates(config.candidate_batch)
        self._towers.self_test()
        _log.info("loading the corpus")
        self.corpus = CorpusIndex(snapshot, devices)
        _log.info("compiling the search")
        layout, width = self.corpus.layout, bundle.manifest.model.embedding_size
        queries = {
            b: jax.ShapeDtypeStruct((b, width), np.float32, sharding=layout.replicated)
            for b in config.batch_sizes
        }
        self._search = {
            (b, k): jax.jit(partial(layout.top_k, k=k)).lower(self.corpus.device, q).compile()
            for b, q in queries.items()
            for k in self._result_sizes
        }
        first = queries[config.batch_sizes[0]]
        self._score = jax.jit(layout.scores).lower(self.corpus.device, first).compile()
        self._warm_up()

    def _warm_up(self) -> None:
        """Run every search once, so that what does not work fails now; check one against numpy."""
        shape = (self.config.batch_sizes[-1], self.corpus.layout.width)
        users = np.random.default_rng(0).standard_normal(shape, np.float32)
        for b, k in self._search:
            self._top_k(users[:b], k)
        first, k = users[: self.config.batch_sizes[0]], self._result_sizes[0]
        scores = self._all_scores(first)
        best = np.sort(scores)[::-1][:k]
        found = self._top_k(first, k)
        rows, claimed = found.rows[0, : len(best)], found.scores[0, : len(best)]
        # Within rounding: the two are separate programs, and a device may multiply in each its own
        # way. So the rows are told by their scores, and rows of nearly equal score may swap.
        if len(np.unique(rows)) < len(best) or not (
            np.allclose(claimed, best, rtol=0, atol=_ROUNDING)
            and np.allclose(scores[rows], best, rtol=0, atol=_ROUNDING)
        ):
            raise StartupError("the search does not give the exact top k on this device")

    @property
    def max_batch(self) -> int:
        """Most users of one `retrieve`."""
        return self.config.batch_sizes[-1]

    def retrieve(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer at most `max_batch` queries together, in order."""
        encoded = self._encode([query.user for query in queries])
        representations, norms = np.asarray(encoded.representations), np.asarray(encoded.norms)
        most = max(query.top_k for query in queries)
        found = self._top_k(encoded.representations, most) if most else None
        return [
            _answer(found, i, query.top_k, representations[i].copy(), float(norms[i]))
            for i, query in enumerate(queries)
        ]

    def encode_candidates(
        self, post_ids: npt.NDArray[np.uint64], author_ids: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.float32]:
        """Return the unit vectors of posts, [n, D]."""
        size = self.config.candidate_batch
        vectors: list[npt.NDArray[np.float32]] = []
        for start in range(0, len(post_ids), size):
            chunk = slice(start, start + size)
            inputs = self.bundle.features.candidates(post_ids[chunk], author_ids[chunk], size)
            vectors.append(np.asarray(self._towers.encode_candidates(inputs)))
        return np.concatenate(vectors)[: len(post_ids)]

    def score_all(self, user: UserColumns) -> npt.NDArray[np.float32]:
        """Return the scores of all posts for a user, [N]."""
        return self._all_scores(self._encode([user]).representations)

    def _all_scores(self, representations: _Array) -> npt.NDArray[np.float32]:
        """Return the scores of all posts for the first of a batch of the first size, [N]."""
        layout = self.corpus.layout
        queries = jax.device_put(representations, layout.replicated)
        scores = np.asarray(self._score(self.corpus.device, queries))
        return scores[0, layout.memory_rows(np.arange(layout.rows))]

    def _encode(self, users: Sequence[UserColumns]) -> EncodedUsers:
        limit = self._lengths[-1]
        longest = max(min(len(user.post_ids), limit) for user in users)
        batch = _next(self.config.batch_sizes, len(users))
        inputs = self.bundle.features.users(users, batch, _next(self._lengths, longest))
        return self._towers.encode_users(inputs)

    def _top_k(self, representations: _Array, top_k: int) -> _Found:
        search = self._search[len(representations), _next(self._result_sizes, top_k)]
        queries = jax.device_put(representations, self.corpus.layout.replicated)
        scores, rows, eligible = search(self.corpus.device, queries)
        return _Found(np.asarray(scores), np.asarray(rows), int(eligible))


def exact_ranks(
    scores: npt.NDArray[np.float32], rows: npt.NDArray[np.int32]
) -> npt.NDArray[np.int64]:
    """Return the ranks of rows, from 1, by score descending, then row ascending.

    Args:
        scores: [N], all scores; -inf where not eligible.
        rows: [n], the rows to rank.
    """
    ascending = np.sort(scores)
    targets = scores[rows]
    after = np.searchsorted(ascending, targets, side="right")
    ties = after - np.searchsorted(ascending, targets, side="left")
    ranks = len(scores) - after + 1
    for score in np.unique(targets[ties > 1]):
        here = targets == score
        ranks[here] += np.searchsorted(np.flatnonzero(scores == score), rows[here])
    return ranks


def check_pair(bundle: Bundle, snapshot: Snapshot) -> None:
    """Check that a corpus was built with a bundle's towers.

    Raises:
        CorpusError: It was not.
    """
    built_with = snapshot.manifest.tower_fingerprint
    if built_with != bundle.manifest.tower_fingerprint:
        raise CorpusError(
            snapshot.path,
            f"was built with other towers ({built_with[:12]}) than {bundle.path} holds "
            f"({bundle.manifest.tower_fingerprint[:12]}); build it again with this bundle",
        )
    width, needed = snapshot.manifest.embedding_size, bundle.manifest.model.embedding_size
    if width != needed:
        raise CorpusError(snapshot.path, f"has vectors {width} wide, the towers give {needed}")


def generation_name(bundle: Bundle, snapshot: Snapshot) -> str:
    """Return the name of a pair: equal wherever the same files are served."""
    sums = (sha256(bundle.path / MANIFEST), sha256(snapshot.path / MANIFEST))
    return hashlib.sha256(" ".join(sums).encode()).hexdigest()[:16]


def _answer(
    found: _Found | None,
    i: int,
    top_k: int,
    representation: npt.NDArray[np.float32],
    norm: float,
) -> Answer:
    if found is None:
        nothing = np.empty(0, np.float32)
        return Answer(nothing.astype(np.int32), nothing, 0, representation, norm)
    k = min(top_k, found.eligible)
    # Copies: views would keep the whole batch alive as long as one answer.
    return Answer(
        found.rows[i, :k].copy(),
        found.scores[i, :k].copy(),
        found.eligible,
        representation,
        norm,
    )


def _steps(smaller: Sequence[int], largest: int) -> tuple[int, ...]:
    return (*(step for step in smaller if step < largest), largest)


def _next(steps: Sequence[int], size: int) -> int:
    return next(step for step in steps if step >= size)
