"""Runs of an earlier version go on: the same seeds and transitions, and losses to 1e-4.

`kept_runs/README.md` says which version made them, and how.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv, PendulumEnv

import agentzoo
from agentzoo.algorithm import Metrics
from agentzoo.testing import one_thread
from agentzoo.train.callbacks import Callback
from agentzoo.train.events import Run

KEPT = Path(__file__).parent / "kept_runs"
STEPS = 1_100  # 300 beyond the kept checkpoint
WORLDS: dict[str, type[gym.Env[Any, Any]]] = {"dreamer": PendulumEnv, "dreamer_v3": CartPoleEnv}


class Losses(Callback):
    """Every update's metrics."""

    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []

    def on_update(self, training: Run, metrics: Metrics) -> None:
        self.found.append({name: float(value) for name, value in metrics.items()})


class Transcript:
    """The seeds, observations, actions and rewards of an environment's class, as they come."""

    def __init__(self, world: type[gym.Env[Any, Any]], patch: pytest.MonkeyPatch) -> None:
        self.seeds: list[int] = []
        self.obs: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self.rewards: list[float] = []
        reset, step = world.reset, world.step

        def seen_reset(env: Any, *, seed: int | None = None, options: Any = None) -> Any:
            found = reset(env, seed=seed, options=options)
            self.seeds.append(-1 if seed is None else seed)
            self.obs.append(found[0])
            return found

        def seen_step(env: Any, action: Any) -> Any:
            found = step(env, action)
            self.actions.append(np.asarray(action))
            self.obs.append(found[0])
            self.rewards.append(float(found[1]))
            return found

        patch.setattr(world, "reset", seen_reset)
        patch.setattr(world, "step", seen_step)


@pytest.mark.parametrize("name", list(WORLDS))
def test_a_run_of_an_earlier_version_goes_on_as_it_would_have(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(KEPT / name / "run", tmp_path / "run")
    with np.load(KEPT / name / "expected.npz") as file:
        expected = dict(file)
    agent = agentzoo.load(run, device="cpu")
    # the earlier version had neither at a run's end; they learn nothing and take a minute
    agent.config = replace(agent.config, final_episodes=0, report_every=0)
    transcript, losses = Transcript(WORLDS[name], monkeypatch), Losses()
    with one_thread():
        agent.learn(STEPS, run=run, callbacks=[losses], progress=False)
    assert transcript.seeds == expected["seeds"].tolist()
    np.testing.assert_allclose(transcript.actions, expected["actions"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(transcript.obs, expected["obs"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(transcript.rewards, expected["rewards"], rtol=1e-4, atol=1e-4)
    metrics = {n.partition("/")[2]: v for n, v in expected.items() if n.startswith("metrics/")}
    assert len(losses.found) == len(metrics["loss/reward"]) > 5
    for metric, values in metrics.items():
        found = [one[metric] for one in losses.found]
        np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-4, err_msg=metric)
