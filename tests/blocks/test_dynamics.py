"""The unit that resets before its product, and dynamics with one kind of state only."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from agentzoo.blocks.cores import ResetBeforeGRUCore, StochasticCore
from agentzoo.blocks.init import keras_init
from agentzoo.blocks.latents import GaussianLatent, MeanLatent
from agentzoo.blocks.layers import MLP
from agentzoo.blocks.rssm import RSSM

B, T, A, E, D, S = 3, 5, 2, 7, 8, 4


def stochastic() -> RSSM:
    torch.manual_seed(0)
    latent = GaussianLatent(S)
    core = StochasticCore(S, A, 9, latent.stats_size)
    posterior = MLP(core.size, 9, 1, latent.stats_size, early=E)
    return RSSM(core, latent, nn.Identity(), posterior, features="stoch").apply(keras_init)


def deterministic() -> RSSM:
    torch.manual_seed(0)
    latent = MeanLatent(S)
    prior, posterior = MLP(D, 9, 1, 2 * S), MLP(D, 9, 1, 2 * S, early=E)
    return RSSM(ResetBeforeGRUCore(S, A, 9, D), latent, prior, posterior).apply(keras_init)


def sequence(rssm: RSSM) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    first = torch.zeros(B, T, dtype=torch.bool)
    first[:, 0], first[1, 3] = True, True
    noise = torch.randn(B, T, *rssm.latent.noise_shape)
    return torch.randn(B, T, A), torch.randn(B, T, E), first, noise


def test_gru_resets_before_the_product() -> None:
    core = ResetBeforeGRUCore(S, A, 9, D).apply(keras_init)
    deter, stoch, action = torch.randn(B, D), torch.randn(B, S), torch.randn(B, A)
    x = torch.relu(core.inputs(stoch, core.project(action)))
    W, V = core.gates.weight, core.candidate.weight
    for i in range(B):
        joined = torch.cat([x[i], deter[i]])
        r = torch.sigmoid(W[:D] @ joined + 1)
        u = torch.sigmoid(W[D:] @ joined + 1)
        c = torch.tanh(V @ torch.cat([x[i], r * deter[i]]))
        expected = u * deter[i] + (1 - u) * c
        assert_close(core(deter, stoch, core.project(action))[i], expected)


def test_gru_parameters_at_paper_size() -> None:
    core = ResetBeforeGRUCore(30, 6, 200, 200).apply(keras_init)
    gru = [core.gates.weight, core.gate_bias, *core.candidate.parameters()]
    assert sum(p.numel() for p in gru) == 240_600
    assert (core.gate_bias == 1).all()
    assert not core.candidate.bias.any()


@pytest.mark.parametrize("build", [stochastic, deterministic])
def test_observe_equals_repeated_obs_step(build: type) -> None:
    rssm = build()
    actions, embeds, first, noise = sequence(rssm)
    whole = rssm.observe(rssm.initial(B), actions, embeds, first, noise)
    state = rssm.initial(B)
    for t in range(T):
        state = rssm.obs_step(state, actions[:, t], embeds[:, t], first[:, t], noise[:, t])
        for one, all_ in zip(state, whole, strict=True):
            assert_close(one, all_[:, t])


def test_stochastic_dynamics_remember_their_sample_alone() -> None:
    rssm = stochastic()
    assert rssm.feat_size == S
    prev = rssm.initial(B)._replace(stoch=torch.randn(B, S))
    action, noise = torch.randn(B, A), torch.randn(B, S)
    after = rssm.img_step(prev, action, noise)
    other = rssm.img_step(prev._replace(deter=torch.randn(B, 2 * S)), action, noise)
    assert all(torch.equal(a, b) for a, b in zip(after, other, strict=True))
    assert torch.equal(rssm.feat(after), after.stoch)
    assert torch.equal(rssm.prior(after), after.stats)
    assert_close(after.stoch, rssm.latent.sample(rssm.prior(after), noise))


def test_stochastic_posterior_corrects_the_prior() -> None:
    rssm = stochastic()
    actions, embeds, first, noise = sequence(rssm)
    post = rssm.observe(rssm.initial(B), actions, embeds, first, noise)
    prev = rssm.initial(B)._replace(stoch=post.stoch[:, 0])
    expected = rssm.img_step(prev, actions[:, 1], noise[:, 1]).stats
    assert_close(rssm.prior(post)[:, 1], expected)
    assert not torch.allclose(post.stats[:, 1], expected)


def test_deterministic_dynamics_draw_nothing_and_still_have_a_divergence() -> None:
    rssm = deterministic()
    actions, embeds, first, noise = sequence(rssm)
    assert noise.numel() == 0
    post = rssm.observe(rssm.initial(B), actions, embeds, first, noise)
    assert torch.equal(post.stoch, post.stats[..., :S])
    assert (rssm.latent.kl(post.stats, rssm.prior(post)) > 0).all()


@pytest.mark.parametrize("build", [stochastic, deterministic])
def test_gradient_reaches_every_parameter_through_time(build: type) -> None:
    rssm = build()
    actions, embeds, first, noise = sequence(rssm)
    post = rssm.observe(rssm.initial(B), actions, embeds, first, noise)
    loss = (
        rssm.feat(post)[:, -1].square().sum() + rssm.latent.kl(post.stats, rssm.prior(post)).sum()
    )
    grads = torch.autograd.grad(loss, list(rssm.parameters()))
    for name, grad in zip(dict(rssm.named_parameters()), grads, strict=True):
        assert grad.abs().sum() > 0, name
