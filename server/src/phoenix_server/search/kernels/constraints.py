"""The shapes that the kernels can search. Imports no kernel and nothing of Pallas.

Shapes:
    D  width of a vector    W  rows of a block
"""

WIDTHS = (16, 32, 64, 128, 256)
"""Values of D: powers of two, for tensor cores, that leave room for queries in shared memory."""

MAX_BLOCK_ROWS = 32
"""The largest W: the mask of a block is one word."""

PROGRAM_ROWS = 64
"""Rows that one program scores exactly; P is a multiple of that."""


def check_fit(*, width: int, tile_rows: int, block_rows: int) -> None:
    """Check that the kernels can search shards of these sizes.

    Raises:
        ValueError: They cannot; names the size.
    """
    if width not in WIDTHS:
        raise ValueError(f"width: the kernels take {', '.join(map(str, WIDTHS))}, not {width}")
    if block_rows > MAX_BLOCK_ROWS or block_rows & (block_rows - 1):
        raise ValueError(f"block_rows: the kernels take 8, 16 or 32, not {block_rows}")
    if tile_rows % PROGRAM_ROWS:
        raise ValueError(f"tile_rows: {tile_rows} is not a multiple of {PROGRAM_ROWS}")
