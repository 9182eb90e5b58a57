"""The systems to compare: the server's search, XLA's own top k, and libraries for the host.

A system takes queries on the host and returns its results on the host. Libraries run as installed,
with all cores and no settings except those that request an exact search.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from phoenix_bench.machine import cores
from phoenix_bench.results import OURS
from phoenix_bench.search.dataset import Floats
from phoenix_bench.search.oracle import SearchResult
from phoenix_server.runtime.devices import choose_devices
from phoenix_server.search.choice import ScanOption, choose_layout
from phoenix_server.search.placement import place_corpus

Search = Callable[[Floats], SearchResult]

_CHUNK_ROWS = 1 << 16


class System(NamedTuple):
    """One way to search a corpus.

    Attributes:
        name: Its name in the results.
        prepare: Returns a search for batches of B queries and K results.
    """

    name: str
    prepare: Callable[[int, int], Search]


def ours(corpus: Floats, dtype: str, scan: ScanOption = "auto", variant: str = "") -> System:
    """Return the server's search, on the devices that the server would choose.

    Args:
        corpus: [N, D].
        dtype: Element type of the vectors on the device.
        scan: What searches.
        variant: Of the native search. Default: the best for the CPU.
    """
    rows, width = corpus.shape
    layout = choose_layout(choose_devices(None), rows=rows, width=width, scan=scan)
    if variant:
        layout = replace(layout, variant=variant)
    chunks = (corpus[start : start + _CHUNK_ROWS] for start in range(0, rows, _CHUNK_ROWS))
    shards, live = place_corpus(layout, chunks, np.arange(rows, dtype=np.uint64))
    shards = shards._replace(vectors=shards.vectors.astype(dtype))
    corpus_rows = np.zeros(layout.total_rows, np.int32)  # of rows in memory
    corpus_rows[layout.spread(rows)] = np.arange(rows)

    def prepare(batch: int, k: int) -> Search:
        queries = jax.ShapeDtypeStruct((batch, width), np.float32, sharding=layout.replicated)
        wanted = jax.device_put(np.full(batch, k, np.int32), layout.replicated)
        top_k = jax.jit(partial(layout.top_k, k=k))
        compiled = top_k.lower(shards, live, queries, wanted).compile()

        def search(queries: Floats) -> SearchResult:
            answer = compiled(shards, live, jax.device_put(queries, layout.replicated), wanted)
            return SearchResult(np.asarray(answer.scores), corpus_rows[np.asarray(answer.rows)])

        return search

    name = OURS if scan == "auto" else f"{OURS}, {variant or scan}"
    return System(name, prepare)


def xla(corpus: Floats, dtype: str) -> System:
    """Return `lax.top_k` over all scores, on the first device."""
    placed = jax.device_put(corpus).astype(dtype)

    def top_k(corpus: jax.Array, queries: jax.Array, *, k: int) -> Sequence[jax.Array]:
        scores = jnp.dot(
            queries.astype(dtype),
            corpus.T,
            precision=lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        return lax.top_k(scores, k)

    def prepare(batch: int, k: int) -> Search:
        queries = jax.ShapeDtypeStruct((batch, corpus.shape[1]), np.float32)
        compiled = jax.jit(partial(top_k, k=k)).lower(placed, queries).compile()

        def search(queries: Floats) -> SearchResult:
            scores, rows = compiled(placed, jax.device_put(queries))
            return SearchResult(np.asarray(scores), np.asarray(rows))

        return search

    return System("XLA lax.top_k", prepare)


def numpy(corpus: Floats) -> System:
    """Return a search by matrix product, `argpartition` and a sort of the chosen scores."""

    def search(queries: Floats, *, k: int) -> SearchResult:
        scores = queries @ corpus.T
        chosen = np.argpartition(scores, len(corpus) - k, axis=1)[:, len(corpus) - k :]
        best = np.take_along_axis(scores, chosen, axis=1)
        order = np.argsort(-best, axis=1)
        return SearchResult(
            np.take_along_axis(best, order, axis=1), np.take_along_axis(chosen, order, axis=1)
        )

    return System("numpy argpartition", lambda batch, k: partial(search, k=k))


def faiss(corpus: Floats) -> System:
    """Return faiss's flat inner-product index."""
    index = _import("faiss").IndexFlatIP(corpus.shape[1])
    index.add(corpus)

    def search(queries: Floats, *, k: int) -> SearchResult:
        return SearchResult(*index.search(queries, k))

    return System("faiss IndexFlatIP", lambda batch, k: partial(search, k=k))


def usearch(corpus: Floats) -> System:
    """Return usearch's exact search."""
    module = _import("usearch.index")

    def search(queries: Floats, *, k: int) -> SearchResult:
        answer = module.search(corpus, queries, k, module.MetricKind.IP, exact=True)
        shape = (len(queries), k)
        return SearchResult(1 - answer.distances.reshape(shape), answer.keys.reshape(shape))

    return System("usearch exact", lambda batch, k: partial(search, k=k))


def scann(corpus: Floats) -> System:
    """Return ScaNN's brute force; the queries of a batch are divided among all cores."""
    # It works without TensorFlow, and fails to load with a version it was not built for.
    with patch.dict(sys.modules, {"tensorflow": None}):
        pybind = _import("scann.scann_ops.py.scann_ops_pybind")
    searcher = pybind.builder(corpus, 10, "dot_product").score_brute_force().build()
    searcher.set_num_threads(cores())

    def search(queries: Floats, *, k: int, share: int) -> SearchResult:
        rows, scores = searcher.search_batched_parallel(
            queries, final_num_neighbors=k, batch_size=share
        )
        return SearchResult(scores, rows)

    def prepare(batch: int, k: int) -> Search:
        return partial(search, k=k, share=-(-batch // cores()))

    return System("ScaNN brute force", prepare)


def svs(corpus: Floats) -> System:
    """Return the flat index of Intel's Scalable Vector Search."""
    module = _import("svs")
    index = module.Flat(corpus, module.DistanceType.MIP, num_threads=cores())

    def search(queries: Floats, *, k: int) -> SearchResult:
        rows, scores = index.search(queries, k)
        return SearchResult(scores, rows)

    return System("SVS flat", lambda batch, k: partial(search, k=k))


HOST_PEERS: Mapping[str, Callable[[Floats], System]] = {
    "numpy": numpy,
    "faiss-cpu": faiss,
    "usearch": usearch,
    "scann": scann,
    "scalable-vs": svs,
}
"""Systems that search on the host, by distribution name."""


def _import(name: str) -> Any:
    """Import a module of an optional library.

    Raises:
        ImportError: It is not installed, or not for this machine.
    """
    return importlib.import_module(name)
