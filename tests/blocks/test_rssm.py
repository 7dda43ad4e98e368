"""The recurrent state-space model: one step, many steps, resets, and what may flow where."""

import math
from typing import Literal

import pytest
import torch
from torch.testing import assert_close

from agentzoo.blocks.cores import GRUCore
from agentzoo.blocks.init import keras_init
from agentzoo.blocks.latents import GaussianLatent
from agentzoo.blocks.layers import MLP, SplitLinear
from agentzoo.blocks.rssm import RSSM, State

B, T, A, E, D, S = 3, 6, 2, 7, 8, 4


def build(initial: Literal["zeros", "learned"] = "zeros") -> RSSM:
    torch.manual_seed(0)
    latent = GaussianLatent(S)
    rssm = RSSM(
        GRUCore(S, A, 9, D),
        latent,
        prior=MLP(D, 9, 1, latent.stats_size),
        posterior=MLP(D, 9, 1, latent.stats_size, early=E),
        initial=initial,
    )
    rssm.apply(keras_init)
    if rssm.initial_deter is not None:
        torch.nn.init.normal_(rssm.initial_deter)
    return rssm


def sequence(T: int = T) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    first = torch.zeros(B, T, dtype=torch.bool)
    return torch.randn(B, T, A), torch.randn(B, T, E), first, torch.randn(B, T, S)


def test_gru_core_is_torchs_gru_cell_after_a_dense_layer() -> None:
    core = GRUCore(S, A, 9, D)
    cell = torch.nn.GRUCell(9, D)
    with torch.no_grad():
        cell.weight_ih.copy_(core.kernel.weight)
        cell.bias_ih.copy_(core.kernel.bias)
        cell.weight_hh.copy_(core.recurrent.weight)
        cell.bias_hh.copy_(core.recurrent.bias)
    deter, stoch, action = torch.randn(5, D), torch.randn(5, S), torch.randn(5, A)
    weight = torch.cat([core.inputs.late.weight, core.inputs.early.weight], 1)
    x = torch.nn.functional.linear(torch.cat([stoch, action], 1), weight, core.inputs.early.bias)
    expected = cell(torch.nn.functional.elu(x), deter)
    assert_close(core(deter, stoch, core.project(action)), expected)


def test_gru_parameters_at_paper_size() -> None:
    core = GRUCore(30, 6, 200, 200)
    gru = [*core.kernel.parameters(), *core.recurrent.parameters()]
    assert sum(p.numel() for p in gru) == 241_200


@pytest.mark.parametrize(("A", "expected"), [(1, 556_920), (6, 557_920), (12, 559_120)])
def test_parameters_at_paper_size(A: int, expected: int) -> None:
    with torch.device("meta"):
        rssm = RSSM(
            GRUCore(30, A, 200, 200),
            GaussianLatent(30),
            prior=MLP(200, 200, 1, 60),
            posterior=MLP(200, 200, 1, 60, early=1024),
        )
    assert sum(p.numel() for p in rssm.parameters()) == expected
    assert rssm.feat_size == 230


@pytest.mark.parametrize("initial", ["zeros", "learned"])
def test_observe_equals_repeated_obs_step(initial: Literal["zeros", "learned"]) -> None:
    rssm = build(initial)
    actions, embeds, first, noise = sequence()
    first[:, 0], first[1, 3] = True, True
    whole = rssm.observe(rssm.initial(B), actions, embeds, first, noise)
    state = rssm.initial(B)
    for t in range(T):
        state = rssm.obs_step(state, actions[:, t], embeds[:, t], first[:, t], noise[:, t])
        for one, all_ in zip(state, whole, strict=True):
            assert_close(one, all_[:, t])


@pytest.mark.parametrize("initial", ["zeros", "learned"])
def test_is_first_forgets_history_and_previous_action(
    initial: Literal["zeros", "learned"],
) -> None:
    rssm = build(initial)
    actions, embeds, first, noise = sequence()
    first[:, 3] = True
    prev = State(torch.randn(B, D), torch.randn(B, S), torch.randn(B, 2 * S))
    joined = rssm.observe(prev, actions, embeds, first, noise)
    actions[:, 3] = 0
    fresh = rssm.observe(rssm.initial(B), actions[:, 3:], embeds[:, 3:], first[:, :3], noise[:, 3:])
    for a, b in zip(joined, fresh, strict=True):
        assert_close(a[:, 3:], b)


