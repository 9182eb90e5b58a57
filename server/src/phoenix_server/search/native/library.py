"""The native library: its custom calls are registered with JAX, and its variants have names.

A variant is the same search for another instruction set; all give the same bits.
"""

import ctypes
import functools
import importlib.util

import jax

from phoenix_server.errors import StartupError

_EXTENSION = "phoenix_server.search.native._native"
_CUSTOM_CALLS = ("phoenix_top_k", "phoenix_scores", "phoenix_encode", "phoenix_write")


def variants(width: int) -> list[str]:
    """Return the variants that this CPU can run for vectors of a width, the fastest first.

    Raises:
        StartupError: The library is not installed or cannot be loaded; says why.
    """
    variant = _library().phoenix_variant
    names: list[str] = []
    while (name := variant(ctypes.c_int64(len(names)), ctypes.c_int64(width))) is not None:
        names.append(name.decode())
    return names


@functools.cache
def _library() -> ctypes.CDLL:
    """Load the library once, and register its custom calls."""
    spec = importlib.util.find_spec(_EXTENSION)
    if spec is None or spec.origin is None:
        raise StartupError(
            "the native search was not built when phoenix-server was installed: it needs g++ 11 or "
            "newer, or clang++; install one, and reinstall phoenix-server"
        )
    try:
        library = ctypes.CDLL(spec.origin)
        for name in _CUSTOM_CALLS:
            call = jax.ffi.pycapsule(getattr(library, name))
            jax.ffi.register_ffi_target(name, call, platform="cpu")
    except (OSError, RuntimeError) as exc:
        raise StartupError(
            f"the native search cannot be loaded, reinstall phoenix-server: {exc}"
        ) from exc
    library.phoenix_variant.restype = ctypes.c_char_p
    return library
