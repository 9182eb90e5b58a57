"""Make the self-test of a bundle: inputs and expected outputs, which a server checks at start-up.

The outputs come from the model run operation by operation, as the published sample runs, not from
the exported programs. So they check the export as well.

Shapes:
    B  users        H  engagements of a history
"""

from collections.abc import Callable, Mapping
from typing import cast

import jax
import numpy as np
import numpy.typing as npt

from phoenix_export.checkpoint import Checkpoint
from phoenix_export.programs import TowerProgram
from phoenix_model import HashFunctions, hash_ids

TOLERANCES = {"bfloat16": 5e-3, "float32": 1e-5}
_HISTORIES = (5, 0, 16, 1)  # engagements of the users; the last user has no id
_POSTS = 8

HostArrays = dict[str, npt.NDArray[np.generic]]


def selftest_arrays(
    checkpoint: Checkpoint,
    towers: Mapping[str, TowerProgram],
    weights: Callable[[str], npt.NDArray[np.float32]],
    tables: Callable[[str], npt.NDArray[np.float32]],
) -> HostArrays:
    """Return the contents of `selftest.npz`.

    Keys are `ids/ENTITY` and `rows/ENTITY` for the hash functions, and `TOWER/inputs/NAME` and
    `TOWER/outputs/NAME` for the towers.

    Args:
        checkpoint: Gives the model's configuration and the hash functions.
        towers: "user_tower" and "candidate_tower".
        weights: Returns a parameter by flat name.
        tables: Returns an embedding table by name.
    """
    rng = np.random.default_rng(0)
    hashes = checkpoint.hashes
    ids = {
        entity: np.append(rng.integers(0, 2**64, 15, np.uint64), np.uint64(0)) for entity in hashes
    }
    arrays: HostArrays = {f"ids/{entity}": values for entity, values in ids.items()}
    arrays |= {f"rows/{entity}": hash_ids(ids[entity], hashes[entity]) for entity in hashes}
    for tower, inputs in (
        ("user_tower", _user_inputs(checkpoint, rng)),
        ("candidate_tower", _candidate_inputs(hashes, rng)),
    ):
        program = towers[tower]
        arrays |= {f"{tower}/inputs/{name}": value for name, value in inputs.items()}
        outputs = program.function(
            {name: jax.numpy.asarray(weights(name)) for name in program.weights},
            # On the host: only a few rows are gathered from a table that may fill half a device.
            {name: cast(jax.Array, tables(name)) for name in program.tables},
            {name: jax.numpy.asarray(value) for name, value in inputs.items()},
        )
        arrays |= {f"{tower}/outputs/{name}": np.asarray(v) for name, v in outputs.items()}
    return arrays


def _user_inputs(checkpoint: Checkpoint, rng: np.random.Generator) -> HostArrays:
    config, hashes = checkpoint.model, checkpoint.hashes
    lengths = np.minimum(_HISTORIES, config.history_seq_len)
    batch, longest = len(lengths), int(lengths.max())
    shown = np.arange(longest) < lengths[:, None]  # [B, H]
    user_ids = rng.integers(1, 2**63, batch, np.uint64)
    user_ids[-1] = 0

    def drawn(limit: int) -> npt.NDArray[np.uint64]:
        return np.where(shown, rng.integers(1, limit, shown.shape, np.uint64), np.uint64(0))

    masks = drawn(2**config.num_actions)
    return {
        "user_rows": hash_ids(user_ids, hashes["user"]),
        "history_post_rows": hash_ids(drawn(2**63), hashes["item"]),
        "history_author_rows": hash_ids(drawn(2**63), hashes["author"]),
        "history_action_words": masks.astype("<u8").view("<u4").reshape(batch, longest, 2),
        "history_product_surfaces": np.where(
            shown, rng.integers(0, config.product_surface_vocab_size, shown.shape), 0
        ).astype(np.int32),
    }


def _candidate_inputs(hashes: Mapping[str, HashFunctions], rng: np.random.Generator) -> HostArrays:
    return {
        "post_rows": hash_ids(rng.integers(1, 2**63, _POSTS, np.uint64), hashes["item"]),
        "author_rows": hash_ids(rng.integers(1, 2**63, _POSTS, np.uint64), hashes["author"]),
    }
