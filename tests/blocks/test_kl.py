"""Gaussian divergence in closed form, the rules for free nats, and balancing."""

import math

import pytest
import torch
from torch.testing import assert_close

from agentzoo.blocks.kl import free_nats_on_mean, free_nats_per_step, gaussian_kl, kl_balancing
from agentzoo.blocks.latents import CategoricalLatent, GaussianLatent


def full(value: float) -> torch.Tensor:
    return torch.full((30,), value, dtype=torch.float64)


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [(0.5, 0.5, 13.2944154), (1.0, 1.0, 15.0), (0.0, 1.0, 0.0)],
)
def test_known_divergences(mean: float, std: float, expected: float) -> None:
    assert gaussian_kl(full(mean), full(std), full(0), full(1)).item() == pytest.approx(expected)


def test_equals_a_monte_carlo_estimate() -> None:
    torch.manual_seed(0)
    mean, std, prior_mean, prior_std = torch.rand(4, 3) + 0.2
    x = mean + std * torch.randn(400_000, 3)
    ratio = -0.5 * ((x - mean) / std) ** 2 - std.log() + 0.5 * ((x - prior_mean) / prior_std) ** 2
    estimate = (ratio + prior_std.log()).sum(-1).mean()
    assert_close(gaussian_kl(mean, std, prior_mean, prior_std), estimate, atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("kl", "value", "gradient"),
    [((1, 9), 5.0, (0.5, 0.5)), ((1, 3), 3.0, (0, 0)), ((2.5, 3.4), 3.0, (0, 0))],
)
def test_free_nats_on_the_mean(kl: tuple, value: float, gradient: tuple) -> None:
    kl = torch.tensor([kl], dtype=torch.float64, requires_grad=True)
    loss = free_nats_on_mean(kl, 3.0)
    loss.backward()
    assert loss.item() == pytest.approx(value)
    assert kl.grad is not None
    assert kl.grad[0].tolist() == pytest.approx(gradient)


def test_free_nats_on_the_mean_at_the_boundary() -> None:
    assert free_nats_on_mean(torch.tensor([[1.0, 5.0]]), 3.0).item() == 3.0


@pytest.mark.parametrize(
    ("kl", "value", "gradient"),
    [((1, 5), 1.0, (0, 0.5)), ((1, 2.9), 0.0, (0, 0)), ((1, 9), 3.0, (0, 0.5))],
)
def test_free_nats_per_step(kl: tuple, value: float, gradient: tuple) -> None:
    kl = torch.tensor([kl], dtype=torch.float64, requires_grad=True)
    loss = free_nats_per_step(kl, 3.0).mean()
    loss.backward()
    assert loss.item() == pytest.approx(value)
    assert kl.grad is not None
    assert kl.grad[0].tolist() == pytest.approx(gradient)


def test_gaussian_latent_of_a_silent_network() -> None:
    latent, stats = GaussianLatent(30), torch.zeros(2, 60)
    mean, std = latent.parameters(stats)
    assert_close(std, torch.full((2, 30), 0.7931471806))
    assert_close(mean, torch.zeros(2, 30))
    assert_close(latent.entropy(stats), torch.full((2,), 35.615762))
    assert_close(latent.kl(stats, stats), torch.zeros(2))


def test_gaussian_latent_sample_and_mode() -> None:
    latent, stats = GaussianLatent(1, min_std=0.5), torch.tensor([[2.0, 0.0]])
    noise = torch.tensor([[-3.0]])
    assert latent.sample(stats, noise).item() == pytest.approx(2 - 3 * (math.log(2) + 0.5))
    assert latent.mode(stats).item() == 2.0


@pytest.mark.parametrize(
    ("dyn", "rep", "free", "value", "shares"),
    [
        ((1, 5), (1, 5), 0.0, 3.0, (0.8, 0.2)),
        ((1, 5), (1, 5), 3.5, 3.5, (0, 0)),  # the mean counts, not the step
        ((1, 9), (1, 2), 3.0, 0.8 * 5 + 0.2 * 3, (0.8, 0)),  # each side by itself
    ],
)
def test_balancing_shares_the_divergence_out(
    dyn: tuple, rep: tuple, free: float, value: float, shares: tuple
) -> None:
    sides = [torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (dyn, rep)]
    loss = kl_balancing(*sides, 0.8, free)
    assert loss.item() == pytest.approx(value)
    grads = torch.autograd.grad(loss, sides)
    for grad, share in zip(grads, shares, strict=True):
        assert grad[0].tolist() == pytest.approx([share / 2] * 2)


def test_balancing_moves_the_prior_four_times_as_far() -> None:
    latent = CategoricalLatent(1, 2)
    post = torch.tensor([[0.7, 0.0]], requires_grad=True)
    prior = torch.tensor([[0.71, 0.0]], requires_grad=True)
    dyn, rep = latent.kl(post.detach(), prior), latent.kl(post, prior.detach())
    assert_close(dyn, rep)
    # close by, the divergence is as steep on either side
    grads = torch.autograd.grad(kl_balancing(dyn, rep, 0.8, 0.0), (prior, post))
    assert (grads[0] / -grads[1])[0].tolist() == pytest.approx([4.0, 4.0], rel=0.01)
