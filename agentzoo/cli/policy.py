"""Commands on policies, without PyTorch: evaluate, table, compare, inspect, verify."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.printable import printable

from .options import Bundle, MaxSteps, Plan, Provider, Source

if TYPE_CHECKING:
    from agentzoo.runtime.evaluation.rollout import Evaluation
    from agentzoo.runtime.policy.policy import Policy


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
    from agentzoo.runtime.evaluation.results import results_file, write_results
    from agentzoo.runtime.evaluation.rollout import MAX_STEPS

    from .open_policy import folder_of, open_policy

    for out in (one for one in (record, video) if one is not None):
        require_own_folder(out)  # before the episodes are played
    if record is not None:
        results_file(record)
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


def table(
    paths: Annotated[
        list[Path], typer.Argument(help="results.json files, or folders that hold some.")
    ],
) -> None:
    """Compare Atari results over games with people's and with published agents' scores."""
    from .atari_table import table as compare

    typer.echo(compare(paths))


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
    from agentzoo.runtime.envs import EnvName
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
    places = ", ".join(
        dict.fromkeys(printable(EnvName.read(one.env).shell) for one in results.values())
    )
    typer.echo(f"{places}, {episodes} episodes from seed {seed}\n\n{comparison_table(results)}")
    if plot is not None:
        from ..train.plots import comparison_plot

        typer.echo(f"\nplot: {comparison_plot(results, plot)}")


def inspect(bundle: Bundle) -> None:
    """Say what a bundle holds: its files, and what the policy reads, keeps and gives."""
    from agentzoo.hub import locate
    from agentzoo.runtime import inspect as describe

    typer.echo(describe(locate(bundle, serving=True)))


def verify(bundle: Bundle, provider: Provider = "auto") -> None:
    """Check a bundle's files and its recorded steps on this machine."""
    from agentzoo.hub import locate
    from agentzoo.runtime import verify as check

    typer.echo(str(check(locate(bundle, serving=True), provider=provider)))


def reproduced(policy: "Policy", folder: Path) -> int:
    """Play a bundle's published episodes again and say what came out; 0 if the scores agree."""
    from agentzoo.runtime.evaluation.reproduce import reproduce
    from agentzoo.runtime.evaluation.results import read_results

    found = reproduce(policy, read_results(folder))
    typer.echo(str(found))
    return 0 if found.agrees else 1


def summary(result: "Evaluation") -> str:
    """An evaluation in lines: what was run, its score, and what its suite makes of it."""
    from agentzoo.runtime.envs.names import EnvName
    from agentzoo.runtime.evaluation.statistics import succeeded

    low, high = result.interval
    actions = "deterministic" if result.deterministic else "sampled"
    lines = [
        printable(EnvName.read(result.env).shell),
        f"{len(result.returns)} episodes from seed {result.seed}, {actions} actions: "
        f"mean {result.mean:.1f}, 95 % interval {low:.1f} to {high:.1f}",
        *(f"{name} {value:.3g}" for name, value in result.scores.items()),
        *([f"success rate {rate}"] if (rate := succeeded(result)) else []),
    ]
    return "\n".join(lines)
