"""Imagination: alignment of states and actions, and the paths of gradients."""

import torch
from torch import Tensor
from torch.testing import assert_close

from agentzoo.blocks.cores import GRUCore
from agentzoo.blocks.imagination import imagine
from agentzoo.blocks.latents import GaussianLatent
from agentzoo.blocks.layers import MLP
from agentzoo.blocks.rssm import RSSM, State

N, H, A, D, S = 5, 4, 2, 6, 3


def build() -> tuple[RSSM, MLP, State, Tensor, Tensor]:
    torch.manual_seed(0)
    latent = GaussianLatent(S)
    post = MLP(D, 5, 1, latent.stats_size, early=7)
    rssm = RSSM(GRUCore(S, A, 5, D), latent, MLP(D, 5, 1, latent.stats_size), post)
    start = State(torch.randn(N, D), torch.randn(N, S), torch.zeros(N, 2 * S))
    return rssm, MLP(D + S, 5, 1, A), start, torch.randn(N, H, S), torch.randn(N, H, A)


def test_each_action_leads_from_its_state_to_the_next() -> None:
    rssm, net, start, eps, xi = build()
    imagined = imagine(rssm, lambda feat, noise: net(feat) + noise, start, eps, xi)
    assert imagined.feat.shape == (N, H + 1, D + S)
    assert imagined.action.shape == (N, H, A)
    state = start
    for t in range(H):
        assert_close(imagined.feat[:, t], rssm.feat(state))
        assert_close(imagined.action[:, t], net(imagined.feat[:, t]) + xi[:, t])
        state = rssm.img_step(state, imagined.action[:, t], eps[:, t])
    assert_close(imagined.feat[:, H], rssm.feat(state))


def test_gradient_of_the_last_state_reaches_the_policy_through_the_dynamics() -> None:
    rssm, net, start, eps, xi = build()
    for h in (1, 2, H):
        policy = lambda feat, noise: net(feat.detach()) + noise  # noqa: E731
        imagined = imagine(rssm, policy, start, eps[:, :h], xi[:, :h])
        grads = torch.autograd.grad(imagined.feat[:, -1].sum(), list(net.parameters()))
        assert all(grad.abs().sum() > 0 for grad in grads)


def test_a_policy_that_stops_gradients_is_credited_through_actions_only() -> None:
    rssm, net, start, eps, xi = build()
    taken: list[Tensor] = []

    def policy(feat: Tensor, noise: Tensor) -> Tensor:
        taken.append(net(feat.detach()) + noise)
        return taken[-1]

    loss = imagine(rssm, policy, start, eps, xi).feat[:, -1].sum()
    actions = [action.detach().requires_grad_() for action in taken]
    recorded = iter(actions)
    same = imagine(rssm, lambda feat, noise: next(recorded), start, eps, xi).feat[:, -1].sum()
    assert_close(loss, same)
    by_action = torch.autograd.grad(same, actions)
    params = list(net.parameters())
    expected = torch.autograd.grad(taken, params, by_action, retain_graph=True)
    assert_close(torch.autograd.grad(loss, params), expected)


def test_nothing_is_recorded_under_no_grad() -> None:
    rssm, net, start, eps, xi = build()
    with torch.no_grad():
        imagined = imagine(rssm, lambda feat, noise: net(feat) + noise, start, eps, xi)
    assert not imagined.feat.requires_grad