def test_is_first_concerns_its_own_sequence_only() -> None:
    rssm = build()
    actions, embeds, first, noise = sequence()
    before = rssm.observe(rssm.initial(B), actions, embeds, first, noise)
    first[1, 2] = True
    after = rssm.observe(rssm.initial(B), actions, embeds, first, noise)
    assert torch.equal(before.deter[[0, 2]], after.deter[[0, 2]])
    assert torch.equal(before.deter[1, :2], after.deter[1, :2])
    assert not torch.equal(before.deter[1, 2], after.deter[1, 2])


def test_a_window_may_begin_with_a_real_previous_action() -> None:
    rssm = build()
    actions, embeds, first, noise = sequence()
    a = rssm.observe(rssm.initial(B), actions, embeds, first, noise)
    actions[:, 0] += 1
    b = rssm.observe(rssm.initial(B), actions, embeds, first, noise)
    assert not torch.equal(a.deter[:, 0], b.deter[:, 0])


def test_posterior_shares_the_deterministic_state_with_the_prior() -> None:
    rssm = build()
    actions, embeds, first, noise = sequence(1)
    post = rssm.obs_step(rssm.initial(B), actions[:, 0], embeds[:, 0], first[:, 0], noise[:, 0])
    imagined = rssm.img_step(rssm.initial(B), actions[:, 0], noise[:, 0])
    assert_close(post.deter, imagined.deter)
    assert_close(rssm.prior(post), imagined.stats)
    assert not torch.allclose(post.stats, imagined.stats)


def test_posterior_sees_no_future() -> None:
    rssm = build()
    actions, embeds, first, noise = sequence()
    before = rssm.observe(rssm.initial(B), actions, embeds, first, noise)
    embeds[:, 4:] += 1
    after = rssm.observe(rssm.initial(B), actions, embeds, first, noise)
    assert torch.equal(before.stoch[:, :4], after.stoch[:, :4])
    assert not torch.equal(before.stoch[:, 4], after.stoch[:, 4])


def test_feat_is_the_sample_then_the_deterministic_part() -> None:
    state = State(torch.ones(B, D), torch.zeros(B, S), torch.zeros(B, 2 * S))
    feat = build().feat(state)
    assert feat[0].tolist() == [0.0] * S + [1.0] * D


def test_initial_is_zeros_or_learned() -> None:
    zeros = build().initial(2, 3)
    assert [tuple(x.shape) for x in zeros] == [(2, 3, D), (2, 3, S), (2, 3, 2 * S)]
    assert all(not x.any() for x in zeros)
    learned = build("learned")
    state = learned.initial(2)
    assert learned.initial_deter is not None
    assert_close(state.deter[1], torch.tanh(learned.initial_deter))
    assert_close(state.stoch, learned.prior(state).chunk(2, -1)[0])


def test_gradient_reaches_every_parameter_through_time() -> None:
    rssm = build("learned")
    actions, embeds, first, noise = sequence()
    first[:, 0] = True
    post = rssm.observe(rssm.initial(B), actions, embeds, first, noise)
    loss = rssm.feat(post)[:, -1].square().sum() + rssm.prior(post).sum()
    for name, grad in zip(
        dict(rssm.named_parameters()),
        torch.autograd.grad(loss, list(rssm.parameters())),
        strict=True,
    ):
        assert grad.abs().sum() > 0, name


def test_split_linear_is_one_linear_map() -> None:
    split, x, y = SplitLinear(3, 5, 4), torch.randn(2, 3), torch.randn(2, 5)
    weight = torch.cat([split.late.weight, split.early.weight], 1)
    joined = torch.nn.functional.linear(torch.cat([x, y], 1), weight, split.early.bias)
    assert_close(split(x, split.project(y)), joined)


def test_keras_init() -> None:
    rssm = build()
    core = rssm.core
    assert isinstance(core, GRUCore)
    eye = core.recurrent.weight.T @ core.recurrent.weight
    assert_close(eye, torch.eye(D), atol=1e-5, rtol=0)
    for name, param in rssm.named_parameters():
        assert name.endswith("weight") or not param.any(), name
    bound = math.sqrt(6 / (9 + 3 * D))
    assert 0.8 * bound < core.kernel.weight.abs().max() <= bound
    # both halves of a split layer have the fan of the whole
    bound = math.sqrt(6 / (D + E + 9))
    assert isinstance(rssm.post_net.first, SplitLinear)
    for half in (rssm.post_net.first.late, rssm.post_net.first.early):
        assert 0.8 * bound < half.weight.abs().max() <= bound
