"""Checkpoints of other releases of the model: exported as they are, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.cases import (
    Files,
    candidate_inputs,
    load_bundle,
    load_program,
    random_users,
    read_manifest,
    run_candidate_model,
    run_user_model,
    tiny_files,
    user_inputs,
)
from phoenix_export.bundle import write_bundle
from phoenix_export.checkpoint import CONFIG, open_checkpoint
from phoenix_export.errors import CheckpointError

VARIANTS: dict[str, dict[str, Any]] = {
    "grouped queries": {"num_heads": 6, "num_q_heads": 6, "num_kv_heads": 2},
    "one key head": {"num_heads": 6, "num_kv_heads": 1},
    "mean pool": {"enable_linear_proj": False},
    "both": {"num_heads": 6, "num_kv_heads": 3, "enable_linear_proj": False},
    "what the model does anyway": {
        "causal": True,
        "attn_logit_cap": 30,
        "right_anchored_rope": False,
        "use_post_sid": False,
        "enable_linear_proj": True,
    },
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_a_variant_is_exported_and_answers_as_the_model(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    checkpoint = tiny_files(**changes).write(tmp_path / "checkpoint")
    opened = open_checkpoint(checkpoint, "float32")
    assert opened.model.model.num_q_heads == changes.get("num_heads", 3)
    assert opened.model.model.num_kv_heads == changes.get("num_kv_heads", 3)
    assert opened.model.enable_linear_proj is changes.get("enable_linear_proj", True)
    write_bundle(opened, tmp_path / "bundle", saved_model=False)
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest.model.num_key_value_heads == changes.get("num_kv_heads", 3)
    loaded = load_bundle(tmp_path / "bundle", checkpoint)
    ids = np.arange(1, 9, dtype=np.uint64)
    users = user_inputs(random_users(3, 5, 19), 11, loaded.hashes, 11)
    posts = candidate_inputs(ids, ids + np.uint64(2**63), loaded.hashes)
    found = {
        name: loaded.call(
            load_program(tmp_path / "bundle" / f"programs/{name}.jax").call,
            getattr(manifest, name),
            inputs,
        )
        for name, inputs in (("user_tower", users), ("candidate_tower", posts))
    }
    expected = run_user_model(loaded, users)
    np.testing.assert_allclose(
        found["user_tower"]["user_representation"], expected.user_representation, atol=2e-6
    )
    np.testing.assert_allclose(
        found["candidate_tower"]["candidate_representation"],
        run_candidate_model(loaded, posts),
        atol=2e-6,
    )


def test_a_mean_pool_tower_has_no_parameters(tmp_path: Path) -> None:
    files = tiny_files(enable_linear_proj=False)
    assert not any("candidate_tower" in name for name in files.params)
    path = files.write(tmp_path / "checkpoint")
    write_bundle(open_checkpoint(path, "float32"), tmp_path / "bundle", saved_model=False)
    assert list(read_manifest(tmp_path / "bundle").candidate_tower.weights) == []


def test_projections_that_the_configuration_denies_are_refused(tmp_path: Path) -> None:
    files = tiny_files()
    files.config["enable_linear_proj"] = False
    with pytest.raises(
        CheckpointError, match="candidate_tower_projection_1: the model that config"
    ):
        open_checkpoint(files.write(tmp_path / "checkpoint"), "float32")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"causal": False}, "causal: is False, in this model it is True"),
        ({"attn_logit_cap": 50.0}, "attn_logit_cap: is 50.0, in this model it is 30.0"),
        ({"right_anchored_rope": True}, "right_anchored_rope: is True, in this model it is False"),
        ({"use_post_sid": True}, "use_post_sid: is True, in this model it is False"),
        ({"item_hash_vocab_size": 9}, "item_hash_vocab_size: the model has no such setting"),
        ({"rope_base": 10000}, "rope_base: the model has no such setting"),
        ({"enable_linear_proj": 1}, "enable_linear_proj: is 1, should be true or false"),
        ({"num_q_heads": 6}, "num_heads: is 3, num_q_heads 6"),
        ({"num_q_heads": 0}, "num_q_heads: is 0, should be an integer from 1"),
        ({"num_kv_heads": 2}, "num_q_heads must be a multiple of num_kv_heads, got 3 and 2"),
    ],
)
def test_a_setting_that_the_model_does_not_have_is_refused(
    files: Files, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    files.config |= changes
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(files.write(tmp_path / "checkpoint"), "float32")
    (found,) = caught.value.problems
    assert found.startswith(problem)


def test_an_unknown_hash_constant_is_refused(files: Files, tmp_path: Path) -> None:
    files.config["hash_params"]["item_seed"] = 7
    with pytest.raises(CheckpointError, match=r"hash_params\.item_seed: the model has no such"):
        open_checkpoint(files.write(tmp_path / "checkpoint"), "float32")


def test_heads_may_be_given_apart(files: Files, tmp_path: Path) -> None:
    heads = files.config.pop("num_heads")
    files.config |= {"num_q_heads": heads, "num_kv_heads": heads}
    model = open_checkpoint(files.write(tmp_path / "checkpoint"), "float32").model.model
    assert (model.num_q_heads, model.num_kv_heads) == (heads, heads)


@pytest.mark.parametrize(
    ("given", "missing"), [("num_q_heads", "num_kv_heads"), ("num_kv_heads", "num_q_heads")]
)
def test_heads_of_one_kind_need_those_of_the_other(
    files: Files, tmp_path: Path, given: str, missing: str
) -> None:
    files.config[given] = files.config.pop("num_heads")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(files.write(tmp_path / "checkpoint"), "float32")
    assert caught.value.problems == (f"num_heads or {missing}: missing",)


@pytest.mark.parametrize("changes", [{"num_heads": "6"}, {"num_q_heads": "6"}])
def test_a_wrong_number_of_heads_is_one_problem(
    files: Files, tmp_path: Path, changes: dict[str, Any]
) -> None:
    files.config |= {"num_q_heads": 3, "num_kv_heads": 1} | changes
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(files.write(tmp_path / "checkpoint"), "float32")
    (problem,) = caught.value.problems
    assert problem.startswith(f"{next(iter(changes))}: is '6', should be an integer")


@pytest.mark.parametrize("place", ["orbax-ckpt", "."])
def test_an_orbax_checkpoint_is_recognised(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "_CHECKPOINT_METADATA").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match="this is an Orbax checkpoint") as caught:
        open_checkpoint(tmp_path, "float32")
    assert caught.value.path == tmp_path / CONFIG
