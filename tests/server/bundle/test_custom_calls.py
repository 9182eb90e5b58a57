"""Programs whose custom calls the server does not know are refused wherever a bundle is opened."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import export

from phoenix_server.bundle.bundle import open_bundle, verify
from phoenix_server.bundle.custom_calls import unknown_custom_calls
from phoenix_server.bundle.towers import Towers
from phoenix_server.errors import BundleError
from server.cases import copied, resum

_TARGET = "anything_else"


def _call(x: jax.Array) -> jax.Array:
    return jax.ffi.ffi_call(_TARGET, jax.ShapeDtypeStruct((), jnp.float32))(x)


def _at_top(x: jax.Array) -> jax.Array:
    return _call(x)


def _in_function(x: jax.Array) -> jax.Array:
    return jax.jit(_call)(x)


def _in_branch(x: jax.Array) -> jax.Array:
    return jax.lax.cond(x > 0, _call, lambda x: x, x)


def _in_loop(x: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, 3, lambda _, x: jax.lax.cond(x > 0, _call, lambda x: x, x), x)


def _add_custom_call(path: Path, call: Callable[[jax.Array], jax.Array]) -> None:
    """Write a program again, so that it makes a custom call and its answers are as before."""
    exported: Any = export.deserialize(bytearray(path.read_bytes()))
    (arguments, _) = jax.tree.unflatten(exported.in_tree, exported.in_avals)

    def changed(weights: Any, tables: Any, inputs: Any) -> dict[str, jax.Array]:
        extra = 0 * call(jax.tree.leaves(weights)[0].reshape(-1)[0])
        return {k: v + extra for k, v in exported.call(weights, tables, inputs).items()}

    again = export.export(
        jax.jit(changed),
        platforms=exported.platforms,
        disabled_checks=[export.DisabledSafetyCheck.custom_call(_TARGET)],
    )(*(jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)))
    path.write_bytes(again.serialize())


@pytest.fixture
def bundle(bundle_f32: Path, tmp_path: Path) -> Path:
    """Return a bundle of one's own."""
    return copied(bundle_f32, tmp_path / "bundle")


def test_exported_towers_make_no_unknown_custom_call(bundle_f32: Path, bundle_bf16: Path) -> None:
    for path in (bundle_f32, bundle_bf16):
        opened = open_bundle(path)
        for program in (opened.manifest.user_tower, opened.manifest.candidate_tower):
            assert unknown_custom_calls(opened.load_program(program)) == []


@pytest.mark.parametrize("tower", ["user_tower", "candidate_tower"])
@pytest.mark.parametrize("call", [_at_top, _in_function, _in_branch, _in_loop])
def test_a_program_with_a_custom_call_is_refused(
    bundle: Path, tower: str, call: Callable[[jax.Array], jax.Array]
) -> None:
    path = bundle / "programs" / f"{tower}.jax"
    _add_custom_call(path, call)
    resum(bundle)
    opened = open_bundle(bundle)
    verify(opened)  # all sums hold
    with pytest.raises(BundleError) as caught:
        Towers(opened, jax.devices()[0])
    assert caught.value.path == path
    expected = f"makes the custom call {_TARGET}, which this server does not know"
    assert caught.value.reason == expected


def test_custom_calls_that_jax_itself_trusts_are_unknown() -> None:
    square = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    exported = export.export(jax.jit(jnp.linalg.cholesky), platforms=["cpu"])(square)
    assert unknown_custom_calls(exported) == ["lapack_spotrf_ffi"]
    exported = export.export(jax.jit(lambda x: x @ x), platforms=["cpu"])(square)
    assert unknown_custom_calls(exported) == []
