"""The `agentzoo` command: training's verbs, the runtime's and the hub's; each loads only its own.

All but `quickstart`, `learn`, `export` and `watch` of a run work without torch. What a user got
wrong is one sentence on standard error and exit code 2, never a traceback.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from agentzoo.runtime.errors import AgentZooError, ConfigError, RunError
from agentzoo.runtime.printable import printable

from .. import __version__
from ..agents.registry import agents
from ..agents.registry import named as registered

if TYPE_CHECKING:
    from agentzoo.runtime.evaluation.rollout import Evaluation
    from agentzoo.runtime.policy.policy import Policy

    from ..agent import Agent

KNOWN = ", ".join(sorted(entry.command for entry in agents().values()))

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


def steps(text: str) -> int:
    """A number of environment steps as people write it: 50000, 50_000, 5e4.

    Raises:
        typer.BadParameter: if it is not a whole number of at least 1.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if number < 1 or not number.is_integer():
        raise typer.BadParameter(f"{text!r} is not a whole number of steps; write 50000 or 5e4")
    return int(number)


Bundle = Annotated[
    str, typer.Argument(help="Folder of an exported policy, or a published one: me/name@revision.")
]
Source = Annotated[
    str,
    typer.Argument(
        help="Folder of an exported policy, a published one (me/name@revision), or ws://host:port."
    ),
]
Published = Annotated[
    str, typer.Argument(help="me/name, file:DIR/name or zoo:name, perhaps with @revision.")
]
Seed = Annotated[int | None, typer.Option(help="Seed; another one is another run.")]
MaxSteps = Annotated[
    int | None,
    typer.Option(
        parser=steps, help="Decisions of an episode, or 100,000; a longer one is an error."
    ),
]
Provider = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="What ONNX Runtime runs on.")
]
Plan = Annotated[
    str | None,
    typer.Option(
        help="A planner's settings, as candidates=200,elites=20; off: its policy network alone."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


@app.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", help="Say the version and end.")
    ] = False,
) -> None:
    if show_version:
        typer.echo(f"agentzoo {__version__}")
        raise typer.Exit


@app.command()
def quickstart(
    budget: Annotated[
        int | None, typer.Option("--steps", parser=steps, help="Environment steps to learn for.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder to leave everything in.")] = Path("demo"),
    smoke: Annotated[
        bool, typer.Option("--smoke", help="The whole road in seconds; scores are not judged.")
    ] = False,
) -> None:
    """Learn a small task, export it, run it without PyTorch, score it: minutes on two cores."""
    from .quickstart import run

    raise typer.Exit(run(out, steps=budget, seed=seed, smoke=smoke))


