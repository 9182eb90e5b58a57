"""Write the towers as a TensorFlow SavedModel."""

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phoenix_export.errors import ExportError
from phoenix_export.programs import PLATFORMS, TowerProgram, lowering


def require_tensorflow() -> None:
    """Check that TensorFlow is installed.

    Raises:
        ExportError: It is not.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise ExportError(
            "a SavedModel needs TensorFlow: install phoenix-export[tensorflow], or pass "
            "--no-saved-model"
        )


def write_saved_model(
    out: Path,
    towers: Mapping[str, TowerProgram],
    weights: Callable[[str], npt.NDArray[np.float32]],
    tables: Callable[[str], npt.NDArray[np.float32]],
) -> None:
    """Write a SavedModel with one signature per tower.

    A signature maps the tower's inputs to its outputs by name. Weights and tables are variables
    that both towers share.

    Args:
        out: The directory to write.
        towers: The towers by signature.
        weights: Returns a parameter by flat name.
        tables: Returns an embedding table by name.
    """
    # TensorFlow reads these when imported; without the second it prints a notice to stderr.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    tf: Any = importlib.import_module("tensorflow")
    jax2tf: Any = importlib.import_module("jax.experimental.jax2tf")

    module: Any = tf.Module()
    for kind, read in (("weights", weights), ("tables", tables)):
        names = sorted({name for tower in towers.values() for name in getattr(tower, kind)})
        setattr(module, kind, {name: tf.Variable(read(name), trainable=False) for name in names})
    signatures = {
        name: _signature(tf, jax2tf, tower, module.weights, module.tables)
        for name, tower in towers.items()
    }
    tf.saved_model.save(module, str(out), signatures=signatures)


def _signature(
    tf: Any, jax2tf: Any, tower: TowerProgram, weights: Mapping[str, Any], tables: Mapping[str, Any]
) -> Any:
    def shapes(specs: Mapping[str, Any]) -> dict[str, str]:
        return {name: f"({', '.join(map(str, spec.shape))})" for name, spec in specs.items()}

    converted = jax2tf.convert(
        tower.function,
        polymorphic_shapes=[shapes(tower.weights), shapes(tower.tables), shapes(tower.inputs)],
        native_serialization_platforms=PLATFORMS,
        with_gradient=False,
    )

    def serve(**inputs: Any) -> Any:
        return converted(
            {name: weights[name] for name in tower.weights},
            {name: tables[name] for name in tower.tables},
            inputs,
        )

    specs = {
        name: tf.TensorSpec(
            [size if isinstance(size, int) else None for size in spec.shape],
            tf.as_dtype(spec.dtype),
            name,
        )
        for name, spec in tower.inputs.items()
    }
    with lowering():
        return tf.function(serve, autograph=False).get_concrete_function(**specs)
