"""Search random corpora natively and compare with numpy: `make fuzz-search CASES=1000000 SEED=1`.

A case is a query with its own mask, searched as every variant that this CPU can run. The first is
compared with numpy, the others with the first, to the bit. What failed is printed with its seed,
which repeats it.
"""

import argparse
import sys
import time

import numpy as np

from server.search.native.native_cases import KINDS, SHAPES, check_variants, draw_case, variants_for

_REPORT_S = 10.0


def main() -> None:
    """Run the cases, and exit with 1 at the first difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = reported = time.monotonic()
    done = number = 0
    while done < args.cases:
        seed = args.seed * 10**9 + number
        rng = np.random.default_rng(seed)
        shape = SHAPES[rng.integers(len(SHAPES))]
        kind = str(rng.choice(KINDS))
        share = float(rng.choice([0.0, 0.001, 0.01, 0.1, 0.5, 0.99, 2.0]))
        case = draw_case(shape, kind, share, seed)
        try:
            check_variants(case, variants_for(shape[1]))
        except AssertionError as exc:
            _say(f"case {number} of seed {args.seed} ({shape}, {kind}): {exc}")
            sys.exit(1)
        done += len(case.queries)
        number += 1
        if time.monotonic() - reported > _REPORT_S:
            reported = time.monotonic()
            _say(f"{done} cases, {reported - began:.0f} s")
    _say(f"{done} cases of seed {args.seed}: no difference")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
