"""Symlog, the bins and the two-hot code against closed forms."""

import math

import pytest
import torch
from torch.testing import assert_close

from agentzoo.blocks.distributions import symexp, symlog
from agentzoo.blocks.heads import TwoHotHead
from agentzoo.blocks.twohot import symexp_bins, twohot_loss, twohot_mean, twohot_weights

CODES = {
    0.0: {127: 1.0},
    0.1: {127: 0.413688, 128: 0.586312},
    0.5: {129: 0.444608, 130: 0.555392},
    1.0: {131: 0.617329, 132: 0.382671},
    -1.0: {122: 0.382671, 123: 0.617329},
    5.0: {138: 0.640706, 139: 0.359294},
    10.0: {142: 0.786963, 143: 0.213037},
    100.0: {156: 0.710529, 157: 0.289471},
    -3.7: {117: 0.815568, 118: 0.184432},
    1e9: {254: 1.0},
    -1e9: {0: 1.0},
}


def dense(x: float) -> torch.Tensor:
    low, upper = twohot_weights(torch.tensor([x]), symexp_bins())
    code = torch.zeros(255)
    code[low] += 1 - upper
    code[low + 1] += upper
    return code


@pytest.mark.parametrize(
    ("x", "y"),
    [(0, 0), (0.5, 0.4054651), (1, 0.6931472), (2, 1.0986123), (5, 1.7917595), (10, 2.3978953),
     (-10, -2.3978953), (100, 4.6151205), (1000, 6.9087548), (1e6, 13.8155116)],
)  # fmt: skip
def test_symlog_and_its_inverse(x: float, y: float) -> None:
    assert symlog(torch.tensor(x)).item() == pytest.approx(y, abs=1e-6)
    assert symexp(symlog(torch.tensor(x, dtype=torch.float64))).item() == pytest.approx(x)


def test_symexp_of_the_sheet() -> None:
    x = torch.tensor([0.1, 1, -1, 2, 3, 5, 10, 20], dtype=torch.float64)
    y = [0.1051709, 1.7182818, -1.7182818, 6.3890561, 19.0855369, 147.4131591, 22025.4657948,
         485165194.4097903]  # fmt: skip
    assert_close(symexp(x), torch.tensor(y, dtype=torch.float64), rtol=1e-6, atol=1e-7)


def test_bins_are_antisymmetric_around_an_exact_zero() -> None:
    bins = symexp_bins()
    assert bins.shape == (255,)
    assert bins[127] == 0
    assert torch.equal(bins, -bins.flip(0))
    assert (bins.diff() > 0).all()
    assert bins[0].item() == pytest.approx(-485165194.41, rel=1e-5)
    expected = torch.tensor([0.1705577, 0.3702054, 0.6039045, 0.8774627, 1.1976785])
    assert_close(bins[128:133], expected, rtol=1e-5, atol=1e-6)
    assert_close(
        symlog(bins.double()).diff(), torch.full((254,), 20 / 127).double(), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("x", CODES)
def test_two_neighbours_share_a_number(x: float) -> None:
    code = dense(x)
    expected = torch.zeros(255)
    for index, weight in CODES[x].items():
        expected[index] = weight
    assert_close(code, expected, rtol=0, atol=2e-5)
    if abs(x) < 1e6:
        assert (code * symexp_bins()).sum().item() == pytest.approx(x, rel=1e-4, abs=1e-6)


def test_weights_are_linear_between_bins_and_not_between_their_logarithms() -> None:
    """The algorithm of 2023 shared numbers out in symlog; this is the later one."""
    low, upper = twohot_weights(symlog(torch.tensor([10.0])), torch.linspace(-20, 20, 255))
    assert (low.item(), upper.item()) == (142, pytest.approx(0.226635, abs=1e-5))
    assert dense(10.0)[143].item() == pytest.approx(0.213037, abs=2e-5)


@pytest.mark.parametrize("x", [0.0, 0.3, -7.0, 250.0, 1e9])
def test_the_loss_is_the_cross_entropy_to_the_dense_code(x: float) -> None:
    logits = torch.randn(1, 255, generator=torch.Generator().manual_seed(0))
    expected = -(dense(x) * torch.log_softmax(logits, -1)).sum(-1)
    assert_close(twohot_loss(logits, torch.tensor([x]), symexp_bins()), expected)


def test_the_mean_is_the_expectation() -> None:
    logits = 3 * torch.randn(4, 255, generator=torch.Generator().manual_seed(0)).double()
    logits[:, :100] = logits[:, 155:] = -60.0
    bins = symexp_bins().double()
    expected = (torch.softmax(logits, -1) * bins).sum(-1)
    assert_close(twohot_mean(logits, bins), expected)


def test_a_zero_head_predicts_exactly_zero_and_costs_ln_255() -> None:
    head = TwoHotHead(6, 8, 1)
    head.scale_output(0.0)
    torch.nn.init.zeros_(head.net.out.bias)  # type: ignore
    logits = head(torch.randn(50, 6))
    assert (head.prediction(logits).mean == 0).all()
    assert_close(head.prediction(logits).loss(torch.randn(50)), torch.full((50,), math.log(255)))
    assert "bins" not in head.state_dict()


def test_targets_have_no_gradient_and_logits_learn_the_code() -> None:
    logits = torch.zeros(1, 255, requires_grad=True)
    (grad,) = torch.autograd.grad(
        twohot_loss(logits, torch.tensor([10.0]), symexp_bins()).sum(), logits
    )
    assert_close(grad[0], torch.full((255,), 1 / 255) - dense(10.0))


def test_several_targets_at_once_are_the_weighted_sum() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 255, requires_grad=True)
    bins, first, second = symexp_bins(), torch.randn(6) * 10, torch.randn(6)
    together = twohot_loss(logits, first, bins, (0.3, second))
    apart = twohot_loss(logits, first, bins) + 0.3 * twohot_loss(logits, second, bins)
    assert_close(together, apart)
    up = torch.rand(6)
    assert_close(torch.autograd.grad(together, logits, up), torch.autograd.grad(apart, logits, up))


def test_the_gradient_is_that_of_the_dense_cross_entropy() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 255, requires_grad=True)
    target, up = torch.tensor([10.0, -0.4]), torch.tensor([0.5, 2.0])
    codes = torch.stack([dense(x) for x in target.tolist()])
    expected = -(codes * torch.log_softmax(logits, -1)).sum(-1)
    found = twohot_loss(logits, target, symexp_bins())
    assert_close(found, expected)
    assert_close(torch.autograd.grad(found, logits, up), torch.autograd.grad(expected, logits, up))
