"""Latent overshooting: what is compared with what, on a model whose every step can be seen."""

import torch
from torch import Tensor
from torch.testing import assert_close

from agentzoo.blocks.overshooting import overshoot
from agentzoo.blocks.rssm import State


class Adder:
    """Dynamics that add the action to the state; what they draw is added as well."""

    feat_size = 1

    def initial(self, *shape: int) -> State:
        return State(*torch.zeros(3, *shape, 1))

    def img_step(self, prev: State, action: Tensor, noise: Tensor) -> State:
        moved = prev.stoch + action + noise
        return State(moved, moved, moved)

    def unused(self, *args: object) -> Tensor:
        raise AssertionError(args)

    obs_step = observe = prior = feat = unused


def silence(B: int, n: int) -> Tensor:
    return torch.zeros(B, n, 1)


def sequence(*observations: float) -> State:
    return State(*torch.tensor(observations)[None, None, :, None].expand(3, -1, -1, -1))


def priors(post: State, actions: list[float], first: list[int], amount: int) -> list[list[float]]:
    flags = torch.zeros(1, len(actions), dtype=torch.bool)
    flags[:, first] = True
    moves = torch.tensor(actions)[None, :, None]
    loops = overshoot(Adder(), post, moves, flags, amount, silence)
    return [
        [round(x, 4) if ok else torch.nan for x, ok in zip(*entries, strict=True)]
        for entries in ((o.prior.stoch.flatten().tolist(), o.valid.flatten()) for o in loops)
    ]


def test_reference_case() -> None:
    post = sequence(10, 20, 30, 40, 50, 60)
    assert priors(post, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [], 3) == [
        [0.0, 10.1, 20.2, 30.3, 40.4, 50.5],
        [0.1, 10.3, 20.5, 30.7, 40.9],
        [0.3, 10.6, 20.9, 31.2],
        [0.6, 11.0, 21.4],
    ]


def test_no_loop_runs_into_another_episode() -> None:
    post, actions = sequence(10, 20, 30, 40, 50), [9.0, 0.1, 7.0, 0.3, 0.4]
    found = torch.tensor(priors(post, actions, [0, 2], 4)[1])
    nan = torch.nan
    assert priors(post, actions, [0, 2], 0) == [[0.0, 10.1, 0.0, 30.3, 40.4]]
    assert_close(found, torch.tensor([0.1, nan, 0.3, 30.7]), equal_nan=True)


def test_every_loop_draws_its_own_noise() -> None:
    asked: list[tuple[int, int]] = []

    def draw(B: int, n: int) -> Tensor:
        asked.append((B, n))
        return torch.full((B, n, 1), float(len(asked)))

    first = torch.zeros(1, 3, dtype=torch.bool)
    loops = list(overshoot(Adder(), sequence(10, 20, 30), torch.zeros(1, 3, 1), first, 2, draw))
    assert asked == [(1, 3), (1, 2), (1, 1)]
    assert [loop.prior.stoch.flatten().tolist() for loop in loops] == [[1, 11, 21], [3, 13], [6]]
