"""`phoenix-server serve`."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import CycloptsError

from phoenix_server.config import FLAT, LOGGING, SOURCES, ServeConfig, ServeOptions


def serve(
    *,
    bundle: Annotated[Path | None, SOURCES] = None,
    options: Annotated[ServeOptions, FLAT],
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], LOGGING] = "INFO",
) -> None:
    """Serve a bundle and a corpus over gRPC until SIGTERM.

    Args:
        bundle: Directory of the bundle. Default: the newest in the directory to watch.
        options: Everything else.
        log_level: Least severe messages to log, on standard error.
    """
    from phoenix_server.generations.sources import Sources
    from phoenix_server.generations.watcher import first_bundle

    logging.getLogger("phoenix_server").setLevel(log_level)
    if bundle is None:
        if options.watch is None:
            raise CycloptsError(msg="--bundle: is missing; give it, or --watch")
        bundle = first_bundle(options.watch)
    config = ServeConfig(bundle=bundle, **vars(options))
    if config.watch is not None:
        config = replace(config, encode_anew=True)
    sources = Sources(
        read_only=config.read_only,
        encode_anew=config.encode_anew,
        trusted_key=config.trusted_key,
    )
    try:
        first = sources.open(bundle, config.corpus)  # verified in threads while JAX is imported
        from phoenix_server.process import serve

        asyncio.run(serve(config, sources, first))
    finally:
        sources.close()
