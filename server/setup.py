"""Builds the native search. The rest of the build is in pyproject.toml.

Without a C++ compiler the installation succeeds; the server then searches with XLA's own code.
"""

import platform
import re
from pathlib import Path

import jaxlib
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("src/phoenix_server/search/native")
FLAGS = [
    *("-std=c++17", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"),
    # A score has the same bits on every CPU: nothing is fused but what says so.
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
]
_X86 = ("amx.cc", "avx512_vnni.cc", "avx_vnni.cc", "avx2.cc")
_ARM = ("neon_dot.cc",)
VARIANTS = {"x86_64": _X86, "aarch64": _ARM, "arm64": _ARM}
COMMON = ("handlers.cc", "top_k.cc", "variants.cc", "portable.cc")


def flags_of(source: str) -> list[str]:
    """Return the flags that a source asks for in its first lines."""
    found = re.search(r"^// Compile with: (.*)$", Path(source).read_text(), re.MULTILINE)
    return found[1].split() if found else []


class BuildNative(build_ext):
    """Compiles each variant with the flags of its instruction set."""

    def build_extension(self, ext: Extension) -> None:
        """Compile and link the library."""
        objects: list[str] = []
        for source in ext.sources:
            objects += self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                include_dirs=ext.include_dirs,
                extra_postargs=[*FLAGS, *flags_of(source)],
                depends=ext.depends,
            )
        path = self.get_ext_fullpath(ext.name)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(objects, path, target_lang="c++")


setup(
    cmdclass={"build_ext": BuildNative},
    ext_modules=[
        Extension(
            "phoenix_server.search.native._native",
            [str(NATIVE / name) for name in (*COMMON, *VARIANTS.get(platform.machine(), ()))],
            include_dirs=[str(Path(jaxlib.__file__).parent / "include")],
            depends=[str(path) for path in sorted(NATIVE.glob("*.h"))],
            optional=True,
        )
    ],
)
