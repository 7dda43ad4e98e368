"""Checkpoints take less than 5 % of a run with every preset: calculated, on quick machines.

The quicker an update, the sooner the next checkpoint is due, so the times stated here are short.
"""

from collections.abc import Iterable

import numpy as np
import pytest
import torch

from agentzoo.config import AgentConfig, EnvFacts, configure
from agentzoo.runtime.spec import ActionSpec, ObsSpec
from tests.agents.test_preset_behaviour import CASES, SLOW, Case

DISK = 200e6  # bytes a second
SHARE = 0.05  # of a run, at most
UPDATE_S = 1 / 60
# 200 million parameters: the authors' took 0.4 s on an A100 (arXiv:2301.04104, GPU days)
LARGE_UPDATE_S = 0.1
# of worlds that are slower than learning: 6 steps a second (qiwang067/LS-Imagine issue 5)
STEP_S = {"LSImagine-minedojo": 1 / 6}
EPISODE = 1_000  # environment steps, of agents that update at an episode's end

PRESETS = {f"{case.agent.__name__}-{case.preset}": case for case in [*CASES, *SLOW]}
IMAGE = {"image": ObsSpec(kind="image", shape=(64, 64, 3), source=(64, 64, 3))}
MAP = {"map": ObsSpec(kind="image", shape=(64, 64, 1), source=(64, 64, 1))}
VECTOR = {"observations": ObsSpec(kind="vector", shape=(24,), source=(24,))}  # a walker's
BOX = ActionSpec(kind="box", size=6, shape=(6,), dtype="float32", low=(-1.0,) * 6, high=(1.0,) * 6)
BUTTONS = ActionSpec(kind="discrete", size=18, shape=(), dtype="int64", nvec=(18,), start=(0,))


def settings(case: Case) -> tuple[AgentConfig, torch.nn.Module]:
    """A preset's settings in its world, and its networks without numbers."""
    kind, env = case.agent, case.env if isinstance(case.env, str) else ""
    suite, task = env.partition(":")[0], env.partition("?")[0]
    obs = VECTOR if "obs=state" in env or suite == "gym" else IMAGE
    obs = {**obs, **MAP} if suite == "vizdoom" else obs
    action = BUTTONS if suite in ("atari", "crafter", "vizdoom") else BOX
    fields = kind.presets[case.preset]
    before = configure(kind.config_class, fields)
    facts = EnvFacts(task=task, obs=obs, action=action, time_limit=1_000, repeat=None)
    world = {**kind.env_overrides(before, facts), **kind.tasks.get(task, {})}
    config = configure(kind.config_class, fields, world)
    with torch.device("meta"):
        return config, kind.algorithm_class(obs, action, config)


def nbytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def checkpoint_bytes(config: AgentConfig, algorithm: torch.nn.Module) -> int:
    """Weights, optimisers, and what is stored anew of the fullest replay of a run."""
    optimizers = algorithm.optimizers().values()
    learned = [algorithm.state_dict(), *(one.state_dict() for one in optimizers)]
    changing = [column for column in algorithm.columns.values() if column.mutable]
    size = sum(np.dtype(one.dtype).itemsize * int(np.prod(one.shape)) for one in changing)
    count = min(config.replay_rows, config.total_steps // config.repeat)
    return sum(nbytes(state.values()) for state in learned) + count * size


def seconds_between(config: AgentConfig, algorithm: torch.nn.Module) -> float:
    """Seconds of updates alone, from one checkpoint to the next."""
    schedule, half = config.schedule(config.repeat), config.total_steps // 2
    first, last = (schedule.due(step, step // EPISODE) for step in (half, 2 * half))
    updates = (last - first) / half * config.checkpoint_every * config.envs
    large = sum(one.numel() for one in algorithm.parameters()) > 1e8
    return updates * (LARGE_UPDATE_S if large else UPDATE_S)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_writing_checkpoints_takes_a_small_share_of_a_run(name: str) -> None:
    config, algorithm = settings(PRESETS[name])
    seconds = checkpoint_bytes(config, algorithm) / DISK
    collecting = STEP_S.get(name, 0.0) * config.checkpoint_every
    assert seconds / (seconds_between(config, algorithm) + collecting) < SHARE


def test_the_calculation_by_hand() -> None:
    config, algorithm = settings(PRESETS["DreamerV3-crafter"])
    latents = 1_100_000 * (8_192 * 2 + 32)  # a float16 and a byte for each
    weights = nbytes(algorithm.parameters())
    slow = nbytes(algorithm.slow_value.parameters())
    total = checkpoint_bytes(config, algorithm)
    # the slow value has no moments; statistics of returns and the optimiser's step are a few bytes
    assert total == pytest.approx(latents + 3 * weights - 2 * slow, abs=1_000)
    assert total / 1e9 == pytest.approx(20.1, abs=0.1)
    # 512 transitions are trained on for each decision, 16 x 64 in an update
    expected = config.checkpoint_every * 512 / 1_024 * 0.1
    assert seconds_between(config, algorithm) == pytest.approx(expected, rel=1e-3)
