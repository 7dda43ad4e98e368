"""Every preset of every agent on its suite, with small networks: what a long run would live by.

Episodes are as long as the environment makes them, a checkpoint waits for little, exploration ends
at its floor, and from vectors the prior learns. From pictures the prior is not looked at: networks
this small tell so little of a picture that it stays below its free nats, whatever the preset.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

from agentzoo import TDMPC2, Dreamer, DreamerV2, DreamerV3, LSImagine, PlaNet
from agentzoo.agent import Agent
from agentzoo.agents.registry import OWN
from agentzoo.train.callbacks import Callback
from agentzoo.train.loop import Training
from tests.agents.contract import all_transitions
from tests.agents.fake_envs import Catch

UPDATES = 100  # of which the prior must have a gradient in half
SIZES: dict[str, dict[str, object]] = {
    "Dreamer": {"deter": 32, "hidden": 32, "units": 32, "depth": 4, "imagine_starts": 16},
    "PlaNet": {"deter": 32, "hidden": 32, "units": 32, "candidates": 16, "elites": 4},
    "DreamerV2": {"deter": 32, "hidden": 32, "units": 32, "depth": 4, "imagine_starts": 16},
    "DreamerV3": {"deter": 64, "hidden": 32, "units": 32, "depth": 4, "classes": 8,
                  "imag_last": 4, "train_ratio": 0.1},
    "TDMPC2": {"latent": 32, "units": 32, "encoder_units": 32, "members": 2, "candidates": 16,
               "elites": 4, "proposals": 4, "iterations": 2},
    "LSImagine": {"deter": 64, "hidden": 32, "units": 32, "depth": 4, "classes": 8,
                  "imag_last": 4, "train_ratio": 0.1},
}  # fmt: skip
SMALL: dict[str, object] = {
    **{"batch_size": 4, "batch_length": 9, "horizon": 3, "prefill": 1_000, "pretrain": UPDATES},
    **{"parallel": False, "eval_every": 0, "final_episodes": 0, "replay_rows": 50_000},
}
PICTURES = {"dmc_vision", "atari", "atari_paper", "atari_code", "atari100k", "crafter", "pixels",
            "cpu_pixels", "debug_pixels", "dmc_pixels"}  # fmt: skip
STATE, PIXELS = "dmc:cartpole-swingup?obs=state", "dmc:cartpole-swingup"
CARTPOLE, PENDULUM, PONG = "gym:CartPole-v1", "gym:Pendulum-v1", "atari:pong"
FIELD = "vizdoom:harvest-tree?far=near&map=oracle&max_episode_steps=160"


@dataclass(frozen=True)
class Case:
    """A preset in its world; `steps` of each environment, with a checkpoint due before they end."""

    agent: type[Agent]
    preset: str
    env: str | Callable[[], gym.Env[Any, Any]]
    steps: int = 1_100
    due: int = 250
    fields: dict[str, object] = field(default_factory=dict)

    def run(self, folder: Path, *callbacks: Callback) -> Agent:
        sizes = {**SMALL, **SIZES[self.agent.__name__], "checkpoint_every": self.due}
        # pictures take long, and their updates are not looked at
        drawn = {"render": "fast"} if self.env == PIXELS else {}  # nothing else is drawn
        few = {"pretrain": 2} if self.preset in PICTURES else {}
        fields = {**sizes, **drawn, **few, **self.fields}
        agent = self.agent(self.env, preset=self.preset, device="cpu", seed=3, **fields)
        total = self.steps * agent.config.envs
        return agent.learn(total, run=folder, callbacks=callbacks, progress=False)

    @property
    def checkpoint_every(self) -> int:
        """The preset's own, of each environment."""
        default = self.agent.config_class().checkpoint_every
        value = self.agent.presets[self.preset].get("checkpoint_every", default)
        assert isinstance(value, int)
        return value


