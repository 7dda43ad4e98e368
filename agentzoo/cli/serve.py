"""Commands that serve: the policy server, and a policy's page in the browser."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from agentzoo.runtime.errors import AgentZooError

from .options import Plan, Provider


def serve(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Bundles or Hub ids (owner/name@revision), as SOURCE or NAME=SOURCE."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A models.toml instead; read again on SIGHUP.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key: Annotated[
        str,
        typer.Option(
            envvar="AGENTZOO_API_KEY", help="What clients have to show.", show_envvar=True
        ),
    ] = "",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Bind an open address without a key.")
    ] = False,
    model_control: Annotated[
        bool, typer.Option("--model-control", help="Let clients ask for a reload.")
    ] = False,
    max_sessions: Annotated[int, typer.Option(min=1, help="Sessions open at once.")] = 1024,
    session_ttl: Annotated[float, typer.Option(help="Seconds one may be idle.")] = 600.0,
    deadline: Annotated[float, typer.Option(help="Seconds a request may take.")] = 10.0,
    max_connections: Annotated[
        int, typer.Option(min=0, help="Open at once; 0 is 1,024 more than sessions.")
    ] = 0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name of this server that clients may ask for without a key."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="An Origin that is let in, such as http://host:port.")
    ] = None,
    drain: Annotated[float, typer.Option(help="Seconds sessions may go on at the end.")] = 5.0,
    threads: Annotated[int, typer.Option(min=1, help="Of ONNX Runtime, for one step.")] = 1,
    max_batch: Annotated[int, typer.Option(min=1, help="Sessions in one step.")] = 64,
    max_wait_ms: Annotated[float, typer.Option(help="How long one waits for others.")] = 2.0,
    max_queue: Annotated[int, typer.Option(min=1, help="Requests that may wait.")] = 1024,
    lone_steps: Annotated[
        Literal["auto", "thread"],
        typer.Option(help="In the event loop where that is quicker, or always in the thread."),
    ] = "auto",
    provider: Provider = "auto",
    page: Annotated[
        bool | None,
        typer.Option(
            "--page/--no-page", help="The page at /; there by itself where only this machine looks."
        ),
    ] = None,
    max_dreams: Annotated[int, typer.Option(min=1, help="Episodes and dreams of the page.")] = 2,
    runs: Annotated[Path | None, typer.Option(help="A folder of runs, for the page.")] = None,
    plan: Plan = None,
) -> None:
    """Serve policies to evaluation harnesses: openpi, vla-eval, Open Inference Protocol."""
    from agentzoo.runtime.server import ServerSettings, model_settings, read_models
    from agentzoo.runtime.server import serve as run

    from .open_policy import locate

    _log_to_terminal()
    if (config is None) == (not sources):
        raise AgentZooError("name the policies to serve, or a --config models.toml; one of the two")
    limits = {
        "threads": threads, "max_batch": max_batch, "max_wait_ms": max_wait_ms,
        "max_queue": max_queue, "lone_steps": lone_steps, "provider": provider, "plan": plan or "",
    }  # fmt: skip
    models = (
        read_models(config) if config else [model_settings(one, **limits) for one in sources or []]
    )
    settings = ServerSettings(
        host=host, port=port, api_key=api_key, insecure=insecure, model_control=model_control,
        max_sessions=max_sessions, session_ttl_s=session_ttl, deadline_s=deadline, drain_s=drain,
        max_connections=max_connections, allow_hosts=tuple(allow_host or ()),
        allow_origins=tuple(allow_origin or ()),
        page=page, max_dreams=max_dreams, runs=runs,
    )  # fmt: skip
    run(models, settings, locate=locate, config=config)


def watch(
    source: Annotated[
        str, typer.Argument(help="A bundle, a run's folder, or a published agent (owner/name).")
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    runs: Annotated[
        Path | None, typer.Option(help="A folder of runs to show; a run's own by itself.")
    ] = None,
    max_dreams: Annotated[int, typer.Option(min=1, help="Episodes and dreams at once.")] = 2,
) -> None:
    """Show a policy in the browser: its episodes beside its dreams, and a dream to play in."""
    import tempfile

    from agentzoo.runtime.server import ServerSettings
    from agentzoo.runtime.server import serve as run

    from .open_policy import locate
    from .watch import model_to_watch

    _log_to_terminal()
    with tempfile.TemporaryDirectory(prefix="agentzoo-watch-") as scratch:
        model, found = model_to_watch(source, Path(scratch))
        settings = ServerSettings(port=port, page=True, max_dreams=max_dreams, runs=runs or found)
        typer.echo("open the address below in a browser; Ctrl-C ends it", err=True)
        run([model], settings, locate=locate)


def _log_to_terminal() -> None:
    """Say what the server says, in lines without control characters: names may be a stranger's."""
    import logging

    from agentzoo.runtime.server.log_lines import OneLine

    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(OneLine())
    logging.basicConfig(level=logging.INFO, handlers=[lines])
