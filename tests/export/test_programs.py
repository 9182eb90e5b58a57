from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest

from export.cases import (
    Arrays,
    Loaded,
    User,
    candidate_inputs,
    load_bundle,
    load_checkpoint,
    load_program,
    random_users,
    read_manifest,
    run_candidate_model,
    run_user_model,
    tiny_files,
    user_inputs,
)
from phoenix_export.programs import PLATFORMS, lowering

TOWERS = ("user_tower", "candidate_tower")
REPOSITORY = Path(__file__).parents[2]


class Golden:
    """A bundle of the golden checkpoint: its programs as exported, beside the model itself."""

    def __init__(self, bundle: Path, layout: Path, tolerance: float) -> None:
        self.path = bundle
        self.tolerance = tolerance
        self.manifest = read_manifest(bundle)
        self.loaded = load_bundle(bundle, layout)
        self.exported = {name: load_program(bundle / f"programs/{name}.jax") for name in TOWERS}

    def call(self, name: str, inputs: Arrays) -> Arrays:
        program = getattr(self.manifest, name)
        return self.loaded.call(self.exported[name].call, program, inputs)

    def inputs(self, users: list[User], length: int) -> Arrays:
        return user_inputs(users, length, self.loaded.hashes, self.loaded.config.history_seq_len)


@pytest.fixture(scope="module", params=["f32", "bf16"])
def golden(request: pytest.FixtureRequest, golden_layout: Path) -> Golden:
    tolerance = {"f32": 2e-6, "bf16": 5e-3}[request.param]
    return Golden(request.getfixturevalue(f"bundle_{request.param}"), golden_layout, tolerance)


@pytest.fixture(scope="module")
def golden_users(golden_layout: Path) -> list[dict[str, Any]]:
    """Return the users of expected.json, each with the published model's representation."""
    return json.loads((golden_layout / "expected.json").read_text())["users"]


@pytest.mark.parametrize("name", TOWERS)
def test_a_program_is_for_all_platforms(golden: Golden, name: str) -> None:
    assert golden.exported[name].platforms == PLATFORMS == ("cpu", "cuda", "rocm", "tpu")


def test_variable_sizes_are_symbolic(golden: Golden) -> None:
    def shapes(tree: Any) -> dict[str, str]:
        return {name: str(aval.str_short()) for name, aval in tree.items()}

    users = golden.exported["user_tower"]
    (_, _, inputs), _ = jax.tree.unflatten(users.in_tree, users.in_avals)
    assert shapes(inputs) == {
        "user_rows": "int32[b,2]",
        "history_post_rows": "int32[b,s,2]",
        "history_author_rows": "int32[b,s,2]",
        "history_action_words": "uint32[b,s,2]",
        "history_product_surfaces": "int32[b,s]",
    }
    assert shapes(jax.tree.unflatten(users.out_tree, users.out_avals)) == {
        "user_representation": "float32[b,128]",
        "user_norm": "float32[b]",
    }
    candidates = golden.exported["candidate_tower"]
    (_, _, inputs), _ = jax.tree.unflatten(candidates.in_tree, candidates.in_avals)
    assert shapes(inputs) == {"post_rows": "int32[n,2]", "author_rows": "int32[n,2]"}
    assert shapes(jax.tree.unflatten(candidates.out_tree, candidates.out_avals)) == {
        "candidate_representation": "float32[n,128]"
    }


def test_weights_and_tables_are_arguments_not_constants(golden: Golden) -> None:
    for name in TOWERS:
        exported = golden.exported[name]
        (weights, tables, _), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
        program = getattr(golden.manifest, name)
        assert {k: v.shape for k, v in weights.items()} == {
            k: golden.loaded.weights[k].shape for k in program.weights
        }
        assert {k: v.shape for k, v in tables.items()} == {
            k: golden.loaded.tables[k].shape for k in program.tables
        }
        assert len(exported.serialize()) < 1 << 17
    assert set(golden.manifest.candidate_tower.tables) == {"item_embeddings", "author_embeddings"}
    used = {*golden.manifest.user_tower.weights, *golden.manifest.candidate_tower.weights}
    assert used == golden.loaded.weights.keys()