ATARI: dict[str, Any] = {"steps": 4_800, "due": 500}
CASES = [
    Case(Dreamer, "dmc_state", STATE),
    Case(Dreamer, "dmc_state", CARTPOLE),
    Case(PlaNet, "dmc_state", STATE),
    Case(DreamerV2, "defaults", CARTPOLE),
    Case(DreamerV3, "dmc_proprio", STATE),  # with its 16 environments
    Case(LSImagine, "debug", FIELD),
    Case(TDMPC2, "dmc_state", STATE),
]
SLOW = [
    Case(Dreamer, "cpu", STATE),
    Case(Dreamer, "debug", PENDULUM),
    Case(PlaNet, "cpu", STATE),
    Case(PlaNet, "debug", PENDULUM),
    # the released code's free nat is about what five numbers hold; a walker's are more
    Case(DreamerV2, "dmc_proprio", "dmc:walker-walk?obs=state", fields={"deter": 200}),
    Case(DreamerV2, "cpu", STATE),
    Case(DreamerV2, "debug", PENDULUM),
    Case(DreamerV3, "dmc_proprio_paper", STATE),
    Case(DreamerV3, "state", CARTPOLE),
    Case(DreamerV3, "cpu", STATE),
    Case(DreamerV3, "debug", PENDULUM),
    Case(Dreamer, "dmc_vision", PIXELS),
    Case(Dreamer, "atari", PONG, **ATARI),
    Case(Dreamer, "cpu_pixels", PIXELS),
    Case(Dreamer, "debug_pixels", PIXELS),
    Case(PlaNet, "dmc_vision", PIXELS),
    Case(PlaNet, "cpu_pixels", PIXELS),
    Case(PlaNet, "debug_pixels", PIXELS),
    Case(DreamerV2, "atari_paper", PONG, **ATARI),
    Case(DreamerV2, "atari_code", PONG, **ATARI),
    Case(DreamerV2, "crafter", "crafter:reward"),
    Case(DreamerV2, "dmc_vision", PIXELS),
    Case(DreamerV2, "cpu_pixels", PIXELS),
    Case(DreamerV2, "debug_pixels", PIXELS),
    Case(DreamerV3, "dmc_vision", PIXELS, fields={"envs": 2}),
    Case(DreamerV3, "atari", PONG, **ATARI, fields={"envs": 4}),
    Case(DreamerV3, "atari100k", PONG, **ATARI),
    Case(DreamerV3, "crafter", "crafter:reward"),
    Case(DreamerV3, "pixels", Catch),
    Case(DreamerV3, "cpu_pixels", PIXELS),
    Case(DreamerV3, "debug_pixels", PIXELS),
    Case(TDMPC2, "dmc_pixels", PIXELS),
    Case(TDMPC2, "cpu", STATE),
    Case(TDMPC2, "cpu_1m", STATE),
    Case(TDMPC2, "cpu_pixels", PIXELS),
    Case(TDMPC2, "debug", PENDULUM),
    Case(TDMPC2, "debug_pixels", PIXELS),
    Case(LSImagine, "cpu", FIELD),
    Case(LSImagine, "minedojo", FIELD),  # where there is a map
]


class Watch(Callback):
    """Keeps the run's training, and which updates gave the prior a gradient."""

    def __init__(self) -> None:
        self.prior: list[bool] = []
        self.explored: list[tuple[int, int]] = []  # env_step, total_steps

    def on_start(self, training: Training) -> None:
        self.training = training
        algorithm: Any = training.learner.algorithm
        for optimizer in algorithm.optimizers().values():
            if any(name.startswith("rssm.prior") for name in optimizer.names):
                optimizer.step = self.watched(optimizer.names, optimizer.step)
        real = algorithm.explore

        def explore(carry: object, noise: object, env_step: int, total_steps: int) -> object:
            self.explored.append((env_step, total_steps))
            return real(carry, noise, env_step, total_steps)

        algorithm.explore = explore

    def watched(self, names: list[str], step: Callable[..., Any]) -> Callable[..., Any]:
        def seen(grads: tuple[torch.Tensor, ...]) -> Any:
            prior = [
                g for name, g in zip(names, grads, strict=True) if name.startswith("rssm.prior")
            ]
            self.prior.append(any(bool(g.any()) for g in prior))
            return step(grads)

        return seen


def identity(case: Case) -> str:
    return f"{case.agent.__name__}-{case.preset}-{'Catch' if case.env is Catch else case.env}"


@pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(case, id=identity(case)) for case in CASES),
        *(pytest.param(case, id=identity(case), marks=pytest.mark.slow) for case in SLOW),
    ],
)
def test_a_preset_in_its_world(case: Case, tmp_path: Path) -> None:
    watch = Watch()
    agent = case.run(tmp_path, watch)
    training = watch.training
    limit, repeat, envs = (
        training.adapter.time_limit,
        training.adapter.repeat,
        len(training.adapter),
    )
    # Episodes end where the environment ends them, but for the ones that the run's end cuts
    for stream in all_transitions(training.replay):
        firsts, lasts = stream["is_first"].nonzero()[0], stream["is_last"].nonzero()[0]
        finished = list(zip(firsts, lasts, strict=True))[:-1]
        assert finished, "no episode was finished"
        for first, last in finished:
            timed_out = limit is not None and (last - first) * repeat >= limit
            assert stream["is_terminal"][last] or timed_out, f"cut after {last - first} decisions"
    # A checkpoint came in between, and environments that waited for it lost little by it
    between = training.counters.checkpoints - 2
    assert between >= 1
    decisions = envs * case.checkpoint_every / repeat
    assert training.counters.waited / between / decisions < 0.05
    has_prior = hasattr(agent.algorithm, "rssm")
    if has_prior and all(spec.kind != "image" for spec in agent.spec.obs.values()):
        # The prior learns
        assert len(watch.prior) >= UPDATES
        assert sum(watch.prior[:UPDATES]) >= UPDATES / 2
    # A discrete action is replaced as often as the floor says, by the end of this run
    if isinstance(agent, Dreamer) and agent.spec.action.kind != "box":
        (env_step, total), size = watch.explored[-1], agent.spec.action.size
        assert total == case.steps
        assert [replaced(agent, env_step, total, size, decide) for decide in (0.099, 0.101)] == [
            True,
            False,
        ]
        assert [replaced(agent, 0, total, size, decide) for decide in (0.399, 0.401)] == [
            True,
            False,
        ]


def replaced(agent: Agent, env_step: int, total: int, size: int, decide: float) -> bool:
    """Whether exploration replaces action 0 by a random one, here 1, where `decide` was drawn."""
    noise = torch.zeros(1, 1 + size)
    noise[0, 0], noise[0, 2] = decide, 1.0
    carry = agent.algorithm.initial(1)
    carry["prev_action"] = torch.nn.functional.one_hot(torch.tensor([0]), size).float()
    explored, _ = agent.algorithm.explore(carry, {"explore": noise}, env_step, total)
    return bool(explored["prev_action"][0, 1])


def test_no_preset_is_left_out() -> None:
    covered = {(case.agent.__name__, case.preset) for case in [*CASES, *SLOW]}
    agents = {case.agent for case in CASES}
    assert {agent.__name__ for agent in agents} == set(OWN)
    assert covered == {(agent.__name__, preset) for agent in agents for preset in agent.presets}


class Values(Callback):
    """Keeps the means of imagined values that the run logs."""

    def __init__(self) -> None:
        self.logged: list[float] = []

    def on_log(self, training: object, line: Mapping[str, float]) -> None:
        if "imag/value" in line:
            self.logged.append(line["imag/value"])


@pytest.mark.slow
@pytest.mark.parametrize("agent_class", [Dreamer, DreamerV2])
def test_imagined_values_can_be_reached(agent_class: type[Agent], tmp_path: Path) -> None:
    # The first updates are the dangerous ones: value, actor and model all start from nothing
    values = Values()
    agent = agent_class(
        "dmc:cartpole-balance?obs=state", preset="cpu", device="cpu", seed=0, final_episodes=0
    )
    agent.learn(7_000, run=tmp_path, callbacks=[values], progress=False)
    assert len(values.logged) >= 2
    # rewards are in [0, 1] a step, added up over the repeated ones
    assert isinstance(agent, (Dreamer, DreamerV2))
    largest = agent.config.repeat / (1 - agent.config.discount)
    assert max(values.logged) < largest, values.logged
