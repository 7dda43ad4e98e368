"""From an agent, or from a run's folder, to a bundle that can be published."""

import tempfile
from collections.abc import Collection
from pathlib import Path

from agentzoo import hub
from agentzoo.hub.package import CURVE, EPISODES, VIDEO
from agentzoo.runtime import evaluate, load_policy
from agentzoo.runtime.bundle.manifest import UNPLANNED
from agentzoo.runtime.envs import EnvName
from agentzoo.runtime.errors import ConfigError, RunError
from agentzoo.runtime.evaluation.results import write_results
from agentzoo.runtime.evaluation.rollout import Evaluation
from agentzoo.runtime.files import require_no_link
from agentzoo.runtime.policy.planners import can_leave_out

from .agent import Agent
from .train.plots import learning_curve

FIRST_SEED = 1_000_000  # of the scored episodes; training draws its own from the run's seed


def publish(
    agent: Agent,
    repo_id: str,
    *,
    folder: str | Path | None,
    episodes: int,
    private: bool | None,
    token: str | None,
    license_id: str,
    without: Collection[str],
) -> str:
    """Make the bundle and push it; see `Agent.push_to_hub`."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "bundle" if folder is None else Path(folder)
        package(agent, place, episodes=episodes, without=without)
        return hub.push(
            place, repo_id, private=private, token=token, license_id=license_id, without=without
        )


def package(
    agent: Agent, folder: Path, *, episodes: int, without: Collection[str] = ()
) -> Evaluation:
    """Export, score by ONNX Runtime, film, and draw the learning curve: all that `push` wants.

    A planner that has a policy network is scored a second time, by that network alone.

    Args:
        agent: one that has learned.
        folder: the bundle's.
        episodes: to score over, from seed 1,000,000.
        without: `replay.mp4` or `learning_curve.png`, where a machine cannot draw.

    Returns:
        The score, which is in the folder as well.

    Raises:
        ConfigError: if there are fewer than 10 episodes.
        RunError: if the agent does not know the run that it learned in.
    """
    if episodes < EPISODES:  # said before the export, which takes a while
        raise ConfigError(
            f"a score is published over at least {EPISODES} episodes, and episodes={episodes}"
        )
    if CURVE not in without:  # what may not be had comes first, exporting takes a while
        draw_curve(agent, folder)
    agent.export(folder)
    video = None if VIDEO in without else folder / VIDEO
    with agent.evaluation_env() as where:
        found = evaluate(
            load_policy(folder), where, episodes=episodes, seed=FIRST_SEED, video=video
        )
    write_results(found, folder)
    (folder / UNPLANNED).unlink(missing_ok=True)
    if can_leave_out(agent.spec):
        with agent.evaluation_env() as where:
            alone = load_policy(folder, plan="off")
            write_results(evaluate(alone, where, episodes=episodes, seed=FIRST_SEED), folder)
    return found


def draw_curve(agent: Agent, folder: Path) -> Path:
    """Draw the learning curve of an agent's run into a bundle's folder.

    Raises:
        BundleError: if a link stands where the curve is to be drawn.
        RunError: if there is no run, or it has no returns.
    """
    if agent.run_dir is None:
        raise RunError(
            "this agent was not loaded from a run's folder, so there are no returns to draw a "
            f'learning curve of; load the run, or publish it with without=["{CURVE}"]'
        )
    require_no_link(folder / CURVE)
    task = EnvName.read(agent.env).head or "an environment of its own"
    title = f"{type(agent).__name__} in {task}, seed {agent.seed}"
    return learning_curve(agent.run_dir, folder / CURVE, title=title)
