from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from export.cases import TINY, VOCABULARIES, Files, tiny_files
from phoenix_export.checkpoint import CONFIG, PARAMS, TABLES, open_checkpoint
from phoenix_export.errors import CheckpointError
from phoenix_model import HashConfig, parameter_shapes

DTYPE = "float32"


def _problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, DTYPE)
    message = str(caught.value)
    assert str(caught.value.path) in message
    assert all(problem in message for problem in caught.value.problems)
    return caught.value.problems


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_published_layout_opens(golden_layout: Path, dtype: str) -> None:
    checkpoint = open_checkpoint(golden_layout, dtype)
    model = checkpoint.model
    assert model.fprop_dtype == jnp.dtype(dtype)
    assert (model.emb_size, model.history_seq_len, model.candidate_seq_len) == (128, 127, 64)
    assert (model.num_actions, model.product_surface_vocab_size) == (19, 16)
    assert (model.model.num_layers, model.model.key_size) == (4, 32)
    assert (model.model.num_q_heads, model.model.num_kv_heads) == (4, 4)
    assert (model.model.widening_factor, model.model.attn_output_multiplier) == (2.0, 0.125)
    assert checkpoint.table_shapes == {
        "user_embeddings": (1021, 128),
        "item_embeddings": (2039, 128),
        "author_embeddings": (509, 128),
    }
    assert checkpoint.hashes["user"].scales == (3671844754156498391, 311157260210169801)
    assert checkpoint.hashes["item"].biases == (1774378200072949801, 1887432714668500512)
    assert checkpoint.hashes["author"].modulus == 2**61 - 1


def test_every_key_of_the_configuration_is_read(files: Files, tmp_path: Path) -> None:
    files.config |= {"widening_factor": 3, "attn_output_multiplier": 0.5}
    for layer in ("linear", "linear_v"):  # widening 3: F = 13*3*2//3 = 26, rounded up to 32
        files.params[f"transformer/decoder_layer_0/{layer}/w"] = np.ones((13, 32), np.float32)
    files.params["transformer/decoder_layer_0/linear_1/w"] = np.ones((32, 13), np.float32)
    checkpoint = open_checkpoint(files.write(tmp_path / "checkpoint"), DTYPE)
    model = checkpoint.model
    assert (model.emb_size, model.history_seq_len, model.candidate_seq_len) == (13, 11, 7)
    assert (model.num_actions, model.product_surface_vocab_size) == (19, 17)
    assert (model.model.num_layers, model.model.num_q_heads, model.model.key_size) == (1, 3, 6)
    assert (model.model.widening_factor, model.model.attn_output_multiplier) == (3.0, 0.5)
    assert model.hash_config == HashConfig(
        num_user_hashes=4, num_item_hashes=2, num_author_hashes=5
    )
    for entity, rows in VOCABULARIES.items():
        functions = checkpoint.hashes[entity]
        assert list(functions.scales) == TINY["hash_params"][f"{entity}_hash_scales"]
        assert list(functions.biases) == TINY["hash_params"][f"{entity}_biases"]
        assert functions.modulus == TINY["hash_params"][f"{entity}_modulus"]
        assert functions.vocab_size == rows


def test_parameters_and_tables_read_as_they_were_written(
    files: Files, tiny_checkpoint: Path
) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint, DTYPE)
    assert checkpoint.parameter_shapes == parameter_shapes(checkpoint.model)
    for name, shape in checkpoint.parameter_shapes.items():
        found = np.concatenate(list(checkpoint.parameter(name))).reshape(shape)
        np.testing.assert_array_equal(found, files.params[name], strict=True)
    for name, shape in checkpoint.table_shapes.items():
        found = np.concatenate(list(checkpoint.table(name))).reshape(shape)
        np.testing.assert_array_equal(found, files.tables[name], strict=True)


def test_product_surfaces_default_to_16(files: Files, tmp_path: Path) -> None:
    del files.config["product_surface_vocab_size"]
    table = "phoenix_retrieval_model/product_surface_embedding_table"
    files.params[table] = files.params[table][:16]
    checkpoint = open_checkpoint(files.write(tmp_path / "checkpoint"), DTYPE)
    assert checkpoint.model.product_surface_vocab_size == 16


def test_the_training_temperature_is_ignored(files: Files, tmp_path: Path) -> None:
    files.params["~/log_temperature"] = np.array(0.5, np.float64)
    checkpoint = open_checkpoint(files.write(tmp_path / "checkpoint"), DTYPE)
    assert not any("log_temperature" in name for name in checkpoint.parameter_shapes)


