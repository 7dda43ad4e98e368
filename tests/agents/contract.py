"""Agents of the contract test, their environments and settings; comparison of runs."""

import sys
from pathlib import Path

import numpy as np
import torch

from agentzoo import TDMPC2, Dreamer, DreamerV2, DreamerV3, LSImagine, PlaNet
from agentzoo.replay.buffer import ReplayBuffer
from agentzoo.testing import Case
from agentzoo.train.callbacks import Callback
from agentzoo.train.loop import Training
from tests.agents.toys import TOYS

EXAMPLES = str(Path(__file__).parents[2] / "examples")
if EXAMPLES not in sys.path:
    sys.path.append(EXAMPLES)

from own_agent import OneStep  # noqa: E402  (a module as a user's own would be)

PENDULUM, CARTPOLE = "gym:Pendulum-v1", "gym:CartPole-v1"
FIELD = "vizdoom:harvest-tree?far=near&map=oracle&max_episode_steps=160&size=48"
CASES = {
    "BestOfMany": Case(TOYS["BestOfMany"], PENDULUM),
    "TruncatedActor": Case(TOYS["TruncatedActor"], PENDULUM),
    "LatentStore": Case(TOYS["LatentStore"], CARTPOLE),
    "Planner": Case(TOYS["Planner"], PENDULUM),
    "LateRewards": Case(TOYS["LateRewards"], PENDULUM),
    "PathIntegral": Case(TOYS["PathIntegral"], PENDULUM),
    "Probed": Case(TOYS["Probed"], PENDULUM),
    "OneStep": Case(OneStep, PENDULUM),
    "Dreamer": Case(Dreamer, PENDULUM, {"repeat": 2}),
    "Dreamer-discrete": Case(
        Dreamer, CARTPOLE, {"repeat": 1, "cont": True, "standardize": "running"}
    ),
    "DreamerV2": Case(DreamerV2, PENDULUM, {"repeat": 2}),
    "DreamerV2-discrete": Case(DreamerV2, CARTPOLE, {"envs": 4}),
    "DreamerV3": Case(DreamerV3, PENDULUM, {"repeat": 2, "envs": 4}),
    "DreamerV3-discrete": Case(DreamerV3, CARTPOLE, {"envs": 4, "parallel": False}),
    "LSImagine": Case(LSImagine, FIELD, {"envs": 2}),
    "PlaNet": Case(PlaNet, PENDULUM, {"repeat": 2}),
    "TDMPC2": Case(TDMPC2, PENDULUM),
}


class Keep(Callback):
    """Keeps the training object after the run."""

    training: Training

    def on_start(self, training: Training) -> None:
        self.training = training


def all_transitions(replay: ReplayBuffer) -> list[dict[str, np.ndarray]]:
    """Every column of every stream, in order."""
    streams = []
    for stream in replay.streams:
        used = [min(replay.chunk_size, stream.length - i * replay.chunk_size)
                for i in range(len(stream.chunks))]  # fmt: skip
        columns = {}
        for column in [*(replay.dtype.names or ()), *replay.mutable]:
            source = [
                c.mutable if column in replay.mutable else c.all_records for c in stream.chunks
            ]
            pieces = [s[column][:n] for s, n in zip(source, used, strict=True)]
            columns[column] = np.concatenate(pieces)
        streams.append(columns)
    return streams


def assert_same_run(a: Keep, b: Keep) -> None:
    """Transitions, weights, optimisers and counters, bit for bit."""
    for mine, theirs in zip(
        all_transitions(a.training.replay), all_transitions(b.training.replay), strict=True
    ):
        assert mine.keys() == theirs.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)
    weights = [t.training.learner.algorithm.state_dict() for t in (a, b)]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name
    for name, optimizer in a.training.learner.algorithm.optimizers().items():
        other = b.training.learner.algorithm.optimizers()[name].state_dict()
        assert all(torch.equal(t, other[k]) for k, t in optimizer.state_dict().items()), name
    assert a.training.counters == b.training.counters
