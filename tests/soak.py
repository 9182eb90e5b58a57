"""Compare a corpus under many changes with a model of it: `make soak OPS=50000 SEED=1`."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

jax.config.update("jax_num_cpu_devices", 8)

# After JAX has its devices:
from phoenix_server.runtime.program_cache import ProgramCache  # noqa: E402
from server.corpus.comparison import Comparison  # noqa: E402
from server.corpus.real_corpus import TOP_KS, TOWERS  # noqa: E402


def soak(path: Path, steps: int, seed: int, report: Callable[[int], None]) -> None:
    """Draw changes, snapshots, swaps, restarts and crashes, and compare every five steps."""
    rng = np.random.default_rng(seed)
    corpus = Comparison(
        path,
        rng,
        shards=int(rng.integers(1, 4)),
        top_k=int(rng.choice(TOP_KS)),
        programs=ProgramCache(),
        evict_oldest=bool(rng.random() < 0.5),
    )
    try:
        for step in range(steps):
            kind, tower = rng.random(), str(rng.choice(TOWERS))
            if kind < 0.01:
                corpus.snapshot()
            elif kind < 0.03:
                corpus.restart(tower, gently=rng.random() < 0.5)
            elif kind < 0.04:
                corpus.load(tower)
            elif kind < 0.06:
                corpus.activate(tower)
            else:
                corpus.change(int(rng.integers(1, 5)))
            if step % 5 == 4:
                corpus.check()
                report(step + 1)
    finally:
        corpus.close()


def main() -> None:
    """Run, and print the progress."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ops", type=int, default=1000, help="Steps.")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()

    def report(done: int) -> None:
        if done % 500 == 0:
            print(f"{done} steps, {time.monotonic() - began:.0f} s", flush=True)  # noqa: T201

    with tempfile.TemporaryDirectory() as folder:
        soak(Path(folder) / "corpus", arguments.ops, arguments.seed, report)
    print(f"{arguments.ops} steps of seed {arguments.seed}: no difference")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
