"""An agent's weights are its seed's, whoever else draws random numbers."""

import threading
from collections.abc import Callable

import pytest
import torch

from agentzoo import Dreamer, DreamerV3
from agentzoo.agent import Agent
from agentzoo.algorithm import module
from agentzoo.blocks.seeded_init import SeededInit
from agentzoo.runtime.policy.noise import derive_seed

AGENTS = [Dreamer, DreamerV3]


def weights(agent: Agent) -> dict[str, torch.Tensor]:
    return module(agent.algorithm).state_dict()


def make(kind: type[Agent], seed: int) -> Agent:
    return kind("gym:CartPole-v1", preset="debug", device="cpu", seed=seed)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def in_threads(*calls: Callable[[], None]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("kind", AGENTS)
def test_they_are_those_that_torchs_own_generator_would_draw(kind: type[Agent]):
    agent = make(kind, 5)
    torch.manual_seed(derive_seed(5, "weights"))
    bare = kind.algorithm_class(agent.spec.obs, agent.spec.action, agent.config)
    assert equal(weights(agent), bare.state_dict())


def test_in_threads_and_beside_others_who_draw():
    alone = [weights(make(DreamerV3, seed)) for seed in range(2)]
    made: dict[int, Agent] = {}
    done = threading.Event()

    def draw() -> None:
        while not done.is_set():
            torch.rand(1)

    def build(seed: int) -> Callable[[], None]:
        return lambda: made.update({seed: make(DreamerV3, seed)})

    drawing = threading.Thread(target=draw)
    drawing.start()
    in_threads(build(0), build(1))
    done.set()
    drawing.join()
    assert [equal(weights(made[seed]), alone[seed]) for seed in range(2)] == [True, True]


def test_nobody_elses_numbers_change():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    make(Dreamer, 0)
    assert torch.equal(torch.rand(3), expected)


def test_every_kind_of_random_operation_is_drawn_from_the_seed():
    def drawn() -> list[torch.Tensor]:
        return [
            torch.rand(2), torch.randn(2), torch.randperm(5), torch.randint(9, (4,)),
            torch.rand_like(torch.zeros(2)), torch.bernoulli(torch.full((8,), 0.5)),
            torch.empty(2).uniform_(), torch.empty(2).normal_(), torch.empty(2).exponential_(),
            torch.nn.init.trunc_normal_(torch.empty(3)), torch.nn.init.orthogonal_(torch.eye(3)),
            torch.multinomial(torch.ones(9), 3), torch.normal(torch.zeros(2), 1.0),
        ]  # fmt: skip

    torch.manual_seed(3)
    expected = drawn()
    torch.manual_seed(4)
    with SeededInit(3):
        found = drawn()
    assert [torch.equal(a, b) for a, b in zip(found, expected, strict=True)] == [True] * len(found)
