"""Scalar networks differentiated while they are evaluated: the same gradients as autograd's."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from agentzoo.blocks.fast import kernels
from agentzoo.blocks.fast import mlp_input_grad as slopes
from agentzoo.blocks.heads import BernoulliHead, NormalHead, fused_outputs
from agentzoo.blocks.layers import MLP, elu_

N, T, FEAT = 7, 3, 5


def head(layers: int) -> NormalHead:
    torch.manual_seed(layers)
    return NormalHead(FEAT, 6, layers).double()


def steps() -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    feats = torch.randn(T, N, FEAT, generator=draw, dtype=torch.float64)
    return [feat.requires_grad_() for feat in feats.unbind(0)]


def upstream() -> Tensor:
    return torch.randn(N, T, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("piece", [1024, 2])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_gradients_are_autograds(layers: int, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slopes, "STATES", piece)
    net, feats, up = head(layers), steps(), upstream()
    expected = net(torch.stack(feats, 1))
    by_input, by_weights = net.value_and_input_grad(feats)
    for out in (net.input_grad(feats), by_input, by_weights):
        assert_close(out, expected)
    params = list(net.parameters())
    of_feats = torch.autograd.grad(expected, feats, up, retain_graph=True)
    assert_close(torch.autograd.grad(net.input_grad(feats), feats, up), of_feats)
    assert_close(torch.autograd.grad(by_input, feats, up), of_feats)
    assert_close(
        torch.autograd.grad(by_weights, params, up), torch.autograd.grad(expected, params, up)
    )


def test_each_output_has_one_way_for_gradients() -> None:
    net, feats = head(2), steps()
    by_input, by_weights = net.value_and_input_grad(feats)
    params = list(net.parameters())
    for out, others in ((by_input, params), (net.input_grad(feats), params), (by_weights, feats)):
        with pytest.raises(RuntimeError, match="not have been used in the graph"):
            torch.autograd.grad(out.sum(), others)


def test_a_gradient_can_be_taken_twice() -> None:
    net, feats, up = head(3), steps(), upstream()
    _, by_weights = net.value_and_input_grad(feats)
    params = list(net.parameters())
    once = torch.autograd.grad(by_weights, params, up, retain_graph=True)
    assert_close(torch.autograd.grad(by_weights, params, up), once)


def test_the_logit_of_a_continuation_head() -> None:
    torch.manual_seed(0)
    net, feats, up = BernoulliHead(FEAT, 6, 2).double(), steps(), upstream()
    expected = net(torch.stack(feats, 1))
    found = net.input_grad(feats)
    assert_close(found, expected)
    assert_close(torch.autograd.grad(found, feats, up), torch.autograd.grad(expected, feats, up))


@pytest.mark.parametrize(
    ("net", "match"),
    [
        (MLP(FEAT, 4, 1, 2), "not a scalar network"),
        (MLP(FEAT, 4, 1, 1, act=F.silu), "not a scalar network"),
        (MLP(FEAT, 4, 1, 1, norm=torch.nn.LayerNorm), "not a scalar network"),
        (MLP(FEAT, 4, 1, 1, early=2), "early input"),
    ],
)
def test_other_networks_are_refused(net: MLP, match: str) -> None:
    with pytest.raises(AssertionError, match=match):
        slopes.input_grad(net, [torch.zeros(N, FEAT)])


def test_elu_in_place_has_the_gradient_of_elu() -> None:
    x = torch.linspace(-3, 3, 13, dtype=torch.float64, requires_grad=True)
    product, plain = 2 * x, F.elu(2 * x)
    out = elu_(product)
    assert out.data_ptr() == product.data_ptr()
    assert_close(out, plain)
    assert_close(torch.autograd.grad(out.sum(), x), torch.autograd.grad(plain.sum(), x))


def test_networks_that_share_a_product_do_not_overwrite_it() -> None:
    torch.manual_seed(0)
    heads = [BernoulliHead(FEAT, 6, 2), BernoulliHead(FEAT, 6, 1)]
    feat = torch.randn(N, FEAT, requires_grad=True)
    together, apart = fused_outputs(feat, *heads), [one(feat) for one in heads]
    assert_close(together, apart)
    assert_close(
        torch.autograd.grad(sum(together).sum(), feat), torch.autograd.grad(sum(apart).sum(), feat)
    )


def test_under_autocast_gradients_are_the_plain_ones_but_for_rounding() -> None:
    net, up = head(3).float(), upstream()
    feats = [feat.detach().float().requires_grad_() for feat in steps()]
    params, found = list(net.parameters()), {}
    for kind in ("fast", "plain"):
        with torch.autocast("cpu", torch.bfloat16), kernels(kind):
            by_input, by_weights = net.value_and_input_grad(feats)
        assert by_input.dtype is by_weights.dtype is torch.float32
        of_feats = torch.autograd.grad(by_input, feats, up)
        found[kind] = [by_input, *of_feats, *torch.autograd.grad(by_weights, params, up)]
    for mine, plain in zip(*found.values(), strict=True):
        assert_close(mine, plain, rtol=0.05, atol=0.03 * plain.abs().max().item())