@app.command()
def learn(
    agent: Annotated[str, typer.Argument(help=f"Which agent: {KNOWN}.")],
    env: Annotated[str, typer.Argument(help="Environment, such as dmc:walker-walk.")],
    budget: Annotated[
        int | None,
        typer.Option("--steps", parser=steps, help="Environment steps, repeat included."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Named settings, such as cpu.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="field=value; may be given many times.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder; an existing one goes on.")] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(parser=steps, help="Steps of each environment between checkpoints."),
    ] = None,
    envs: Annotated[int | None, typer.Option(help="Environments to collect in at once.")] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", help="Continue from this run's, saved or published policy."),
    ] = None,
    parts: Annotated[
        list[str] | None,
        typer.Option(help="Part that alone learns on, of --from; may be given many times."),
    ] = None,
    device: Device = "auto",
    seed: Seed = None,
) -> None:
    """Learn a policy for an environment, with logs and checkpoints in a run folder."""
    kind = agent_class(agent)
    overrides = settings_of(kind, settings or [])
    named = {"checkpoint_every": checkpoint_every, "envs": envs}
    overrides |= {name: value for name, value in named.items() if value is not None}
    if source is None:
        learner = kind(env, preset=preset, device=device, seed=seed, **overrides)
    elif preset or overrides or seed is not None:
        raise ConfigError(
            f"--from {source} goes on with that policy's own settings and a seed of its own; "
            "leave out --preset, --set, --seed, --envs and --checkpoint-every"
        )
    else:
        learner = kind.load(source, device=device)
    try:
        learner.learn(budget, env if source else None, run=run, parts=parts or ())
    except (KeyboardInterrupt, SystemExit) as stopped:
        where = f"--run {learner.run}" if learner.run else "the same options"
        typer.echo(f"stopped; to go on: the same command with {where}", err=True)
        code = 130 if isinstance(stopped, KeyboardInterrupt) else int(str(stopped.code))
        raise typer.Exit(code) from None
    typer.echo(f"run:  {learner.run}")
    typer.echo(f"next: agentzoo export {learner.run} my-policy")
    typer.echo(f"on:   the same command with --run {learner.run}, and more --steps to go further")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A run's folder, or a saved agent's.")],
    out: Annotated[Path, typer.Argument(help="Folder to write the bundle to.")],
    which: Annotated[
        Literal["newest", "best"], typer.Option(help="Of a run: the newest policy, or the best.")
    ] = "newest",
    world: Annotated[
        bool, typer.Option("--world", help="Add the world model, to dream and to be watched.")
    ] = False,
) -> None:
    """Turn a saved agent into a bundle that runs without PyTorch."""
    from .. import load
    from ..publish import draw_curve

    agent = load(folder, which=which)
    agent.export(out, world=world)
    typer.echo(f"bundle: {out}")
    if agent.run_dir is not None:
        try:
            typer.echo(f"curve:  {draw_curve(agent, out)}")
        except RunError as error:
            typer.echo(f"curve:  none: {error}")
    typer.echo(f"next:   agentzoo evaluate {out} --record {out} --video {out / 'replay.mp4'}")