def test_compressed_files_open(files: Files, tmp_path: Path) -> None:
    path = files.write(tmp_path / "checkpoint")
    np.savez_compressed(path / PARAMS, allow_pickle=False, **files.params)
    np.savez_compressed(path / TABLES, allow_pickle=False, **files.tables)
    checkpoint = open_checkpoint(path, DTYPE)
    found = np.concatenate(list(checkpoint.table("item_embeddings")))
    np.testing.assert_array_equal(found, files.tables["item_embeddings"].ravel())


def test_every_problem_of_the_arrays_is_listed_at_once(files: Files, tmp_path: Path) -> None:
    model, layer = "phoenix_retrieval_model", "transformer/decoder_layer_0"
    tower = f"{model}/~build_candidate_representation/candidate_tower"
    params, tables = files.params, files.tables
    del params[f"{model}/action_projection"]
    params[f"{model}/proj_mat_2"] = np.ones((3, 3), np.float32)
    params[f"{model}/proj_mat_1"] = params[f"{model}/proj_mat_1"].T.copy()
    params[f"{layer}/rms_norm/scale"] = params[f"{layer}/rms_norm/scale"].astype(np.float64)
    params[f"{layer}/linear/w"] = params[f"{layer}/linear/w"].astype(">f4")
    params[f"{layer}/linear_1/w"] = np.asfortranarray(params[f"{layer}/linear_1/w"])
    params[f"{tower}/candidate_tower_projection_2"] = np.zeros(3, np.int8)
    del tables["author_embeddings"]
    tables["item_embeddings"] = tables["item_embeddings"][:-1]
    tables["post_embeddings"] = tables["user_embeddings"]
    path = files.write(tmp_path / "checkpoint")
    assert sorted(_problems(path)) == sorted(
        [
            f"{PARAMS}: {model}/action_projection: missing",
            f"{PARAMS}: {model}/proj_mat_2: the model that config.json describes has no such array",
            f"{PARAMS}: {model}/proj_mat_1: has shape (13, 52), config.json asks for (52, 13)",
            f"{PARAMS}: {layer}/rms_norm/scale: is float64, should be float32",
            f"{PARAMS}: {layer}/linear/w: is >f4, should be float32",
            f"{PARAMS}: {layer}/linear_1/w: is stored in Fortran order; save it with "
            "numpy.ascontiguousarray",
            f"{PARAMS}: {tower}/candidate_tower_projection_2: is int8, should be float32",
            f"{PARAMS}: {tower}/candidate_tower_projection_2: has shape (3,), config.json asks for "
            "(26, 13)",
            f"{TABLES}: author_embeddings: missing",
            f"{TABLES}: item_embeddings: has shape (30, 13), config.json asks for (31, 13)",
            f"{TABLES}: post_embeddings: the model that config.json describes has no such array",
        ]
    )


@pytest.mark.parametrize("file", [CONFIG, PARAMS, TABLES])
def test_a_missing_file_is_named(tiny_checkpoint: Path, tmp_path: Path, file: str) -> None:
    path = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    (path / file).unlink()
    with pytest.raises(CheckpointError, match="missing") as caught:
        open_checkpoint(path, DTYPE)
    assert file in str(caught.value)
    assert len(caught.value.problems) == 1


def test_two_missing_files_are_both_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    (path / PARAMS).unlink()
    (path / TABLES).unlink()
    assert _problems(path) == (f"{PARAMS}: missing", f"{TABLES}: missing")


@pytest.mark.parametrize("file", [PARAMS, TABLES])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, file: str, kept: float
) -> None:
    path = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    content = (path / file).read_bytes()
    (path / file).write_bytes(content[: int(len(content) * kept)])
    (problem,) = _problems(path)
    assert problem.startswith(f"{file}: truncated, damaged or no .npz: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON: Expecting property name"),
        ("", "cannot be read as JSON: Expecting value"),
        ("[1]", "is not a JSON object"),
        ("[" * 100_000, "cannot be read as JSON: is nested too deeply"),
        ('{"emb_size": ' + "[" * 100_000, "cannot be read as JSON: is nested too deeply"),
        ('{"a": 1, "b": 2, "a": 1}', "cannot be read as JSON: the key 'a' occurs twice"),
        ('{"hash_params": {"a": 1, "a": 2}}', "cannot be read as JSON: the key 'a' occurs twice"),
    ],
)
def test_a_configuration_that_is_not_a_json_object_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, text: str, message: str
) -> None:
    path = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    (path / CONFIG).write_text(text)
    (problem,) = _problems(path)
    assert problem.startswith(message)


