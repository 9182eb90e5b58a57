from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from phoenix_server.search.kernels.block_maxima import of_blocks
from phoenix_server.search.kernels.block_scores import block_scores
from server.search.cases import pack_masks

WIDTH = 32
BLOCK = 16
BLOCKS = 14


@pytest.mark.parametrize("masks", [1, 3])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_scores_are_those_of_the_blocks_asked_for(dtype: Any, masks: int) -> None:
    rng = np.random.default_rng(0)
    vectors = jnp.asarray(rng.normal(size=(BLOCKS * BLOCK, WIDTH)), dtype)
    eligible = rng.random((masks, BLOCKS * BLOCK)) < 0.7
    queries = jnp.asarray(rng.normal(size=(3, WIDTH)), jnp.float32)
    blocks = np.sort(rng.integers(0, BLOCKS, (3, 8)), axis=1)
    blocks[1, 5:] = BLOCKS
    found = block_scores(
        vectors,
        of_blocks(jnp.asarray(pack_masks(eligible)), BLOCK),
        queries,
        jnp.asarray(blocks, jnp.int32),
        block_rows=BLOCK,
        interpret=True,
    )
    exact = np.asarray(queries, np.float64) @ np.asarray(vectors, np.float64).T
    exact = np.where(eligible, exact, -np.inf).reshape(3, BLOCKS, BLOCK)
    nothing = np.full((3, 1, BLOCK), -np.inf)
    exact = np.concatenate([exact, nothing], axis=1)[np.arange(3)[:, None], blocks]
    np.testing.assert_allclose(found, exact.reshape(3, -1), rtol=0, atol=3e-5)


def test_a_score_has_the_same_bits_wherever_its_row_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    vectors = jnp.asarray(rng.normal(size=(BLOCKS * BLOCK, WIDTH)), jnp.float32)
    queries = jnp.asarray(rng.normal(size=(5, WIDTH)), jnp.float32)
    alive = jnp.full((1, BLOCKS), (1 << BLOCK) - 1, jnp.int32)
    blocks = jnp.asarray(np.stack([rng.permutation(12) for _ in range(5)]), jnp.int32)

    def score(queries: Any, blocks: Any) -> Any:
        found = block_scores(vectors, alive, queries, blocks, block_rows=BLOCK, interpret=True)
        return np.asarray(found).reshape(*blocks.shape, BLOCK)

    together = score(queries, blocks)
    alone = score(queries[4:], jnp.arange(12, dtype=jnp.int32)[None])
    assert together[4].tobytes() == alone[0][np.asarray(blocks[4])].tobytes()


def test_rows_that_are_not_whole_programs_are_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple of 64 rows"):
        block_scores(
            jnp.zeros((64, WIDTH)),
            jnp.zeros((1, 4), jnp.int32),
            jnp.zeros((1, WIDTH)),
            jnp.zeros((1, 3), jnp.int32),
            block_rows=BLOCK,
            interpret=True,
        )
