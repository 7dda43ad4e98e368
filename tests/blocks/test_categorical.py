"""Categorical latents: samples, gradients, indices, and the RSSM around them."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from agentzoo.blocks.cores import BlockGRUCore
from agentzoo.blocks.latents import CategoricalLatent
from agentzoo.blocks.layers import MLP, RMSNorm
from agentzoo.blocks.rssm import RSSM

S, K = 3, 4


def test_frequencies_are_the_mixed_probabilities() -> None:
    latent = CategoricalLatent(1, 4, unimix=0.2)
    stats = torch.tensor([2.0, 1, 0, -1]).expand(40_000, 4)
    noise = torch.rand(40_000, 1, 4, generator=torch.Generator().manual_seed(0))
    expected = 0.8 * torch.softmax(stats[0], -1) + 0.05
    assert_close(latent.sample(stats, noise).mean(0), expected, rtol=0, atol=0.01)


def test_a_sample_is_one_hot_with_the_gradient_of_the_mixed_probabilities() -> None:
    latent = CategoricalLatent(S, K, unimix=0.01)
    stats = torch.randn(5, S * K, requires_grad=True)
    sample = latent.sample(stats, torch.rand(5, S, K))
    assert sample.shape == (5, S * K)
    assert set(sample.detach().flatten().tolist()) == {0.0, 1.0}
    assert (sample.unflatten(-1, (S, K)).sum(-1) == 1).all()
    weight = torch.randn(5, S * K)
    probs = 0.99 * torch.softmax(stats.unflatten(-1, (S, K)), -1) + 0.01 / K
    (found,) = torch.autograd.grad((sample * weight).sum(), stats)
    (expected,) = torch.autograd.grad((probs.flatten(-2) * weight).sum(), stats)
    assert_close(found, expected)


def test_indices_are_bytes_and_go_back() -> None:
    latent = CategoricalLatent(S, K)
    stoch = latent.sample(torch.randn(2, 5, S * K), torch.rand(2, 5, S, K))
    index = latent.index(stoch)
    assert (index.shape, index.dtype) == ((2, 5, S), torch.uint8)
    assert torch.equal(latent.onehot(index), stoch)


def test_divergence_entropy_and_mode() -> None:
    latent = CategoricalLatent(S, K, unimix=0.01)
    post, prior = torch.randn(2, S * K), torch.randn(2, S * K)
    mixed = [0.99 * torch.softmax(x.unflatten(-1, (S, K)), -1) + 0.01 / K for x in (post, prior)]
    p, q = (torch.distributions.Categorical(x) for x in mixed)
    assert_close(latent.kl(post, prior), torch.distributions.kl_divergence(p, q).sum(-1))
    assert_close(latent.entropy(post), p.entropy().sum(-1))
    assert (latent.kl(post, post).abs() < 1e-6).all()
    assert torch.equal(latent.index(latent.mode(post)), mixed[0].argmax(-1).to(torch.uint8))


def test_the_margin_is_of_the_closest_choice() -> None:
    latent = CategoricalLatent(2, 3)
    stats = torch.tensor([[5.0, 0, 0, 1.0, 0.9, 0]])
    margin = latent.margin(stats, torch.full((1, 2, 3), 0.5))
    assert margin.item() == pytest.approx(0.1, abs=1e-5)


def test_an_episodes_start_forgets_what_came_before() -> None:
    torch.manual_seed(0)
    latent = CategoricalLatent(S, K, unimix=0.01)
    rssm = RSSM(
        BlockGRUCore(latent.size, 2, 4, 8, 2),
        latent,
        prior=MLP(8, 4, 2, latent.size, act=F.silu, norm=RMSNorm),
        posterior=MLP(8, 4, 1, latent.size, early=5, act=F.silu, norm=RMSNorm),
    )
    B, T = 2, 6
    actions, embeds = torch.randn(B, T, 2), torch.randn(B, T, 5)
    noise = torch.rand(B, T, S, K)
    first = torch.zeros(B, T, dtype=torch.bool)
    first[:, 3] = True
    states = [
        rssm.observe(rssm.initial(B)._replace(deter=deter), a, embeds, first, noise)
        for deter, a in ((torch.zeros(B, 8), actions), (torch.ones(B, 8), actions + 1))
    ]
    assert not torch.equal(states[0].deter[:, 2], states[1].deter[:, 2])
    assert torch.equal(states[0].deter[:, 3], states[1].deter[:, 3])
    assert torch.equal(states[0].stoch[:, 3], states[1].stoch[:, 3])
    alone = rssm.obs_step(rssm.initial(B), actions[:, 3], embeds[:, 3], first[:, 3], noise[:, 3])
    assert_close(alone.deter, states[0].deter[:, 3])
