"""LaProp and adaptive clipping against closed forms and a loop over scalars."""

import math

import pytest
import torch
from torch.testing import assert_close

from agentzoo.blocks.init import joined_name
from agentzoo.blocks.optim import AdaptiveClip, LaProp
from agentzoo.runtime.errors import RunError


def test_a_gradient_is_clipped_to_a_share_of_its_weight() -> None:
    clip = AdaptiveClip(0.3, ["w", "small", "zero"])
    weights = [torch.tensor([2.0, 0.0]), torch.tensor([2.0]), torch.zeros(2)]
    grads = [torch.tensor([0.6, 0.8]), torch.tensor([0.5]), torch.tensor([3.0, 4.0])]
    clipped = clip(grads, weights)
    assert_close(clipped[0], torch.tensor([0.36, 0.48]))  # limit 0.3 * 2, norm 1
    assert_close(clipped[1], torch.tensor([0.5]))
    assert torch.linalg.vector_norm(clipped[2]).item() == pytest.approx(3e-4)


def test_the_halves_of_a_weight_are_clipped_as_one() -> None:
    names = ["net.first.late.weight", "net.first.early.weight", "net.first.early.bias"]
    owners = [joined_name(name) for name in names]
    assert owners == ["net.first.weight", "net.first.weight", "net.first.early.bias"]
    weights = [torch.tensor([3.0]), torch.tensor([4.0]), torch.tensor([1.0])]
    grads = [torch.tensor([6.0]), torch.tensor([8.0]), torch.tensor([1.0])]
    clipped = AdaptiveClip(0.3, owners)(grads, weights)
    assert_close(clipped, [torch.tensor([0.9]), torch.tensor([1.2]), torch.tensor([0.3])])


def test_no_gradient_is_no_clipping() -> None:
    (clipped,) = AdaptiveClip(0.3, ["w"])([torch.zeros(3)], [torch.zeros(3)])
    assert (clipped == 0).all()


def test_a_constant_gradient_moves_by_the_learning_rate() -> None:
    p = torch.tensor([5.0, -5.0, 5.0])
    optimizer = LaProp({"p": p}, lr=0.1, warmup=0, clip=math.inf)
    for t in range(1, 6):
        optimizer.step([torch.tensor([3.0, -0.001, 0.0])])
        assert_close(p, torch.tensor([5 - 0.1 * t, -5 + 0.1 * t, 5]), rtol=1e-4, atol=1e-5)


def test_the_learning_rate_warms_up_from_zero() -> None:
    p, rates = torch.zeros(1), []
    for index in (0, 1, 999, 1000, 5000):
        optimizer = LaProp({"p": p}, lr=4e-5, warmup=1000, clip=math.inf)
        # the moments as they stand after that many gradients of one
        optimizer.state["step"].fill_(index)
        optimizer.state["square.p"].fill_(1 - 0.999**index)
        optimizer.state["mean.p"].fill_(1 - 0.9**index)
        before = p.clone()
        optimizer.step([torch.ones(1)])
        rates.append((before - p).item())
    assert rates == pytest.approx([0, 4e-8, 3.996e-5, 4e-5, 4e-5], rel=1e-3)


def test_five_steps_of_a_loop_over_scalars() -> None:
    generator = torch.Generator().manual_seed(0)
    p, m, v, value = torch.tensor([2.0]), 0.0, 0.0, 2.0
    optimizer = LaProp({"p": p}, lr=0.01, warmup=3, clip=0.3, betas=(0.9, 0.99))
    for t in range(1, 6):
        g = torch.randn(1, generator=generator)
        norm = optimizer.step([g])
        assert norm.item() == pytest.approx(abs(g.item()))
        clipped = g.item() * min(1, 0.3 * max(1e-3, abs(value)) / abs(g.item()))
        v = 0.99 * v + 0.01 * clipped**2
        m = 0.9 * m + 0.1 * clipped / (math.sqrt(v / (1 - 0.99**t)) + 1e-20)
        value -= 0.01 * min(1, (t - 1) / 3) * m / (1 - 0.9**t)
        assert p.item() == pytest.approx(value, rel=1e-5)


def test_state_goes_on_where_it_was() -> None:
    a, b = torch.ones(3), torch.ones(3)
    first, second = LaProp({"p": a}, lr=0.1), LaProp({"p": b}, lr=0.1)
    for k in range(3):
        first.step([torch.arange(3.0) + k])
    b.copy_(a)
    second.load_state_dict(first.state_dict())
    for optimizer in (first, second):
        optimizer.step([torch.ones(3)])
    assert torch.equal(a, b)
    with pytest.raises(RunError, match="stand on one side only"):
        second.load_state_dict({"step": torch.zeros(())})
