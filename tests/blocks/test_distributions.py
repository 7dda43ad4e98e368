"""Densities integrate to one, samples follow their noise, gradients go straight through."""

import math

import pytest
import torch
from torch.testing import assert_close

from agentzoo.blocks.distributions import (
    gumbel,
    normal_nll,
    onehot_argmax,
    straight_through,
    tanh_log_det,
    tanh_normal_log_prob,
    top2_margin,
)


def test_normal_nll_constants() -> None:
    assert normal_nll(torch.zeros(()), torch.zeros(())).item() == pytest.approx(0.9189385332)
    image = torch.zeros(64, 64, 3, dtype=torch.float64)
    assert normal_nll(image, image).sum().item() == pytest.approx(11291.916696)


def test_normal_nll_against_torch() -> None:
    x, mean = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    expected = -torch.distributions.Normal(mean, 0.3).log_prob(x)
    assert_close(normal_nll(x, mean, 0.3), expected)


@pytest.mark.parametrize(
    ("u", "expected"), [(0, 0), (1, -0.8675616610), (5, -8.6137964), (-5, -8.6137964)]
)
def test_tanh_log_det(u: float, expected: float) -> None:
    assert tanh_log_det(torch.tensor(u, dtype=torch.float64)).item() == pytest.approx(
        expected, abs=1e-7
    )


def test_tanh_log_det_is_finite_far_out() -> None:
    assert tanh_log_det(torch.tensor([-60.0, 60.0])).tolist() == pytest.approx([-118.6137] * 2)


def test_tanh_normal_density_integrates_to_one() -> None:
    mean, std = torch.tensor([0.4]), torch.tensor([0.7])
    u = torch.linspace(-9, 9, 20_001)[:, None]
    density = tanh_normal_log_prob(u, (u - mean) / std, std).exp()
    assert torch.trapezoid(density, torch.tanh(u[:, 0])).item() == pytest.approx(1, abs=1e-3)


def test_tanh_normal_log_prob_sums_the_dimensions() -> None:
    u = torch.zeros(5, 3)
    expected = torch.full((5,), -3 * (0.5 * math.log(2 * math.pi) + math.log(2)))
    assert_close(tanh_normal_log_prob(u, u, torch.full((3,), 2.0)), expected)


def test_gumbel_is_finite_at_both_ends() -> None:
    ends = gumbel(torch.tensor([0.0, 1.0, 1 - 2**-24]))
    assert torch.isfinite(ends).all()
    assert ends[0] < -2.7
    assert ends[1] > 15


def test_gumbel_max_samples_the_categorical() -> None:
    logits = torch.tensor([0.1, 0.2, 0.7]).log()
    uniform = torch.rand(200_000, 3, generator=torch.Generator().manual_seed(0))
    frequency = onehot_argmax(logits + gumbel(uniform)).mean(0)
    assert_close(frequency, torch.tensor([0.1, 0.2, 0.7]), atol=0.005, rtol=0)


def test_straight_through_has_the_value_of_the_onehot_and_the_gradient_of_softmax() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0]], requires_grad=True)
    hot, weight = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    out = straight_through(hot, logits)
    assert_close(out.detach(), hot)
    (grad,) = torch.autograd.grad((out * weight).sum(), logits)
    (expected,) = torch.autograd.grad((logits.softmax(-1) * weight).sum(), logits)
    assert_close(grad, expected)


def test_top2_margin() -> None:
    scores = torch.tensor([[1.0, 4.0, 3.5], [2.0, 2.0, 0.0], [0.5, 0.25, 0.0], [-8.0, -7.0, -9.0]])
    assert top2_margin(scores).tolist() == [0.125, 0.0, 0.25, 0.125]  # relative beyond 1
    assert top2_margin(100 * scores[:1]).tolist() == [0.125]
    assert top2_margin(torch.zeros(2, 1)).tolist() == [torch.inf, torch.inf]
