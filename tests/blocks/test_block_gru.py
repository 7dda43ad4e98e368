"""Block-diagonal layers and the unit made of them, against plain loops over the blocks."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from agentzoo.blocks.cores import BlockGRUCore
from agentzoo.blocks.fast import norm_silu
from agentzoo.blocks.heads import BernoulliHead, fused_outputs
from agentzoo.blocks.init import trunc_normal_init
from agentzoo.blocks.layers import (
    MLP,
    BlockLinear,
    RMSNorm,
    SharedBlockLinear,
    SplitLinear,
)


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    for p in module.parameters():
        nn.init.normal_(p)
    return module


def test_each_slice_has_its_own_weight() -> None:
    layer = randomised(BlockLinear(6, 9, 3))
    x = torch.randn(5, 6)
    slices = [x[:, 2 * g : 2 * g + 2] @ layer.weight[g] for g in range(3)]  # type: ignore
    assert_close(layer(x), torch.cat(slices, -1) + layer.bias)


def test_a_shared_input_is_appended_to_every_slice() -> None:
    layer = SharedBlockLinear(6, 2, 3, 9, 3)
    randomised(layer)
    x, late, early = torch.randn(5, 6), torch.randn(5, 2), torch.randn(5, 3)
    expected = []
    for g in range(3):
        joined = torch.cat([x[:, 2 * g : 2 * g + 2], late, early], -1)
        expected.append(joined @ layer.weight[:, 3 * g : 3 * g + 3])
    found = layer(x, late, layer.project(early))
    assert_close(found, torch.cat(expected, -1) + layer.bias, rtol=1e-4, atol=1e-5)


def rms(x: Tensor, gain: Tensor) -> Tensor:
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-4) * gain


def test_rms_norm_divides_by_the_root_mean_square() -> None:
    norm = randomised(RMSNorm(7))
    x = torch.randn(3, 7) / 10
    assert_close(norm(x), rms(x, norm.weight))  # type: ignore
    assert norm(x.bfloat16()).dtype is torch.float32


@pytest.mark.parametrize("piece", [8, 2**17])  # two vectors at once, or all
def test_norm_and_silu_have_their_gradient_in_pieces_too(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(norm_silu, "PIECE", piece)
    norm = RMSNorm(4)
    torch.nn.init.normal_(norm.weight)
    shared = torch.randn(3, 5, 6, requires_grad=True)
    x = shared[..., 1:5]  # a slice of a product that others share
    result, expected = norm(x, silu=True), F.silu(norm(x))
    assert_close(result, expected)
    up = torch.randn(3, 5, 4).mT.contiguous().mT
    given = (shared, norm.weight)
    grads = torch.autograd.grad(result, given, up)
    assert_close(grads, torch.autograd.grad(expected, given, up), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert_close(norm(x, silu=True), expected.detach())


def test_fused_norm_keeps_the_digits_of_float64() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, dtype=torch.float64, requires_grad=True)
    expected = F.silu(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-4) * weight)
    result = norm_silu.norm_silu(x, weight, 1e-4)
    assert_close(result, expected, rtol=1e-14, atol=1e-14)
    grads = torch.autograd.grad(result.sum(), (x, weight))
    closed = torch.autograd.grad(expected.sum(), (x, weight))
    assert_close(grads, closed, rtol=1e-13, atol=1e-13)


def test_in_bfloat16_norm_and_silu_round_once() -> None:
    norm = RMSNorm(6)
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    x, up = torch.randn(2, 5, 4, 6, generator=draw).bfloat16().unbind(0)
    wants = [x.requires_grad_(), norm.weight]
    full = norm(x.float(), silu=True)
    result = norm(x, silu=True)
    assert torch.equal(result, full.bfloat16())
    of_x, of_gain = torch.autograd.grad(result, wants, up)
    expected = torch.autograd.grad(full, wants, up.float())
    assert torch.equal(of_x, expected[0])
    assert_close(of_gain, expected[1], rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(norm(x, silu=True), result)


def test_the_core_is_the_equations_of_the_paper() -> None:
    D, Z, A, h, G = 12, 5, 2, 4, 3
    core = BlockGRUCore(Z, A, h, D, G)
    randomised(core)
    deter, stoch, action = torch.rand(6, D), torch.rand(6, Z), 2 * torch.randn(6, A)
    embeds = []
    scaled = action / torch.clamp(action.abs(), min=1)
    inputs = (core.from_deter, deter), (core.from_stoch, stoch), (core.from_action, scaled)
    for net, x in inputs:
        embeds.append(F.silu(rms(net.first(x), net.norms[0].weight)))
    n, hidden = D // G, []
    for g in range(G):
        joined = torch.cat([deter[:, n * g : n * (g + 1)], *embeds], -1)
        hidden.append(joined @ core.inputs.weight[:, n * g : n * (g + 1)])
    x = F.silu(rms(torch.cat(hidden, -1) + core.inputs.bias, core.norm.weight))
    expected = []
    for g in range(G):
        own = slice(n * g, n * (g + 1))
        gates = x[:, own] @ core.gates.weight[g] + core.gates.bias[3 * n * g : 3 * n * (g + 1)]
        reset, candidate, update = gates.split(n, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1)
        expected.append(update * candidate + (1 - update) * deter[:, own])
    found = core(deter, stoch, core.project(action))
    assert_close(found, torch.cat(expected, -1), rtol=1e-4, atol=1e-5)


def test_nothing_comes_of_nothing() -> None:
    core = BlockGRUCore(8, 2, 4, 16)
    core.apply(trunc_normal_init)
    deter = core(torch.zeros(3, 16), torch.zeros(3, 8), core.project(torch.zeros(3, 2)))
    assert (deter == 0).all()


def test_a_fresh_gate_keeps_most_of_the_state() -> None:
    core = BlockGRUCore(8, 2, 4, 16)
    for p in core.gates.parameters():
        nn.init.zeros_(p)
    deter = torch.randn(3, 16)
    kept = core(deter, torch.randn(3, 8), core.project(torch.randn(3, 2)))
    assert_close(kept, deter * (1 - 0.2689414))


@pytest.mark.parametrize(
    ("module", "weight", "fan"),
    [
        (nn.Linear(300, 200), "weight", 300),
        (nn.Conv2d(24, 40, 5), "weight", 600),
        (BlockLinear(320, 1600, 8), "weight", 320),
        (SharedBlockLinear(320, 64, 32, 400, 8), "weight", 320 + 8 * 96),
        (SplitLinear(200, 100, 300), "late.weight", 300),
        (SplitLinear(200, 100, 300), "early.weight", 300),
    ],
)
def test_weights_are_truncated_normals_of_the_fan_in(
    module: nn.Module, weight: str, fan: int
) -> None:
    torch.manual_seed(0)
    module.apply(trunc_normal_init)
    found = module.get_parameter(weight)
    assert found.std().item() == pytest.approx(1 / math.sqrt(fan), rel=0.03)
    assert found.abs().max().item() <= 2 * 1.1368 / math.sqrt(fan) * 1.0001
    assert all((p == 0).all() for name, p in module.named_parameters() if "bias" in name)


def test_normalised_layers_come_before_the_activation() -> None:
    net = MLP(3, 5, 2, 4, act=F.silu, norm=RMSNorm)
    randomised(net)
    x, gains = torch.randn(6, 3), [norm.weight for norm in net.norms]
    hidden = F.silu(rms(F.silu(rms(net.first(x), gains[0])) @ net.hidden[0].weight.T  # type: ignore
                        + net.hidden[0].bias, gains[1]))  # type: ignore  # fmt: skip
    assert_close(net(x), net.out(hidden))  # type: ignore


def test_heads_on_one_feature_share_their_first_product() -> None:
    heads = [BernoulliHead(5, 4, layers, norm=RMSNorm) for layers in (1, 2)]
    feat = torch.randn(3, 2, 5)
    together = fused_outputs(feat, *heads)
    for head, found in zip(heads, together, strict=True):
        assert_close(found, head(feat))
    (grad,) = torch.autograd.grad(together[0].sum(), heads[0].net.first.weight)
    assert grad.abs().sum() > 0
