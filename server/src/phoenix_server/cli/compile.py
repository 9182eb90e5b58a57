"""`phoenix-server compile`."""

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from phoenix_server.bundle.bundle import Bundle
from phoenix_server.bundle.towers import Towers
from phoenix_server.cli.bundles import open_verified
from phoenix_server.cli.console import say
from phoenix_server.config import DEVICE, FLAT, TRUSTED_KEY, EngineConfig, ServeConfig
from phoenix_server.generations.loader import load_engine
from phoenix_server.runtime.devices import Device, choose_devices, split_cpu
from phoenix_server.runtime.persistent_cache import compiled_path, writing_compiled


def compile(
    *,
    bundle: Path,
    corpus: Path | None = None,
    trusted_key: Annotated[tuple[Path, ...], TRUSTED_KEY] = (),
    shards: Annotated[int | None, DEVICE, Parameter(validator=Number(gte=1))] = None,
    engine: Annotated[EngineConfig, DEVICE, FLAT] = EngineConfig(),  # noqa: B008 - frozen
) -> None:
    """Compile ahead for this machine, with the options that `serve` will have.

    Args:
        bundle: Directory of the bundle.
        corpus: Directory of the corpus to search. Default: compile the towers alone.
        trusted_key: PEM file of an Ed25519 public key. The bundle must be signed by such a key;
            repeat the option for several. Default: it need not be signed.
        shards: Devices to spread the corpus over. Default: all accelerators, or one CPU device.
        engine: Sizes to compile for.
    """
    began = time.monotonic()
    if shards is not None:
        split_cpu(shards)
    opened = open_verified(bundle, trusted_key)
    device = choose_devices(shards)[0]
    path = compiled_path(bundle, device)
    with writing_compiled(path, opened.trusted):
        if corpus is None:
            _compile_towers(opened, device, engine)
        else:
            config = ServeConfig(
                bundle=bundle,
                corpus=corpus,
                trusted_key=trusted_key,
                read_only=True,
                shards=shards,
                engine=engine,
            )
            load_engine(config, compile_all=True)
    say(f"Wrote {path} in {time.monotonic() - began:.1f} s.")
    if trusted_key:
        say("With --trusted-key, a server uses it once `phoenix-export sign` has signed it.")


def _compile_towers(bundle: Bundle, device: Device, config: EngineConfig) -> None:
    """Compile all programs of a bundle that do not depend on the corpus.

    Raises:
        BundleError: The bundle cannot be used, or fails its self-test.
    """
    towers = Towers(bundle, device)
    towers.compile_candidates(config.candidate_batch)
    for size in config.user_programs(bundle.manifest.model.history_length):
        towers.compile_users(*size)
    towers.self_test()