def test_a_configuration_that_is_not_text_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    (path / CONFIG).write_bytes(b"\xff\xfe")
    (problem,) = _problems(path)
    assert problem.startswith("cannot be read as JSON: ")


def _config_problems(tmp_path: Path, config: dict[str, Any]) -> tuple[str, ...]:
    (tmp_path / CONFIG).parent.mkdir(parents=True)
    (tmp_path / CONFIG).write_text(json.dumps(config))
    return _problems(tmp_path)


REQUIRED = sorted(TINY.keys() - {"hash_params", "product_surface_vocab_size"})


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named_once(files: Files, tmp_path: Path, key: str) -> None:
    del files.config[key]
    (problem,) = _config_problems(tmp_path, files.config)
    assert problem.startswith(f"{key}: missing, should be an integer from ")


@pytest.mark.parametrize("key", [*REQUIRED, "product_surface_vocab_size"])
@pytest.mark.parametrize("value", [0, -1, 2**40, 2.0, "2", True, None, [2]])
def test_a_size_of_the_wrong_kind_is_refused(
    files: Files, tmp_path: Path, key: str, value: object
) -> None:
    files.config[key] = value
    (problem,) = _config_problems(tmp_path, files.config)
    assert problem.startswith(f"{key}: is {value!r}, should be an integer from ")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_actions": 65}, "num_actions: is 65, should be an integer from 1 to 64"),
        ({"key_size": 7}, "key_size: is 7, should be even"),
        (
            {"item_vocab_size": 1},
            "item_vocab_size: is 1, should be an integer from 2 to 2147483648",
        ),
        (
            {"widening_factor": "2"},
            "widening_factor: is '2', should be a number above 0, and finite",
        ),
        ({"widening_factor": 1e308}, "widening_factor: is 1e+308, should be a number"),
        ({"widening_factor": 10**400}, "widening_factor: is 10000"),
        ({"widening_factor": 1e-9}, "widening_factor 1e-09 leaves no feed-forward width"),
        ({"num_layers": 1025}, "num_layers: is 1025, should be an integer from 1 to 1024"),
        ({"attn_output_multiplier": 10**400}, "attn_output_multiplier: is 10000"),
        ({"attn_output_multiplier": 1e300}, "attn_output_multiplier: is 1e+300, should be a"),
        ({"attn_output_multiplier": 1e-300}, "attn_output_multiplier: is 1e-300, should be a"),
        ({"attn_output_multiplier": 0}, "attn_output_multiplier: is 0, should be a number"),
        ({"attn_output_multiplier": float("nan")}, "attn_output_multiplier: is nan, should be a"),
        ({"attn_output_multiplier": float("inf")}, "attn_output_multiplier: is inf, should be a"),
    ],
)
def test_a_value_that_the_model_cannot_have_is_refused(
    files: Files, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    (problem,) = _config_problems(tmp_path, files.config | changes)
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    "value",
    [[[]] * 10_000, "x" * 10_000, 10**4000, {"x" * 10_000: 1}],
    ids=["list", "string", "integer", "object"],
)
@pytest.mark.parametrize("key", ["emb_size", "causal"])
def test_a_large_value_is_refused_in_few_words(
    files: Files, tmp_path: Path, key: str, value: object
) -> None:
    files.config[key] = value
    (problem,) = _config_problems(tmp_path, files.config)
    assert problem.startswith(f"{key}: is ") and len(problem) < 200


def test_the_largest_multiplier_of_float32_fits(files: Files, tmp_path: Path) -> None:
    largest = float(np.finfo(np.float32).max)
    files.config["attn_output_multiplier"] = largest
    checkpoint = open_checkpoint(files.write(tmp_path / "checkpoint"), DTYPE)
    assert checkpoint.model.model.attn_output_multiplier == largest


