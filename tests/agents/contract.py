"""Which agents the contract test runs, in which world and with which settings each."""

from typing import NamedTuple

from agentzoo import Dreamer, DreamerV2, DreamerV3, PlaNet
from agentzoo.agent import Agent
from tests.agents.toys import TOYS


class Case(NamedTuple):
    """An agent, where it learns, and settings beyond the debug preset's."""

    agent: type[Agent]
    env: str
    fields: dict[str, object]

    def make(self, **fields: object) -> Agent:
        """The agent, on one CPU, with a seed of its own."""
        fields = {**self.fields, **fields}
        fields = {"checkpoint_every": 400 // int(str(fields.get("envs", 1))), **fields}
        return self.agent(self.env, preset="debug", device="cpu", seed=3, **fields)


PENDULUM, CARTPOLE = "gym:Pendulum-v1", "gym:CartPole-v1"
CASES = {
    "BestOfMany": Case(TOYS["BestOfMany"], PENDULUM, {}),
    "TruncatedActor": Case(TOYS["TruncatedActor"], PENDULUM, {}),
    "LatentStore": Case(TOYS["LatentStore"], CARTPOLE, {}),
    "Planner": Case(TOYS["Planner"], PENDULUM, {}),
    "LateRewards": Case(TOYS["LateRewards"], PENDULUM, {}),
    "Dreamer": Case(Dreamer, PENDULUM, {"repeat": 2}),
    "Dreamer-discrete": Case(
        Dreamer, CARTPOLE, {"repeat": 1, "cont": True, "standardize": "running"}
    ),
    "DreamerV2": Case(DreamerV2, PENDULUM, {"repeat": 2}),
    "DreamerV2-discrete": Case(DreamerV2, CARTPOLE, {"envs": 4}),
    "DreamerV3": Case(DreamerV3, PENDULUM, {"repeat": 2, "envs": 4}),
    "DreamerV3-discrete": Case(DreamerV3, CARTPOLE, {"envs": 4, "parallel": False}),
    "PlaNet": Case(PlaNet, PENDULUM, {"repeat": 2}),
}
