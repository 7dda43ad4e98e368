"""The `agentzoo` command: training's verbs, the runtime's and the hub's; each loads only its own.

All but `quickstart`, `learn`, `resume`, `export` and `watch` of a run work without torch. What a
user got wrong is one sentence on standard error and exit code 2, never a traceback.
"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from agentzoo.runtime.errors import AgentZooError
from agentzoo.runtime.printable import printable

from .. import __version__
from . import affordance, doctor, hub, lab, learn, policy, serve

COMMANDS = (  # in the order of --help
    *(learn.quickstart, learn.learn, learn.resume, learn.export),
    *(lab.sweep, lab.plot),
    *(policy.evaluate, policy.table, policy.compare),
    *(serve.serve, serve.watch),
    *(policy.inspect, policy.verify),
    *(hub.push, hub.pull, hub.search),
    doctor.doctor,
)

app = typer.Typer(
    name="agentzoo",
    help="World-model agents: learn, export, run anywhere without PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
folder_hub = typer.Typer(
    name="hub", help="Look after a folder that is a hub.", no_args_is_help=True
)
app.add_typer(folder_hub)
app.add_typer(affordance.app)
app.add_typer(lab.data)
folder_hub.command()(hub.repair)
for _command in COMMANDS:
    app.command()(_command)


@app.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", help="Say the version and end.")
    ] = False,
) -> None:
    if show_version:
        typer.echo(f"agentzoo {__version__}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: `arguments`, or those of the process."""
    if os.getpid() == 1:  # of a container, where the kernel ignores what has no handler
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    try:
        app(list(sys.argv[1:] if arguments is None else arguments))
    except AgentZooError as error:
        typer.echo(f"agentzoo: {printable(' '.join(str(error).splitlines()))}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
