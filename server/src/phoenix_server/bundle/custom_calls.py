"""The custom calls of an exported program: native code that the program names and XLA runs.

Everything else in a program is arithmetic on its arguments. So a program may make only the custom
calls that `phoenix-export` writes.
"""

from collections.abc import Iterator

from jax import export
from jax.extend.mlir import ir
from jax.interpreters import mlir

# JAX evaluates it when it compiles, and removes it.
_KNOWN = frozenset({"shape_assertion"})


def unknown_custom_calls(exported: export.Exported) -> list[str]:
    """Return the targets of the custom calls that the server does not know, sorted.

    The program is read as JAX reads it to compile it, with the functions, branches and loops in it.

    Raises:
        Exception: JAX cannot read the program; MLIR raises many types.
    """
    with mlir.make_ir_context():
        module = exported.mlir_module(serialized=False)
        return sorted(set(_custom_calls(module.operation)) - _KNOWN)


def _custom_calls(operation: ir.Operation) -> Iterator[str]:
    if operation.name.endswith(".custom_call"):  # of StableHLO or another dialect
        yield ir.StringAttr(operation.attributes["call_target_name"]).value
    for region in operation.regions:
        for block in region:
            for inner in block:
                yield from _custom_calls(inner.operation)
