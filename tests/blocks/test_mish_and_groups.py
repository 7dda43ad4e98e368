"""The kernels of Mish and of softmax in groups, beside their plain forms."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from agentzoo.blocks.fast import kernels, mish
from agentzoo.blocks.fast.group_softmax import group_softmax
from agentzoo.blocks.simnorm import SimNorm


def gradient(of: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    up = torch.linspace(-1, 1, x.numel()).view(x.shape)
    return torch.autograd.grad(of(x), x, up)[0]


def test_mish_is_mish_everywhere() -> None:
    x = torch.cat([torch.linspace(-30, 30, 4001), torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4])])
    exact = F.mish(x.double()).float()
    torch.testing.assert_close(mish.mish(x), exact, rtol=1e-6, atol=1e-30)
    learned = mish.mish(x.clone().requires_grad_())
    torch.testing.assert_close(learned, exact, rtol=1e-6, atol=1e-30)


def test_slope_of_mish_is_autograds() -> None:
    x = torch.linspace(-30, 30, 4001)
    slope = gradient(lambda x: F.mish(x.double()), x)
    torch.testing.assert_close(gradient(mish.mish, x), slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("piece", [1, 7, 100], ids=["one", "uneven", "whole"])
def test_pieces_of_mish_are_the_whole(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).t()
    whole = gradient(mish.mish, x)
    monkeypatch.setattr(mish, "PIECE", piece)
    assert torch.equal(gradient(mish.mish, x), whole)
    assert torch.equal(mish.mish(x.clone().requires_grad_()), mish.mish(x))


def test_plain_mish_is_torchs() -> None:
    x = torch.linspace(-5, 5, 101)
    with kernels("plain"):
        assert torch.equal(mish.mish(x), F.mish(x))


@pytest.mark.parametrize("shape", [(16,), (3, 16), (2, 0, 16), (2, 3, 16)], ids=str)
def test_groups_add_up_to_one_as_softmax_does(shape: tuple[int, ...]) -> None:
    x = 5 * torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def plain(x: Tensor) -> Tensor:
        return torch.softmax(x.view(*shape[:-1], 4, 4), -1).view(shape)

    found = group_softmax(x, 4)
    torch.testing.assert_close(found, plain(x), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(
        gradient(lambda x: group_softmax(x, 4), x), gradient(plain, x), rtol=1e-5, atol=1e-7
    )
    sums = found.view(*shape[:-1], 4, 4).sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_simnorm_is_the_same_with_and_without_kernels() -> None:
    x, simnorm = torch.tensor([[0.0, 0.0, 1e4, -1e4]]), SimNorm(2)
    expected = torch.tensor([[0.5, 0.5, 1.0, 0.0]])
    assert torch.equal(simnorm(x), expected)
    with kernels("plain"):
        assert torch.equal(simnorm(x), expected)
