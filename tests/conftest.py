"""What several folders share: eight CPU devices, the golden checkpoint, and what is made of it."""

import tempfile
from pathlib import Path

import jax
import pytest

from phoenix_export.bundle import write_bundle
from phoenix_export.checkpoint import open_checkpoint
from phoenix_server.build.import_npz import import_corpus
from phoenix_server.bundle.bundle import open_bundle

# Before anything looks at a device: afterwards JAX refuses.
jax.config.update("jax_num_cpu_devices", 8)


def pytest_configure(config: pytest.Config) -> None:
    """Have what one test compiles loaded by the others, as servers load what is compiled ahead.

    Many engines are of the same sizes. Loaded programs are the compiled ones, bit for bit, and
    count as compiled (`CompileCounter.total`).
    """
    folder = tempfile.TemporaryDirectory(prefix="compiled-")
    config.add_cleanup(folder.cleanup)
    jax.config.update("jax_compilation_cache_dir", folder.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)  # else not worth a file
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    # What is read while another thread writes it is compiled too.
    config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation cache")


def _bundle(layout: Path, out: Path, dtype: str) -> Path:
    write_bundle(open_checkpoint(layout, dtype), out, saved_model=False)
    return out


@pytest.fixture(scope="session")
def golden_layout() -> Path:
    """Return a small checkpoint in the published layout, with its corpus and answers."""
    return Path(__file__).parent / "golden" / "published_layout"


@pytest.fixture(scope="session")
def bundle_f32(golden_layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of the golden checkpoint, computing in float32. Read-only."""
    return _bundle(golden_layout, tmp_path_factory.mktemp("f32") / "bundle", "float32")


@pytest.fixture(scope="session")
def bundle_bf16(golden_layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of the golden checkpoint, computing in bfloat16. Read-only."""
    return _bundle(golden_layout, tmp_path_factory.mktemp("bf16") / "bundle", "bfloat16")


@pytest.fixture(scope="session")
def golden_corpus(
    golden_layout: Path, bundle_f32: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the golden posts as a corpus of `bundle_f32`. Read-only."""
    out = tmp_path_factory.mktemp("golden") / "corpus"
    import_corpus(golden_layout / "sports_corpus.npz", open_bundle(bundle_f32), out)
    return out