@app.command()
def evaluate(
    source: Source,
    env: Annotated[
        str | None, typer.Argument(help="Environment; the bundle's own where left out.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to run.")] = 10,
    seed: Annotated[
        int, typer.Option(help="Seed of the first episode; the next has the next.")
    ] = 0,
    envs: Annotated[int, typer.Option(min=1, help="Environments to run at once.")] = 1,
    video: Annotated[Path | None, typer.Option(help="MP4 to film the first episode to.")] = None,
    max_steps: MaxSteps = None,
    provider: Provider = "auto",
    override: Annotated[
        bool, typer.Option("--override", help="Let ENV contradict the one it learned in.")
    ] = False,
    record: Annotated[
        Path | None,
        typer.Option(help="Write the score: a .json file, or a folder for its results.json."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Play the published episodes again, and compare.")
    ] = False,
    plan: Plan = None,
) -> None:
    """Run a policy and say what it scores; nothing is written but to --record and --video."""
    from agentzoo.hub import require_own_folder
    from agentzoo.runtime import Policy
    from agentzoo.runtime import evaluate as score
    from agentzoo.runtime.evaluation.results import write_results
    from agentzoo.runtime.evaluation.rollout import MAX_STEPS

    from .open_policy import folder_of, open_policy

    for out in (one for one in (record, video) if one is not None):
        require_own_folder(out)  # before the episodes are played
    folder = folder_of(source)
    policy = open_policy(source, provider=provider, plan=plan)
    if check:
        if folder is None or not isinstance(policy, Policy):
            raise ConfigError(f"--check plays a bundle's published episodes; {source} is a server")
        raise typer.Exit(reproduced(policy, folder))
    result = score(
        policy,
        env,
        episodes=episodes,
        seed=seed,
        envs=envs,
        video=video,
        override=override,
        max_steps=max_steps or MAX_STEPS,
    )
    typer.echo(summary(result))
    if video is not None:
        typer.echo(f"video:   {video}")
    if record is not None:
        written = write_results(result, record)
        typer.echo(f"results: {written}, {len(result.returns)} episodes")


@app.command()
def table(
    paths: Annotated[
        list[Path], typer.Argument(help="results.json files, or folders that hold some.")
    ],
) -> None:
    """Compare Atari results over games with people's and with published agents' scores."""
    from .atari_table import table as compare

    typer.echo(compare(paths))


@app.command()
def compare(
    sources: Annotated[
        list[str], typer.Argument(help="Bundles, Hub ids or URLs; NAME=SOURCE names one.")
    ],
    env: Annotated[
        str | None, typer.Option(help="Environment of all; each one's own where left out.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the first episode of each.")] = 0,
    envs: Annotated[int, typer.Option(min=1, help="Environments to run at once.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="PNG to draw the comparison to.")] = None,
    max_steps: MaxSteps = None,
    provider: Provider = "auto",
    override: Annotated[
        bool, typer.Option("--override", help="Let --env contradict those they learned in.")
    ] = False,
) -> None:
    """Run several policies on the same episodes and put their scores beside each other.

    Without --env each acts in the environment it learned in, with its own action repeat and
    observations; what else decides a score has to be equal.
    """
    from agentzoo.runtime import comparison_table
    from agentzoo.runtime import evaluate as score
    from agentzoo.runtime.evaluation.rollout import MAX_STEPS
    from agentzoo.runtime.evaluation.statistics import scored_in

    from .open_policy import named, open_policy

    results: dict[str, Evaluation] = {}
    tasks: dict[str, str] = {}  # of the environments they learned in -> who did
    for name, source in named(sources).items():
        policy = open_policy(source, provider=provider)
        tasks.setdefault(scored_in(policy.spec.env), name)
        if env is None and len(tasks) > 1:
            (first, one), (second, other) = list(tasks.items())[:2]
            raise ConfigError(
                f'"{one}" learned in {first or "an object"}, "{other}" in '
                f"{second or 'an object'}; name one environment for all: --env"
            )
        results[name] = score(
            policy,
            env,
            episodes=episodes,
            seed=seed,
            envs=envs,
            override=override,
            max_steps=max_steps or MAX_STEPS,
        )
    places = ", ".join(dict.fromkeys(printable(one.env) for one in results.values()))
    typer.echo(f"{places}, {episodes} episodes from seed {seed}\n\n{comparison_table(results)}")
    if plot is not None:
        from ..train.plots import comparison_plot

        typer.echo(f"\nplot: {comparison_plot(results, plot)}")


@app.command()
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
    import logging

    from agentzoo.runtime.server import ServerSettings, model_settings, read_models
    from agentzoo.runtime.server import serve as run
    from agentzoo.runtime.server.log_lines import OneLine

    from .open_policy import locate

    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(OneLine())
    logging.basicConfig(level=logging.INFO, handlers=[lines])
    if (config is None) == (not sources):
        raise AgentZooError("name the policies to serve, or a --config models.toml; one of the two")
    limits = {
        "threads": threads, "max_batch": max_batch, "max_wait_ms": max_wait_ms,
        "max_queue": max_queue, "provider": provider, "plan": plan or "",
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


@app.command()
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
    import logging
    import tempfile

    from agentzoo.runtime.server import ServerSettings
    from agentzoo.runtime.server import serve as run

    from .open_policy import locate
    from .watch import model_to_watch

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="agentzoo-watch-") as scratch:
        model, found = model_to_watch(source, Path(scratch))
        settings = ServerSettings(port=port, page=True, max_dreams=max_dreams, runs=runs or found)
        typer.echo("open the address below in a browser; Ctrl-C ends it", err=True)
        run([model], settings, locate=locate)


@app.command()
def inspect(bundle: Bundle) -> None:
    """Say what a bundle holds: its files, and what the policy reads, keeps and gives."""
    from agentzoo.hub import locate
    from agentzoo.runtime import inspect as describe

    typer.echo(describe(locate(bundle, serving=True)))


@app.command()
def verify(bundle: Bundle, provider: Provider = "auto") -> None:
    """Check a bundle's files and replay its recorded steps on this machine."""
    from agentzoo.hub import locate
    from agentzoo.runtime import verify as check

    typer.echo(str(check(locate(bundle, serving=True), provider=provider)))


@app.command()
def push(
    bundle: Annotated[Path, typer.Argument(help="Folder of an exported and evaluated policy.")],
    repo: Annotated[
        str, typer.Argument(help="me/name; or file:DIR for a folder that is, or becomes, a hub.")
    ],
    private: Annotated[
        bool | None, typer.Option(help="Whether a new repo is private; else as your account says.")
    ] = None,
    license_id: Annotated[
        str, typer.Option("--license", help="Of the weights, as the Hub spells it.")
    ] = "mit",
    without: Annotated[
        list[str] | None,
        typer.Option(help="replay.mp4 or learning_curve.png, where there is none."),
    ] = None,
) -> None:
    """Publish a bundle with its model card, as one commit."""
    from agentzoo import hub
    from agentzoo.runtime.evaluation.results import read_results

    done = hub.push(bundle, repo, private=private, license_id=license_id, without=without or ())
    score = read_results(bundle)
    typer.echo(f"published: {done}")
    typer.echo(f"score:     mean {score.mean:.2f} over {len(score.returns)} episodes")
    typer.echo(f"check it:  agentzoo evaluate {done} --check")


@app.command()
def pull(
    repo: Published,
    out: Annotated[
        Path | None, typer.Argument(help="New folder to copy it to; the cache keeps it anyway.")
    ] = None,
) -> None:
    """Fetch a published bundle, check every file, and say where it is."""
    from agentzoo import hub

    typer.echo(str(hub.pull(repo, folder=out)))


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="Part of a name, an agent or a task.")] = "",
    where: Annotated[
        str | None, typer.Option("--hub", help="file:DIR, or zoo: for what came along.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
) -> None:
    """List published agents: address, mean return, agent and environment."""
    from agentzoo import hub

    found = hub.search(query, hub=where, limit=limit)
    if not found:
        typer.echo(f'nothing published matches "{query}"', err=True)
        raise typer.Exit(1)
    width = max(len(one.address) for one in found)
    for one in found:
        line = f"{one.address:{width}}  {one.score or 'no score':20}  {' '.join(one.tags)}"
        typer.echo(printable(line))  # what its publisher says of it


@folder_hub.command()
def repair(
    folder: Annotated[str, typer.Argument(help="A folder that is a hub: DIR or file:DIR.")],
) -> None:
    """Make a folder hub's index true of the commits that are whole, and say what is damaged."""
    from agentzoo.hub.folder_hub import FolderHub

    root = Path(folder.removeprefix("file:")).expanduser()
    lines = FolderHub(root).repair()
    typer.echo("\n".join(lines) or f"{root} is whole")
    raise typer.Exit(1 if any(" is damaged: " in line for line in lines) else 0)


@app.command()
def doctor(
    subject: Annotated[
        str, typer.Argument(help="minedojo, for what it needs; nothing for everything else")
    ] = "",
) -> None:
    """Say what this machine has, and the line that installs what is missing."""
    from .doctor import diagnosis, minedojo

    if subject not in ("", "minedojo"):
        raise ConfigError(f'doctor was asked about "{subject}", expected minedojo or nothing')
    for name, finding in minedojo() if subject else diagnosis():
        typer.echo(f"{name:16} {finding}")


def reproduced(policy: "Policy", folder: Path) -> int:
    """Play a bundle's published episodes again and say what came out; 0 if the scores agree."""
    from agentzoo.runtime.evaluation.reproduce import reproduce
    from agentzoo.runtime.evaluation.results import read_results

    found = reproduce(policy, read_results(folder))
    typer.echo(str(found))
    return 0 if found.agrees else 1


def agent_class(name: str) -> "type[Agent]":
    """The agent a command line names, in any spelling of case and dashes.

    Raises:
        AgentZooError: with the nearest names.
    """
    return registered(name).load()  # torch only now


def settings_of(kind: "type[Agent]", settings: Sequence[str]) -> dict[str, object]:
    """The `--set field=value` pairs as typed overrides."""
    from ..config import parse_setting

    return dict(parse_setting(kind.config_class, setting) for setting in settings)


def summary(result: "Evaluation") -> str:
    """An evaluation in lines: what was run, its score, and what its suite makes of it."""
    low, high = result.interval
    actions = "deterministic" if result.deterministic else "sampled"
    lines = [
        printable(result.env),
        f"{len(result.returns)} episodes from seed {result.seed}, {actions} actions: "
        f"mean {result.mean:.1f}, 95 % interval {low:.1f} to {high:.1f}",
        *(f"{name} {value:.3g}" for name, value in result.scores.items()),
    ]
    return "\n".join(lines)


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
