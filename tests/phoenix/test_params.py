import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from phoenix_cases import GOLDEN_DIR, golden_case, prime_config
from phoenix_model import (
    PhoenixRetrievalModelConfig,
    TransformerConfig,
    flatten_params,
    init_params,
    parameter_shapes,
    unflatten_params,
)

_fresh_params = jax.jit(functools.partial(init_params, prime_config()))


@pytest.mark.parametrize("name", ["demo", "gqa"])
def test_parameter_names_and_shapes_are_the_golden_ones(name: str) -> None:
    case = golden_case(name, "f32")
    golden = {path: value.shape for path, value in flatten_params(case.params).items()}
    assert parameter_shapes(case.config) == golden


def test_parameter_names_and_shapes_are_those_of_the_published_layout() -> None:
    folder = GOLDEN_DIR / "published_layout" / "retrieval"
    sizes = json.loads((folder / "config.json").read_text())
    config = PhoenixRetrievalModelConfig(
        model=TransformerConfig(
            emb_size=sizes["emb_size"],
            key_size=sizes["key_size"],
            num_q_heads=sizes["num_heads"],
            num_kv_heads=sizes["num_heads"],
            num_layers=sizes["num_layers"],
            widening_factor=2.0,
            attn_output_multiplier=0.125,
        ),
        emb_size=sizes["emb_size"],
    )
    with np.load(folder / "model_params.npz", allow_pickle=False) as archive:
        published = {path: archive[path].shape for path in archive.files}
    assert published.pop("~/log_temperature") == ()
    assert parameter_shapes(config) == published


def test_fresh_parameters_are_float32_and_only_the_transformer_is_zero() -> None:
    for path, value in flatten_params(_fresh_params(0)).items():
        assert value.dtype == np.float32
        assert np.isfinite(value).all()
        assert np.any(value) != path.startswith("transformer/"), path


def test_fresh_parameters_depend_on_the_seed_alone() -> None:
    first, again, other = (_fresh_params(seed) for seed in (1, 1, 2))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    assert not jax.tree.all(jax.tree.map(np.array_equal, first, other))


def test_flatten_undoes_unflatten() -> None:
    flat = flatten_params(_fresh_params(0))
    assert flatten_params(unflatten_params(flat)).keys() == flat.keys()
    assert all(flatten_params(unflatten_params(flat))[path] is flat[path] for path in flat)


@pytest.mark.parametrize("path", ["w", "/w", "linear/"])
def test_a_name_without_a_module_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="module path/name"):
        unflatten_params({path: np.zeros(1)})


def test_module_paths_begin_with_the_name_in_the_config() -> None:
    config = dataclasses.replace(prime_config(), name="towers")
    modules = {path.split("/")[0] for path in parameter_shapes(config)}
    assert modules == {"towers", "transformer"}
