from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from commands import run_program
from export.cases import Arrays, load_bundle, load_program, random_users, read_manifest, user_inputs
from phoenix_export.bundle import write_bundle
from phoenix_export.checkpoint import open_checkpoint
from phoenix_export.errors import ExportError

# Calls both signatures of a SavedModel on the arrays of some files, with TensorFlow alone.
CONSUMER = """
import json, os, pathlib, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
for name in ("jax", "haiku", "phoenix_model", "phoenix_export"):
    sys.modules[name] = None
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
shapes = {
    name: {n: [str(d) for d in s.shape] for n, s in f.structured_input_signature[1].items()}
    for name, f in model.signatures.items()
}
for file in sys.argv[2:]:
    path = pathlib.Path(file)
    signature = model.signatures[path.name.partition(".")[0]]
    inputs = {name: tf.constant(value) for name, value in np.load(path).items()}
    outputs = signature(**inputs)
    np.savez(path.with_suffix(".out.npz"), **{n: v.numpy() for n, v in outputs.items()})
print(json.dumps(shapes))
"""


def test_the_saved_model_answers_as_the_programs(
    bundle_with_saved_model: Path, golden_layout: Path, tmp_path: Path
) -> None:
    loaded = load_bundle(bundle_with_saved_model, golden_layout)
    manifest = read_manifest(bundle_with_saved_model)
    rng = np.random.default_rng(0)
    cases: dict[str, Arrays] = {
        f"user_tower.{users}x{length}.npz": user_inputs(
            random_users(users, min(length, 5), 19), length, loaded.hashes, 127
        )
        for users, length in ((3, 7), (1, 2))
    } | {
        f"candidate_tower.{posts}.npz": {
            "post_rows": rng.integers(0, 2039, (posts, 2)).astype(np.int32),
            "author_rows": rng.integers(0, 509, (posts, 2)).astype(np.int32),
        }
        for posts in (1, 5)
    }
    for name, inputs in cases.items():
        np.savez(tmp_path / name, allow_pickle=False, **inputs)
    files = [tmp_path / name for name in cases]
    done = run_program(CONSUMER, bundle_with_saved_model / "saved_model", *files).checked()
    assert json.loads(done.out) == {
        tower: {
            array.name: [d if d.isdecimal() else "None" for d in array.dimensions]
            for array in getattr(manifest, tower).inputs
        }
        for tower in ("user_tower", "candidate_tower")
    }
    for name, inputs in cases.items():
        tower = name.partition(".")[0]
        exported = load_program(bundle_with_saved_model / f"programs/{tower}.jax")
        expected = loaded.call(exported.call, getattr(manifest, tower), inputs)
        with np.load((tmp_path / name).with_suffix(".out.npz")) as outputs:
            assert set(outputs) == expected.keys()
            for output, values in expected.items():
                assert outputs[output].dtype == values.dtype
                np.testing.assert_allclose(
                    outputs[output], values, rtol=2e-6, atol=2e-6, err_msg=output
                )


def test_the_saved_model_names_no_file_of_this_machine(bundle_with_saved_model: Path) -> None:
    content = (bundle_with_saved_model / "saved_model" / "saved_model.pb").read_bytes()
    assert b"user_tower" in content
    assert re.search(rb"\.py\b|site-packages", content) is None
    for path in (Path(__file__).parents[2], Path(sys.prefix), Path.home()):
        assert str(path).encode() not in content


def test_without_tensorflow_the_error_says_what_to_do(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    steps: list[str] = []
    with pytest.raises(ExportError, match=r"install phoenix-export\[tensorflow\], or pass --no-s"):
        write_bundle(
            open_checkpoint(tiny_checkpoint, "float32"),
            tmp_path / "1",
            saved_model=True,
            report=steps.append,
        )
    assert steps == []
    assert list(tmp_path.iterdir()) == []
