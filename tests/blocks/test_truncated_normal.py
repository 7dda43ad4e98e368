"""The inverse normal against torch's, and truncated samples against the closed form."""

import math

import torch

from agentzoo.blocks.truncated_normal import inverse_normal_cdf, normal_cdf, sample


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