@pytest.fixture(scope="module")
def answers(golden: Golden, golden_users: list[dict[str, Any]]) -> Arrays:
    """Return what the program answers to the golden users at once."""
    users = [user["sequence"] for user in golden_users]
    assert [len(user["history"]) for user in users] == [3, 1, 127, 63, 132, 0]
    return golden.call("user_tower", golden.inputs(users, 127))


def test_the_user_tower_answers_as_the_published_model(
    golden: Golden, golden_users: list[dict[str, Any]], answers: Arrays
) -> None:
    found = answers["user_representation"]
    published = [user["user_representation"] for user in golden_users]
    np.testing.assert_allclose(found, published, rtol=0, atol=5e-3)
    inputs = golden.inputs([user["sequence"] for user in golden_users], 127)
    model = run_user_model(golden.loaded, inputs, eager=True)
    np.testing.assert_allclose(found, model.user_representation, rtol=0, atol=golden.tolerance)
    np.testing.assert_allclose(answers["user_norm"], model.user_norm, rtol=golden.tolerance)


def test_the_user_tower_takes_any_number_of_users_and_engagements(
    golden: Golden, golden_users: list[dict[str, Any]], answers: Arrays
) -> None:
    for chosen, length in (([0, 1, 5], 5), ([0], 3)):
        users = [golden_users[i]["sequence"] for i in chosen]
        found = golden.call("user_tower", golden.inputs(users, length))
        for name, values in found.items():
            np.testing.assert_allclose(
                values, answers[name][chosen], rtol=golden.tolerance, atol=golden.tolerance
            )


