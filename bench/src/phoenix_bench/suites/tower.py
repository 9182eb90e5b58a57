"""Measure the user tower of the server against the same model in Haiku under `jax.jit`.

Shapes:
    B  users of a batch        H  engagements of each
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from phoenix_bench.artifacts import Artifacts, prepare
from phoenix_bench.machine import report
from phoenix_bench.plots import draw_lines
from phoenix_bench.results import OURS, Report, Row, summarise
from phoenix_bench.suites import Options
from phoenix_bench.timing import Pace, time_in_turns
from phoenix_export.checkpoint import open_checkpoint
from phoenix_export.programs import user_program
from phoenix_server.bundle.buckets import Chunk, plan_users
from phoenix_server.bundle.bundle import TABLES, Bundle, open_bundle
from phoenix_server.bundle.features import UserColumns
from phoenix_server.bundle.towers import Towers
from phoenix_server.config import EngineConfig

SUITE = "tower"

_PEER = "Haiku under jax.jit"
_BATCHES = (1, 8, 32)
_LENGTHS = (8, 32, 127)

Inputs = Mapping[str, npt.NDArray[Any]]
Seconds = npt.NDArray[np.float64]
Encode = Callable[[Inputs], npt.NDArray[np.float32]]


class DifferentAnswerError(Exception):
    """The outputs of the towers differ by more than the bundle's tolerance."""


def run(options: Options) -> Report:
    """Measure.

    Raises:
        DifferentAnswerError: The outputs of the towers differ.
    """
    made = prepare(options)
    bundle = open_bundle(made.bundle)
    encoders: dict[str, Encode] = {OURS: _server(bundle), _PEER: _haiku(made, bundle)}
    pace = (
        Pace(budget_s=0.2, fewest=3)
        if options.quick
        else Pace(budget_s=12, fewest=7, most=200, warm_ups=1)
    )
    rows = [
        row for batch in _BATCHES for row in _rows(batch, _measure(encoders, bundle, batch, pace))
    ]
    model = bundle.manifest
    note = f"{model.model.num_layers} layers, {model.compute_dtype}; hashing of ids not included"
    return report(rows, notes=[note])


def plot(report: Report, path: Path) -> None:
    """Plot the time of a user over the length of the history, one panel for each B."""
    draw_lines(report, path, metric="time_per_user", x="history", title="User tower")


def _server(bundle: Bundle) -> Encode:
    """Return the server's towers, which cut a batch as the server does."""
    towers = Towers(bundle, jax.devices()[0])
    for batch, length in itertools.product(EngineConfig().user_batches, _LENGTHS):
        towers.compile_users(batch, length)

    def encode(inputs: Inputs) -> npt.NDArray[np.float32]:
        users, length = inputs["history_product_surfaces"].shape
        chunks = plan_users([length] * users, towers.user_sizes, towers.lanes)
        batches = [_pick(inputs, chunk) for chunk in chunks]
        encoded = np.empty((users, bundle.manifest.model.embedding_size), np.float32)
        for chunk, found in zip(chunks, towers.encode_batches(batches), strict=True):
            encoded[list(chunk.users)] = found.representations[: len(chunk.users)]
        return encoded

    return encode


def _pick(inputs: Inputs, chunk: Chunk) -> Inputs:
    """Return the inputs of a chunk's users, padded with further users."""
    places = np.resize(chunk.users, chunk.batch_size)
    return {name: array[places] for name, array in inputs.items()}


def _haiku(made: Artifacts, bundle: Bundle) -> Encode:
    """Return the peer, which takes the same rows, weights and tables."""
    checkpoint = open_checkpoint(made.checkpoint, bundle.manifest.compute_dtype)
    program = user_program(checkpoint.model, checkpoint.parameter_shapes, checkpoint.table_shapes)
    weights = jax.device_put({k: v for k, v in bundle.load_weights() if k in program.weights})
    tables = jax.device_put({name: bundle.load_table(name) for name in TABLES})
    apply = jax.jit(program.function)

    def encode(inputs: Inputs) -> npt.NDArray[np.float32]:
        return np.asarray(apply(weights, tables, jax.device_put(inputs))["user_representation"])

    return encode


def _draw_inputs(bundle: Bundle, batch: int, length: int) -> Inputs:
    """Draw B users with H engagements each."""
    rng = np.random.default_rng(0)

    def ids(*shape: int) -> npt.NDArray[np.uint64]:
        return rng.integers(1, 2**63, shape, np.uint64)

    actions, surfaces = bundle.manifest.model.num_actions, 4
    users = [
        UserColumns(
            user_id=int(ids(1)[0]),
            post_ids=ids(length),
            author_ids=ids(length),
            action_masks=rng.integers(1, 2**actions, length, np.uint64),
            product_surfaces=rng.integers(0, surfaces, length).astype(np.uint32),
        )
        for _ in range(batch)
    ]
    return bundle.features.users(users, batch, length)


def _measure(
    encoders: Mapping[str, Encode], bundle: Bundle, batch: int, pace: Pace
) -> Mapping[str, Mapping[int, Seconds]]:
    """Check that the towers agree; return batch times in seconds by system and H."""
    calls: dict[str, Callable[[], object]] = {}
    for length in _LENGTHS:
        inputs = _draw_inputs(bundle, batch, length)
        difference = np.abs(encoders[OURS](inputs) - encoders[_PEER](inputs)).max()
        if not difference <= bundle.manifest.selftest_tolerance:
            raise DifferentAnswerError(f"the representations differ by {difference:.2g}")
        calls |= {f"{name} {length}": partial(run, inputs) for name, run in encoders.items()}
    seconds = time_in_turns(calls, pace)
    return {name: {length: seconds[f"{name} {length}"] for length in _LENGTHS} for name in encoders}


def _rows(batch: int, seconds: Mapping[str, Mapping[int, Seconds]]) -> Iterator[Row]:
    row = partial(summarise, suite=SUITE)
    ours = seconds[OURS]
    for name, by_length in seconds.items():
        for length, times in by_length.items():
            params = {"batch": batch, "history": length}
            each = times / batch * 1e3
            yield row(each, system=name, metric="time_per_user", unit="ms", params=params)
            if name != OURS:
                ratio = times / ours[length]
                yield row(ratio, system=name, metric="time_over_ours", unit="1", params=params)
        short, long = _LENGTHS[0], _LENGTHS[-1]
        metric, share = f"time_of_{short}_over_{long}", by_length[short] / by_length[long]
        yield row(share, system=name, metric=metric, unit="1", params={"batch": batch})
