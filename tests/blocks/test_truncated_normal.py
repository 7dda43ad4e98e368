"""The inverse normal against torch's, truncated samples, density and entropy against integrals."""

import math

import pytest
import torch
from torch.testing import assert_close

from agentzoo.blocks.truncated_normal import (
    entropy,
    inverse_normal_cdf,
    log_prob,
    normal_cdf,
    sample,
)


def test_inverse_matches_torch_in_centre_and_tails():
    p = torch.cat([torch.linspace(1e-6, 0.03, 200), torch.linspace(0.03, 1 - 1e-6, 400)])
    exact = math.sqrt(2) * torch.erfinv(2 * p.double() - 1)
    assert (inverse_normal_cdf(p.double()) - exact).abs().max() < 3e-6
    central = (p > 1e-3) & (p < 1 - 1e-3)
    assert (inverse_normal_cdf(p) - exact)[central].abs().max() < 2e-5


def test_inverse_is_odd_and_zero_at_one_half():
    p = torch.tensor([0.5, 0.01, 0.99, 0.2, 0.8], dtype=torch.float64)
    x = inverse_normal_cdf(p)
    assert x[0] == 0
    torch.testing.assert_close(x[1::2], -x[2::2])


def test_samples_follow_the_truncated_distribution():
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    loc, scale = torch.tensor(0.3).double(), torch.tensor(0.5).double()
    x = sample(loc, scale, u)
    a, b = (-1 - loc) / scale, (1 - loc) / scale
    density = lambda z: torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)  # noqa: E731
    mean = loc + scale * (density(a) - density(b)) / (normal_cdf(b) - normal_cdf(a))
    assert x.min() >= -1
    assert x.max() <= 1
    assert abs(x.mean() - mean) < 1e-4


def test_far_locations_and_extreme_noise_stay_finite_and_inside():
    loc = torch.tensor([-5.0, 0.0, 5.0]).repeat_interleave(2)
    x = sample(loc, torch.full((6,), 0.1), torch.tensor([0.0, 1 - 1e-7] * 3))
    assert torch.isfinite(x).all()
    assert (x.abs() <= 1).all()


def test_gradient_reaches_location_and_scale():
    loc, scale = torch.tensor(0.2, requires_grad=True), torch.tensor(0.4, requires_grad=True)
    d_loc, d_scale = torch.autograd.grad(sample(loc, scale, torch.tensor(0.7)), [loc, scale])
    eps = 1e-3
    up = sample(loc + eps, scale, torch.tensor(0.7)) - sample(loc - eps, scale, torch.tensor(0.7))
    wide = sample(loc, scale + eps, torch.tensor(0.7)) - sample(loc, scale - eps, torch.tensor(0.7))
    torch.testing.assert_close(d_loc, up.detach() / (2 * eps), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(d_scale, wide.detach() / (2 * eps), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("loc", [-1.0, 0.0, 0.3, 0.99])
@pytest.mark.parametrize("scale", [0.1, 0.5, 1.1, 2.1])
def test_density_integrates_to_one_and_gives_the_entropy(loc: float, scale: float):
    mean, std = torch.tensor(loc).double(), torch.tensor(scale).double()
    x = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 100_000 - 1
    logs = log_prob(x, mean, std)
    density = logs.exp()
    one = torch.ones((), dtype=torch.float64)
    assert_close(density.mean() * 2, one, rtol=0, atol=1e-8)
    assert_close(-(density * logs).mean() * 2, entropy(mean, std), rtol=0, atol=1e-8)


def test_density_is_that_of_the_samples():
    loc, scale, u = torch.tensor(0.3).double(), torch.tensor(0.5).double(), torch.tensor(0.4)
    u = u.double().requires_grad_()
    x = sample(loc, scale, u)
    (slope,) = torch.autograd.grad(x, u)
    # inversion: density times dx/du is the uniform density
    assert_close(log_prob(x.detach(), loc, scale), -slope.log(), rtol=0, atol=1e-5)


def test_a_very_wide_one_is_uniform():
    loc, scale = torch.tensor(0.2).double(), torch.tensor(1e3).double()
    assert_close(entropy(loc, scale).item(), math.log(2), rtol=0, atol=1e-6)