def test_the_candidate_tower_answers_as_the_published_model(
    golden: Golden, golden_layout: Path
) -> None:
    with np.load(golden_layout / "sports_corpus.npz", allow_pickle=False) as corpus:
        posts, authors = corpus["post_ids"], corpus["author_ids"]
        published = corpus["candidate_representations"]
    for rows in (slice(None), slice(7), slice(3, 4)):
        inputs = candidate_inputs(posts[rows], authors[rows], golden.loaded.hashes)
        found = golden.call("candidate_tower", inputs)["candidate_representation"]
        np.testing.assert_allclose(found, published[rows], rtol=0, atol=2e-6)
        model = run_candidate_model(golden.loaded, inputs)
        np.testing.assert_allclose(found, model, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", TOWERS)
def test_a_program_names_no_file_and_no_path(golden: Golden, name: str) -> None:
    exported = golden.exported[name]
    for content in (
        (golden.path / f"programs/{name}.jax").read_bytes(),
        (golden.path / f"programs/{name}.stablehlo.mlir").read_bytes(),
        exported.mlir_module().encode(),
    ):
        assert len(content) > 1000
        assert re.search(rb"\.py\b", content) is None
        for path in (REPOSITORY, Path(sys.prefix), Path.home()):
            assert str(path).encode() not in content
        assert b"site-packages" not in content


def test_the_text_is_the_program_in_stablehlo(golden: Golden) -> None:
    for name in TOWERS:
        text = (golden.path / f"programs/{name}.stablehlo.mlir").read_text()
        assert "func.func public @main" in text
        assert "stablehlo.dot_general" in text


def test_products_of_float32_keep_all_bits_on_every_platform(golden: Golden) -> None:
    for name in TOWERS:
        text = (golden.path / f"programs/{name}.stablehlo.mlir").read_text()
        products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
        of_float32 = [line for line in products if re.search(r"\(tensor<[^>]*xf32>,", line)]
        assert of_float32
        assert all("precision = [HIGHEST, HIGHEST]" in line for line in of_float32)


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> Loaded:
    return load_checkpoint(tiny_checkpoint)


def test_exporting_twice_gives_the_same_bytes(tiny: Loaded) -> None:
    for program, again in zip(tiny.programs, tiny.programs, strict=True):
        first, second = program.export(), again.export()
        assert first.serialize() == second.serialize()
        assert first.mlir_module() == second.mlir_module()


def test_exporting_leaves_the_settings_of_jax_as_they_were() -> None:
    names = (
        "jax_include_full_tracebacks_in_locations",
        "jax_traceback_in_locations_limit",
        "jax_default_matmul_precision",
    )
    before = [getattr(jax.config, name) for name in names]
    with pytest.raises(KeyError), lowering():
        assert [getattr(jax.config, name) for name in names] != before
        raise KeyError
    assert [getattr(jax.config, name) for name in names] == before


def _small(num_actions: int, tmp_path: Path) -> Loaded:
    return load_checkpoint(tiny_files(num_actions=num_actions).write(tmp_path / "checkpoint"))


def _compare(loaded: Loaded, inputs: Arrays) -> npt.NDArray[Any]:
    """Check the user program against the model; return its representations."""
    users, _ = loaded.programs
    found = loaded.call(users.export().call, users, inputs)
    model = run_user_model(loaded, inputs)
    np.testing.assert_allclose(
        found["user_representation"], model.user_representation, rtol=0, atol=2e-6
    )
    np.testing.assert_allclose(found["user_norm"], model.user_norm, rtol=2e-6)
    return found["user_representation"]


@pytest.mark.parametrize("num_actions", [19, 40])
def test_every_bit_of_an_action_mask_is_its_own_action(num_actions: int, tmp_path: Path) -> None:
    loaded = _small(num_actions, tmp_path)
    post = {"post_id": 5, "author_id": 7}
    users: list[User] = [
        {"user_id": 3, "history": [post | {"actions": {str(action): 1.0}}]}
        for action in range(num_actions)
    ]
    users.append({"user_id": 3, "history": [post | {"actions": {}}]})
    inputs = user_inputs(users, 2, loaded.hashes, 11)
    if num_actions > 32:
        assert inputs["history_action_words"][32, 0].tolist() == [0, 1]
    found = _compare(loaded, inputs)
    assert _least_distance(found) > 1e-3
    _compare(loaded, user_inputs(random_users(5, 3, num_actions), 3, loaded.hashes, 11))


def _least_distance(vectors: npt.NDArray[Any]) -> float:
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    return distances[~np.eye(len(vectors), dtype=bool)].min()


def test_product_surfaces_change_the_answer(tiny: Loaded) -> None:
    inputs = user_inputs(random_users(1, 2, 19) * 17, 2, tiny.hashes, 11)
    inputs["history_product_surfaces"][:, 1] = np.arange(17)
    assert _least_distance(_compare(tiny, inputs)) > 1e-3


def test_row_0_does_not_change_an_answer(tiny: Loaded) -> None:
    users = random_users(3, 4, 19)
    users.append({"user_id": 0, "history": users[0]["history"][:2]})
    users.append({"user_id": 9, "history": []})
    inputs = user_inputs(users, 6, tiny.hashes, 11)
    posts = {"post_rows": np.array([[1, 2], [0, 0], [3, 0]], np.int32)}
    posts["author_rows"] = np.array([[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [5, 0, 4, 3, 2]], np.int32)
    poisoned = Loaded(tiny.config, tiny.hashes, tiny.weights, {})
    for name, table in tiny.tables.items():
        poisoned.tables[name] = np.concatenate([np.full_like(table[:1], np.nan), table[1:]])
    for program, case in zip(tiny.programs, (inputs, posts), strict=True):
        call = program.export().call
        found, clean = poisoned.call(call, program, case), tiny.call(call, program, case)
        for name, values in found.items():
            assert np.isfinite(values).all()
            np.testing.assert_array_equal(values, clean[name])


def test_rows_outside_a_table_are_clipped_not_nan(tiny: Loaded) -> None:
    _, program = tiny.programs
    rows = {
        "post_rows": np.full((1, 2), 2**31 - 1, np.int32),
        "author_rows": np.full((1, 5), 10**6, np.int32),
    }
    found = tiny.call(program.export().call, program, rows)["candidate_representation"]
    assert np.isfinite(found).all()


def test_a_call_with_inputs_of_another_shape_is_refused(tiny: Loaded) -> None:
    program, _ = tiny.programs
    inputs = user_inputs(random_users(2, 3, 19), 3, tiny.hashes, 11)
    inputs["history_product_surfaces"] = inputs["history_product_surfaces"][:, :2]
    with pytest.raises(ValueError, match="s"):
        tiny.call(program.export().call, program, jax.tree.map(jnp.asarray, inputs))
