"""What all tests share: eight CPU devices, a cache of compiled programs, the golden checkpoint."""

import logging
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import jax
import pytest
from hypothesis import HealthCheck, settings

from golden_artifacts import import_golden_corpus, write_golden_bundle

# Before anything looks at a device: afterwards JAX refuses.
jax.config.update("jax_num_cpu_devices", 8)

# However busy the machine is: an example has no time limit, and neither has drawing it.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

_CACHE = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    # XLA's own caches would put the directory's name into every program's key.
    "jax_persistent_cache_enable_xla_caches": "none",
}


def pytest_configure(config: pytest.Config) -> None:
    """Share compiled programs among all tests, the workers of pytest-xdist and their servers.

    Many engines are of the same sizes. Loaded programs are the compiled ones, bit for bit, and
    count as compiled (`CompileCounter.total`). JAX in other processes reads the same settings from
    the environment; a server whose bundle has programs compiled ahead uses those instead.
    """
    directory = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if directory is None:
        folder = tempfile.TemporaryDirectory(prefix="compiled-")
        config.add_cleanup(folder.cleanup)
        directory = os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
        os.environ |= {name.upper(): str(value) for name, value in _CACHE.items()}
    jax.config.update("jax_compilation_cache_dir", directory)
    for name, value in _CACHE.items():
        jax.config.update(name, value)
    # A program is compiled if its file is read while another thread or process writes it.
    config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation cache")


@pytest.fixture(autouse=True)
def unchanged_process() -> Generator[None]:
    """Fail a test that leaves settings of the process changed: the order of tests is not fixed."""
    before = _process_settings()
    yield
    assert _process_settings() == before


def _process_settings() -> dict[str, object]:
    ours = [name for name in logging.root.manager.loggerDict if name.startswith("phoenix")]
    return {
        "working directory": Path.cwd(),
        # Libraries set variables of their own where a test is the first to import them.
        "environment": {k: v for k, v in os.environ.items() if k.startswith(("PHOENIX_", "JAX_"))},
        "disabled log levels": logging.root.manager.disable,
        "log levels": {name: level for name in ours if (level := logging.getLogger(name).level)},
        "compiled programs": jax.config.values["jax_compilation_cache_dir"],
    }


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of this run, which the workers of pytest-xdist share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def golden_layout() -> Path:
    """Return a small checkpoint in the published layout, with its corpus and answers."""
    return Path(__file__).parent / "golden" / "published_layout"


@pytest.fixture(scope="session")
def bundle_f32(golden_layout: Path, shared_folder: Path) -> Path:
    """Return a bundle of the golden checkpoint, computing in float32. Read-only."""
    return write_golden_bundle(golden_layout, "float32", shared_folder / "bundle_f32")


@pytest.fixture(scope="session")
def bundle_bf16(golden_layout: Path, shared_folder: Path) -> Path:
    """Return a bundle of the golden checkpoint, computing in bfloat16. Read-only."""
    return write_golden_bundle(golden_layout, "bfloat16", shared_folder / "bundle_bf16")


@pytest.fixture(scope="session")
def golden_corpus(
    golden_layout: Path,
    bundle_f32: Path,
    shared_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return the golden posts as a corpus of `bundle_f32`. Read-only.

    Each worker has a copy: a server may have it open for changes.
    """
    made = import_golden_corpus(golden_layout, bundle_f32, shared_folder / "corpus_f32")
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("golden") / "corpus"))
