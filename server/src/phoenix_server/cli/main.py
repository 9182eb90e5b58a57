"""The command line, `phoenix-server`: serve, compile, import-corpus, build-corpus, inspect, ...

JAX takes seconds to import; commands do so themselves, once they have read what they were given.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from phoenix_server.artifacts import describe_error
from phoenix_server.bundle.bundle import Bundle, open_bundle, verify
from phoenix_server.config import MAX_REQUEST_BYTES, EngineConfig, Limits, QueueConfig, ServeConfig
from phoenix_server.corpus.disk.snapshot import open_snapshot
from phoenix_server.errors import PhoenixServerError
from phoenix_server.generations.sources import Sources
from phoenix_server.generations.watcher import first_bundle

app = typer.Typer(
    help="Serve exact top-k retrieval over exported Phoenix towers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_console = Console(stderr=True, highlight=False, emoji=False)

BundleOption = Annotated[
    Path, typer.Option("--bundle", envvar="PHOENIX_BUNDLE", help="The bundle's directory.")
]
OutOption = Annotated[Path, typer.Option(help="The corpus to write; must not exist.")]
DropOption = Annotated[
    bool, typer.Option("--drop-duplicates", help="Keep the first of posts that come twice.")
]
ShardsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        envvar="PHOENIX_SHARDS",
        help="Devices to spread the corpus over. Default: all accelerators, or one CPU device.",
    ),
]
ScanOption = Annotated[
    Literal["tiles", "kernel"],
    typer.Option(
        envvar="PHOENIX_SCAN",
        help="What the corpus is searched with: XLA's own code, or kernels for GPUs.",
    ),
]
TopKOption = Annotated[
    int, typer.Option(min=1, envvar="PHOENIX_MAX_TOP_K", help="Largest top_k of a request.")
]
CapacityOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        envvar="PHOENIX_CAPACITY",
        help="Most posts that the corpus may come to hold. Default: a quarter more than it has.",
    ),
]
LabelsOption = Annotated[
    int,
    typer.Option(
        "--max-labels",
        min=1,
        envvar="PHOENIX_MAX_LABELS",
        help="Most distinct labels that it may come to have.",
    ),
]
_ENGINE, _LIMITS, _QUEUE = EngineConfig(), Limits(), QueueConfig()


@app.command(name="serve")
def serve_command(
    corpus: Annotated[Path, typer.Option(envvar="PHOENIX_CORPUS", help="The corpus's directory.")],
    bundle: Annotated[
        Path | None,
        typer.Option(
            envvar="PHOENIX_BUNDLE", help="The bundle's directory. Default: the newest of --watch."
        ),
    ] = None,
    watch: Annotated[
        Path | None,
        typer.Option(
            envvar="PHOENIX_WATCH",
            help="Serve the newest of a directory's numbered bundles, whenever there is another.",
        ),
    ] = None,
    allow_load: Annotated[
        list[Path] | None,
        typer.Option(
            envvar="PHOENIX_ALLOW_LOAD",
            help="Let callers have bundles and corpora in this directory loaded.",
        ),
    ] = None,
    encode_anew: Annotated[
        bool,
        typer.Option(
            "--encode-anew",
            envvar="PHOENIX_ENCODE_ANEW",
            help="Take a corpus of other towers: its vectors are made anew. Implied by --watch.",
        ),
    ] = False,
    listen: Annotated[
        str, typer.Option(envvar="PHOENIX_LISTEN", help="host:port; port 0 takes a free one.")
    ] = ServeConfig.listen,
    read_only: Annotated[
        bool,
        typer.Option(
            "--read-only",
            envvar="PHOENIX_READ_ONLY",
            help="Take no changes of the corpus. Several servers may then serve one directory.",
        ),
    ] = False,
    shards: ShardsOption = None,
    scan: ScanOption = _ENGINE.scan,
    max_top_k: TopKOption = _ENGINE.max_top_k,
    capacity: CapacityOption = _ENGINE.capacity,
    max_labels: LabelsOption = _ENGINE.max_labels,
    snapshot_after: Annotated[
        int,
        typer.Option(
            min=1,
            envvar="PHOENIX_SNAPSHOT_AFTER",
            help="Write a snapshot of the corpus after changes of so many posts.",
        ),
    ] = ServeConfig.snapshot_after,
    evict_oldest: Annotated[
        bool,
        typer.Option(
            "--evict-oldest",
            envvar="PHOENIX_EVICT_OLDEST",
            help="Where there is no room for posts, delete the oldest by created_at. Default: "
            "refuse them.",
        ),
    ] = False,
    max_request_bytes: Annotated[
        int, typer.Option(min=1024, max=MAX_REQUEST_BYTES, help="Largest request.")
    ] = _LIMITS.max_request_bytes,
    max_waiting: Annotated[
        int,
        typer.Option(
            min=1,
            envvar="PHOENIX_MAX_WAITING",
            help="Users in the queue; further calls are refused.",
        ),
    ] = _QUEUE.max_waiting,
    default_timeout_s: Annotated[
        float,
        typer.Option(
            min=0.001,
            envvar="PHOENIX_DEFAULT_TIMEOUT_S",
            help="Calls without a deadline queue as if they had this one, in seconds.",
        ),
    ] = _QUEUE.default_timeout_s,
    reply_margin_s: Annotated[
        float,
        typer.Option(
            min=0,
            envvar="PHOENIX_REPLY_MARGIN_S",
            help="Seconds before its deadline at which a reply should be on its way.",
        ),
    ] = _QUEUE.reply_margin_s,
    grace_s: Annotated[
        float, typer.Option(min=0, help="Seconds that calls in flight may take after SIGTERM.")
    ] = ServeConfig.grace_s,
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], typer.Option(envvar="PHOENIX_LOG_LEVEL")
    ] = "INFO",
) -> None:
    """Serve a bundle and a corpus over gRPC until SIGTERM."""
    logging.getLogger("phoenix_server").setLevel(log_level)
    if bundle is None:
        if watch is None:
            raise typer.BadParameter("is needed, or --watch", param_hint="--bundle")
        bundle = first_bundle(watch)
    if evict_oldest and read_only:
        raise typer.BadParameter("--read-only takes no posts", param_hint="--evict-oldest")
    config = ServeConfig(
        bundle=bundle,
        corpus=corpus,
        read_only=read_only,
        encode_anew=encode_anew or watch is not None,
        watch=watch,
        allow_load=tuple(allow_load or ()),
        listen=listen,
        shards=shards,
        snapshot_after=snapshot_after,
        evict_oldest=evict_oldest,
        grace_s=grace_s,
        limits=Limits(max_request_bytes=max_request_bytes),
        queue=QueueConfig(
            max_waiting=max_waiting,
            default_timeout_s=default_timeout_s,
            reply_margin_s=reply_margin_s,
        ),
        engine=EngineConfig(
            max_top_k=max_top_k, capacity=capacity, max_labels=max_labels, scan=scan
        ),
    )
    sources = Sources(read_only=read_only, encode_anew=config.encode_anew)
    try:
        first = sources.open(bundle, corpus)  # verifies files while the rest is imported
        from phoenix_server.server import serve

        asyncio.run(serve(config, sources, first))
    finally:
        sources.close()


@app.command(name="compile")
def compile_command(
    bundle: BundleOption,
    corpus: Annotated[
        Path | None,
        typer.Option(
            envvar="PHOENIX_CORPUS",
            help="The corpus to be searched. Default: compile the towers alone.",
        ),
    ] = None,
    shards: ShardsOption = None,
    scan: ScanOption = _ENGINE.scan,
    max_top_k: TopKOption = _ENGINE.max_top_k,
    capacity: CapacityOption = _ENGINE.capacity,
    max_labels: LabelsOption = _ENGINE.max_labels,
) -> None:
    """Compile ahead for this machine, with the options that `serve` will have."""
    from phoenix_server.engine.engine import compile_towers
    from phoenix_server.generations.loader import Loader
    from phoenix_server.runtime.devices import choose_devices, split_cpu
    from phoenix_server.runtime.persistent_cache import compiled_path, writing_compiled

    began = time.monotonic()
    if shards is not None:
        split_cpu(shards)
    opened = _verified(bundle)
    device = choose_devices(shards)[0]
    path = compiled_path(bundle, device)
    engine = EngineConfig(max_top_k=max_top_k, capacity=capacity, max_labels=max_labels, scan=scan)
    with writing_compiled(path):
        if corpus is None:
            compile_towers(opened, device, engine)
        else:
            config = ServeConfig(
                bundle=bundle, corpus=corpus, read_only=True, shards=shards, engine=engine
            )
            with closing(Sources(read_only=True)) as sources:
                Loader(config, sources).load(sources.open(bundle, corpus), compile_all=True)
    what = f"Wrote {path} in {time.monotonic() - began:.1f} s."
    _console.print(what, markup=False, soft_wrap=True)


@app.command(name="import-corpus")
def import_command(
    npz: Annotated[Path, typer.Argument(help="An .npz in the published layout.")],
    bundle: BundleOption,
    out: OutOption,
    trust_pickle: Annotated[
        bool,
        typer.Option("--trust-pickle", help="Read object arrays, which runs code in the file."),
    ] = False,
    drop_duplicates: DropOption = False,
) -> None:
    """Make a corpus of published posts, with the vectors that come with them."""
    from phoenix_server.build.import_npz import import_corpus
    from phoenix_server.build.sample_check import sample_vectors

    opened = _verified(bundle)
    with _progress(out) as report:
        import_corpus(
            npz,
            opened,
            out,
            trust_pickle=trust_pickle,
            drop_duplicates=drop_duplicates,
            report=report,
        )
    sample = sample_vectors(open_snapshot(out), opened)
    if sample.foreign:
        _console.print(
            f"warning: {sample.foreign} of {sample.posts} sampled vectors are not what the "
            f"candidate tower of {bundle} gives (post {sample.worst_post_id}: cosine "
            f"{sample.worst_cosine:.2f}); was this corpus made with another checkpoint?",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


@app.command(name="build-corpus")
def build_command(
    parquet: Annotated[
        list[str],
        typer.Argument(
            metavar="PARQUET...",
            help="Posts: Parquet files, or directories of such, here or at URIs (s3://, gs://, "
            "hdfs://, ...). Columns: post_id, author_id and, if you like, created_at, labels.",
        ),
    ],
    bundle: BundleOption,
    out: OutOption,
    drop_duplicates: DropOption = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Throw away what an interrupted run left; start over."),
    ] = False,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(
            help="What encodes: this process, or workers of Ray. On several machines, OUT, "
            "the bundle and the posts must be where all of them find them under one name.",
        ),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Workers of Ray. Default: one for each GPU, or for each CPU."),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(help="A cluster of Ray. Default: start Ray on this machine for this run."),
    ] = None,
) -> None:
    """Make a corpus of posts: the bundle's candidate tower encodes them.

    If it is interrupted, the same command goes on from OUT.partial, where it keeps what is done.
    """
    from phoenix_server.build.build import BuildConfig, build_corpus

    if engine == "local" and (workers, ray_address) != (None, None):
        raise typer.BadParameter("--workers and --ray-address: only with --engine ray")
    config = BuildConfig(
        drop_duplicates=drop_duplicates,
        restart=restart,
        engine=engine,
        workers=workers,
        ray_address=ray_address,
    )
    opened = _verified(bundle)
    with _progress(out) as report:
        build_corpus(parquet, opened, out, config, report=report)


@app.command()
def inspect(
    paths: Annotated[list[Path], typer.Argument(help="Bundles and corpora.")],
) -> None:
    """Say what a bundle or a corpus is, whether it is whole, and whether two fit together."""
    from phoenix_server.cli.inspect import explain

    for line in explain(paths, datetime.now(UTC)):
        typer.echo(line)


def _verified(path: Path) -> Bundle:
    bundle = open_bundle(path)
    bundle.check_current(datetime.now(UTC))
    verify(bundle)
    return bundle


@contextmanager
def _progress(out: Path) -> Generator[Callable[..., None], None, None]:
    """Show progress, and afterwards what was done."""
    began = time.monotonic()
    done = skipped = 0
    columns = (
        TextColumn("posts {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    hidden = not _console.is_terminal  # or it leaves an empty line in logs
    with Progress(*columns, console=_console, transient=True, disable=hidden) as progress:
        task = progress.add_task("", total=None)

        def report(completed: int, total: int, /, stage: str = "", found: int = 0) -> None:
            nonlocal done, skipped
            done, skipped = completed, max(found, skipped)
            progress.update(task, completed=completed, total=total, description=stage)

        yield report
    spent = time.monotonic() - began
    before = f", {skipped:,} of them encoded before," if skipped else ""
    rate = f"{(done - skipped) / spent:,.0f} a second"
    what = f"Wrote {out}: {done:,} posts{before} in {spent:.1f} s ({rate})."
    _console.print(what, markup=False, soft_wrap=True)


def main() -> None:
    """Run the command line."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        app()
    except (PhoenixServerError, OSError) as exc:
        _console.print(f"error: {describe_error(exc)}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