def test_64_actions_fit(tmp_path: Path) -> None:
    path = tiny_files(num_actions=64).write(tmp_path / "checkpoint")
    assert open_checkpoint(path, DTYPE).model.num_actions == 64


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("item_hash_scales", [1], "2 integers of 64 bits, signed"),
        ("item_hash_scales", [1, 2, 3], "2 integers of 64 bits, signed"),
        ("item_hash_scales", [1, 2**63], "2 integers of 64 bits, signed"),
        ("item_hash_scales", [1, -(2**63) - 1], "2 integers of 64 bits, signed"),
        ("item_hash_scales", [1, 2.0], "2 integers of 64 bits, signed"),
        ("item_hash_scales", [1, True], "2 integers of 64 bits, signed"),
        ("item_hash_scales", 7, "2 integers of 64 bits, signed"),
        ("author_biases", [1, 2], "5 integers of 64 bits, signed"),
        ("author_biases", None, "5 integers of 64 bits, signed"),
        ("user_modulus", 0, f"an integer from 1 to {2**63 - 1}"),
        ("user_modulus", -7, f"an integer from 1 to {2**63 - 1}"),
        ("user_modulus", 2**63, f"an integer from 1 to {2**63 - 1}"),
        ("user_modulus", [7], f"an integer from 1 to {2**63 - 1}"),
    ],
)
def test_hash_constants_of_the_wrong_kind_are_refused(
    files: Files, tmp_path: Path, key: str, value: object, wanted: str
) -> None:
    files.config["hash_params"][key] = value
    assert _config_problems(tmp_path, files.config) == (
        f"hash_params.{key}: is {value!r}, should be {wanted}",
    )


@pytest.mark.parametrize("alone", [False, True])
def test_a_hash_constant_beside_hash_params_is_refused(
    files: Files, tmp_path: Path, alone: bool
) -> None:
    key, constants = "hash_params.user_modulus", files.config["hash_params"]
    files.config[key] = constants.pop("user_modulus") if alone else 7
    problems = _config_problems(tmp_path, files.config)
    assert f"{key}: the model has no such setting" in problems
    assert len(problems) == 1 + alone  # alone, it is missing in hash_params as well


@pytest.mark.parametrize("hash_params", [None, [], "no object"])
def test_every_missing_hash_constant_is_named(
    files: Files, tmp_path: Path, hash_params: object
) -> None:
    files.config["hash_params"] = hash_params
    problems = _config_problems(tmp_path, files.config)
    assert [problem.partition(": missing, should be ")[0] for problem in problems] == [
        f"hash_params.{entity}_{kind}"
        for entity in ("user", "item", "author")
        for kind in ("hash_scales", "biases", "modulus")
    ]


def test_a_name_cannot_forge_lines_or_control_a_terminal(files: Files, tmp_path: Path) -> None:
    files.config["cau\nerror: no\x1b[2J\u2028"] = 1
    files.config["hash_params"]["\r\x9b"] = 1
    assert _problems(files.write(tmp_path / "key")) == (
        r"cau\nerror: no\x1b[2J\u2028: the model has no such setting",
        r"hash_params.\r\x9b: the model has no such setting",
    )


def test_an_array_name_cannot_either(files: Files, tmp_path: Path) -> None:
    files.params["b\nerror: no"] = np.ones(1, np.float32)
    assert _problems(files.write(tmp_path / "checkpoint")) == (
        rf"{PARAMS}: b\nerror: no: the model that config.json describes has no such array",
    )


def test_every_problem_of_the_configuration_is_listed_at_once(files: Files, tmp_path: Path) -> None:
    config = files.config
    del config["emb_size"], config["num_item_hashes"], config["hash_params"]["user_biases"]
    config |= {"key_size": 5, "num_actions": 100, "author_vocab_size": 1, "widening_factor": -1}
    config["hash_params"]["author_modulus"] = 0
    problems = _config_problems(tmp_path, config)
    assert sorted(problem.partition(":")[0] for problem in problems) == sorted(
        [
            "emb_size",
            "num_item_hashes",
            "hash_params.user_biases",
            "key_size",
            "num_actions",
            "author_vocab_size",
            "widening_factor",
            "hash_params.author_modulus",
        ]
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [0, 17, 31 * 13 - 1])
def test_a_value_that_is_not_finite_is_named_with_its_index(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, index: int
) -> None:
    monkeypatch.setattr("phoenix_export.arrays._PIECE_BYTES", 64)
    weight = "transformer/decoder_layer_0/linear_v/w"
    files.tables["item_embeddings"].flat[index] = value
    files.params[weight].flat[[5, 60]] = value
    checkpoint = open_checkpoint(files.write(tmp_path / "checkpoint"), DTYPE)
    with pytest.raises(CheckpointError) as in_table:
        list(checkpoint.table("item_embeddings"))
    assert in_table.value.path == tmp_path / "checkpoint" / TABLES
    assert in_table.value.problems == (f"item_embeddings: holds {value} at flat index {index}",)
    with pytest.raises(CheckpointError) as in_weight:
        list(checkpoint.parameter(weight))
    assert in_weight.value.path == tmp_path / "checkpoint" / PARAMS
    assert in_weight.value.problems == (f"{weight}: holds {value} at flat index 5",)
