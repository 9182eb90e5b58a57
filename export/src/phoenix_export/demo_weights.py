"""Weights with which a demo checkpoint gives meaningful answers.

Shapes:
    D  embedding width        Hu, Hi, Ha  hashes of a user, a post, an author
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from phoenix_model import PhoenixRetrievalModelConfig, parameter_shapes

Weights = dict[str, npt.NDArray[np.float32]]

_USER = 0.1  # factor on the user's own rows in the first position
_CONTEXT = 0.1  # factor on actions and surfaces in an engagement
_SMALL = 0.02  # standard deviation of weights that only need to be non-zero
_STEP = 0.005  # RMS of what a transformer layer adds to a position


def demo_weights(config: PhoenixRetrievalModelConfig, rng: np.random.Generator) -> Weights:
    """Return every parameter of the model by flat name."""
    return {
        name: np.ascontiguousarray(_weight(name, shape, config, rng), np.float32)
        for name, shape in parameter_shapes(config).items()
    }


def _weight(
    name: str, shape: tuple[int, ...], config: PhoenixRetrievalModelConfig, rng: np.random.Generator
) -> npt.NDArray[np.floating]:
    module, _, parameter = name.rpartition("/")
    planted: dict[str, Callable[[], npt.NDArray[np.floating]]] = {
        "proj_mat_1": lambda: _mean(config.emb_size, config.hash_config.num_user_hashes) * _USER,
        "proj_mat_3": lambda: _engagement(config),
        "candidate_tower_projection_1": lambda: _mirrored(_candidate_mean(config)),
        "candidate_tower_projection_2": lambda: _mirrored(np.eye(config.emb_size)).T,
    }
    if parameter in planted:
        return planted[parameter]()
    if parameter == "scale":
        # The other norms follow a block and scale what it adds.
        before = module.endswith(("rms_norm", "rms_norm_2"))
        return np.full(shape, 1.0 if before else _STEP)
    return rng.standard_normal(shape) * _SMALL


def _mean(width: int, rows: int) -> npt.NDArray[np.floating]:
    """Return [rows*D, D], which maps `rows` concatenated embeddings to their mean."""
    return np.tile(np.eye(width), (rows, 1)) / rows


def _candidate_mean(config: PhoenixRetrievalModelConfig) -> npt.NDArray[np.floating]:
    hashes = config.hash_config
    return _mean(config.emb_size, hashes.num_item_hashes + hashes.num_author_hashes)


def _engagement(config: PhoenixRetrievalModelConfig) -> npt.NDArray[np.floating]:
    """Return [(Hi+Ha+2)*D, D]: the mean of post and author rows, plus scaled context."""
    context = np.eye(config.emb_size) * _CONTEXT
    return np.concatenate([_candidate_mean(config), context, context])


def _mirrored(matrix: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return [M, -M].

    As silu(a) - silu(-a) = a, silu(x [M, -M]) [I, -I]^T = x M: the tower's two layers together are
    an exact linear map.
    """
    return np.concatenate([matrix, -matrix], axis=1)
