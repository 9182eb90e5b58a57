"""The results of one run, and the limits of the machine it runs on."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

SUITE = "gpu_topk"

_DEADLINE_S = 420


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes to measure.

    Attributes:
        corpora: Values of N with the type of the vectors.
        batches: Values of B.
        swept: Values of B for which settings of the scan are compared.
        results: Values of K.
        budget_s: Time to measure one quantity, in seconds.
        matrix: Side of the square matrices whose product measures the compute limit.
        copied_values: Number of bfloat16 values whose copy measures the memory limit.
    """

    corpora: tuple[tuple[int, str], ...] = ((10_000_000, "bfloat16"), (1_000_000, "float32"))
    batches: tuple[int, ...] = (1, 8, 32, 128, 256)
    swept: tuple[int, ...] = (8, 256)
    results: tuple[int, ...] = (100, 1000)
    budget_s: float = 0.5
    matrix: int = 8192
    copied_values: int = 1 << 31


QUICK = Sizes(
    corpora=((6_000, "bfloat16"), (4_000, "float32")),
    batches=(1, 8),
    swept=(8,),
    results=(10,),
    budget_s=0.05,
    matrix=256,
    copied_values=1 << 20,
)


@dataclass
class Run:
    """One run of this script: its results so far, and the file they are written to."""

    out: Path
    sizes: Sizes
    began: float = field(default_factory=time.monotonic)
    limits: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def late(self, what: str) -> bool:
        """Return whether no time is left; if so, note that `what` was skipped."""
        if time.monotonic() - self.began < _DEADLINE_S:
            return False
        self.notes.append(f"skipped for lack of time: {what}")
        return True

    def add(self, system: str, params: dict[str, Any], metric: str, unit: str, values: Any) -> None:
        """Record and print one quantity."""
        p10, median, p90 = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
        row = {"suite": SUITE, "system": system, "params": params, "metric": metric, "unit": unit}
        self.rows.append(row | {"median": median, "p10": p10, "p90": p90, "runs": len(values)})
        told = " ".join(f"{name}={value}" for name, value in params.items())
        sys.stdout.write(f"{system:<12}{told:<62}{metric:<16}{median:>12.4f} {unit}\n")
        sys.stdout.flush()

    def write(self) -> None:
        """Write the results so far."""
        device = jax.devices()[0]
        report = {
            "machine": {"device": device.device_kind, "platform": device.platform},
            "versions": {"jax": jax.__version__, "python": sys.version.split()[0]},
            "sizes": asdict(self.sizes),
            "limits": self.limits,
            "rows": self.rows,
            "notes": self.notes,
        }
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(call: Callable[[], Any], budget_s: float) -> npt.NDArray[np.float64]:
    """Return the times of single calls until their work on the device ends, in seconds."""
    jax.block_until_ready(call())
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < budget_s and len(seconds) < 50):
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    return np.array(seconds)


def measure_limits(run: Run) -> None:
    """Measure the rates of a copy within device memory and of a product of square matrices."""
    values = jnp.ones(run.sizes.copied_values, jnp.bfloat16)
    seconds = measure(partial(jax.jit(jnp.negative), values), run.sizes.budget_s)
    rate = 2 * values.nbytes / float(seconds.min()) / 1e9
    run.limits["copy_bandwidth"] = {"value": rate, "unit": "GB/s", "method": "read and write"}
    side = run.sizes.matrix
    matrix = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    product = jax.jit(partial(jnp.dot, preferred_element_type=jnp.float32))
    seconds = measure(partial(product, matrix, matrix), run.sizes.budget_s)
    rate = 2 * side**3 / float(seconds.min()) / 1e9
    run.limits["matmul"] = {"value": rate, "unit": "GFLOP/s", "method": f"bfloat16, {side}"}
    sys.stdout.write(f"limits: {run.limits}\n")
