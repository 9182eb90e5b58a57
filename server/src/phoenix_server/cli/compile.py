"""`phoenix-server compile`."""

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from phoenix_server.cli.bundles import open_verified
from phoenix_server.cli.console import say
from phoenix_server.config import DEVICE, FLAT, EngineConfig, ServeConfig
from phoenix_server.engine.engine import compile_towers
from phoenix_server.generations.loader import load_engine
from phoenix_server.runtime.devices import choose_devices, split_cpu
from phoenix_server.runtime.persistent_cache import compiled_path, writing_compiled


def compile(
    *,
    bundle: Path,
    corpus: Path | None = None,
    shards: Annotated[int | None, DEVICE, Parameter(validator=Number(gte=1))] = None,
    engine: Annotated[EngineConfig, DEVICE, FLAT] = EngineConfig(),  # noqa: B008 - frozen
) -> None:
    """Compile ahead for this machine, with the options that `serve` will have.

    Args:
        bundle: Directory of the bundle.
        corpus: Directory of the corpus to search. Default: compile the towers alone.
        shards: Devices to spread the corpus over. Default: all accelerators, or one CPU device.
        engine: Sizes to compile for.
    """
    began = time.monotonic()
    if shards is not None:
        split_cpu(shards)
    opened = open_verified(bundle)
    device = choose_devices(shards)[0]
    path = compiled_path(bundle, device)
    with writing_compiled(path):
        if corpus is None:
            compile_towers(opened, device, engine)
        else:
            config = ServeConfig(
                bundle=bundle, corpus=corpus, read_only=True, shards=shards, engine=engine
            )
            load_engine(config, compile_all=True)
    say(f"Wrote {path} in {time.monotonic() - began:.1f} s.")
