"""Compare a corpus under many changes with a model of it: `make soak OPS=50000 SEED=1`."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", 8)

from server.corpus.model import soak  # noqa: E402 - after JAX has its devices


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
