"""Training's commands: quickstart, learn, resume, export."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from agentzoo.runtime.errors import ConfigError, RunError

from ..agents.registry import agents
from ..agents.registry import named as registered
from .options import Device, Log, Offline, Seed, steps

if TYPE_CHECKING:
    from ..agent import Agent

KNOWN = ", ".join(sorted(entry.command for entry in agents().values()))


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


def learn(
    agent: Annotated[str, typer.Argument(help=f"Which agent: {KNOWN}.")],
    env: Annotated[str | None, typer.Argument(help="Environment, such as dmc:walker-walk.")] = None,
    budget: Annotated[
        int | None,
        typer.Option(
            "--steps",
            parser=steps,
            help="Environment steps, repeat included; with --offline, updates.",
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Named settings, such as cpu.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="field=value, of those that --help-config lists; repeatable."),
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
    offline: Offline = None,
    log: Log = "tensorboard",
    device: Device = "auto",
    seed: Seed = None,
    help_config: Annotated[
        bool, typer.Option("--help-config", help="List the agent's fields, presets and tasks.")
    ] = False,
) -> None:
    """Learn a policy for an environment, with logs and checkpoints in a run folder."""
    kind = agent_class(agent)
    if help_config:
        from .help_config import page

        typer.echo(page(kind, preset))
        return
    if env is None:
        raise ConfigError(
            f"learn was given no environment; name one: agentzoo learn {agent} dmc:walker-walk"
        )
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
    where = env if source else None
    learn_on(learner, budget, where, run=run, parts=parts or (), offline=offline, log=log)


def resume(
    run: Annotated[Path, typer.Argument(help="Folder of the run, under runs/ by itself.")],
    budget: Annotated[
        int | None,
        typer.Option("--steps", parser=steps, help="The run's new total; its own if left out."),
    ] = None,
    offline: Offline = None,
    log: Log = "tensorboard",
    device: Device = "auto",
) -> None:
    """Go on with a run where it was stopped or killed, by its own settings; or further."""
    from .. import load
    from ..train.checkpoint import newest
    from ..train.run_folder import read_total

    if newest(run / "checkpoints") is None:
        raise RunError(f"{run} holds no run; give a folder that agentzoo learn wrote")
    learner = load(run, device=device)
    if not learner.env:
        raise RunError(
            f"{run} learned in an environment object, which no file holds; in Python: "
            f"agentzoo.load({str(run)!r}).learn(total_steps, env, run={str(run)!r})"
        )
    learn_on(learner, budget or read_total(run), None, run=run, offline=offline, log=log)


def learn_on(
    learner: "Agent",
    budget: int | None,
    env: str | None,
    *,
    run: Path | None,
    parts: Sequence[str] = (),
    offline: str | None = None,
    log: str = "tensorboard",
) -> None:
    """Learn, and say what can come next, also where it was stopped."""
    from ..ranks import is_follower

    source = f" --offline {shlex.quote(offline)}" if offline else ""
    try:
        learner.learn(budget, env, run=run, parts=parts, offline=offline, log=log)
    except (KeyboardInterrupt, SystemExit) as stopped:
        how = f"agentzoo resume {learner.run}{source}" if learner.run else "the same command"
        if not is_follower():
            typer.echo(f"stopped; to go on: {how}", err=True)
        code = 130 if isinstance(stopped, KeyboardInterrupt) else int(str(stopped.code))
        raise typer.Exit(code) from None
    if is_follower():
        return  # the first process of torchrun's says it
    typer.echo(f"run:  {learner.run}")
    typer.echo(f"next: agentzoo export {learner.run} my-policy")
    typer.echo(f"on:   agentzoo resume {learner.run}{source} --steps TOTAL, to go further")


def export(
    folder: Annotated[Path, typer.Argument(help="A run's folder, or a saved agent's.")],
    out: Annotated[Path, typer.Argument(help="Folder to write the bundle to.")],
    which: Annotated[
        Literal["newest", "best"], typer.Option(help="Of a run: the newest policy, or the best.")
    ] = "newest",
    world: Annotated[
        bool, typer.Option("--world", help="Add the world model, to dream and to be watched.")
    ] = False,
    triton: Annotated[
        Path | None, typer.Option(help="Write it into this Triton model repository, too.")
    ] = None,
    latents: Annotated[
        Literal["sample", "mode"],
        typer.Option(help="Of --triton: noise as inputs, or none and every choice the mode."),
    ] = "sample",
) -> None:
    """Turn a saved agent into a bundle that runs without PyTorch."""
    from .. import load
    from ..export_triton import export_triton, require_one_graph
    from ..publish import draw_curve

    agent = load(folder, which=which)
    if triton is not None:
        require_one_graph(agent.spec)  # before anything is written
    elif latents != "sample":
        raise ConfigError(f"--latents {latents} is of a Triton model; add --triton DIR")
    agent.export(out, world=world)
    typer.echo(f"bundle: {out}")
    if triton is not None:
        typer.echo(f"triton: {export_triton(out, triton, latents=latents)}")
    if agent.run_dir is not None:
        try:
            typer.echo(f"curve:  {draw_curve(agent, out)}")
        except RunError as error:
            typer.echo(f"curve:  none: {error}")
    typer.echo(f"next:   agentzoo evaluate {out} --record {out} --video {out / 'replay.mp4'}")


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
