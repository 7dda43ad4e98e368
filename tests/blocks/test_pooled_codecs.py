"""DreamerV3's encoder and decoder: shapes, sizes that are refused, closed forms of the losses."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from agentzoo.blocks.decoders import (
    SymlogDecoder,
    UpsampledConv,
    UpsampleDecoder,
)
from agentzoo.blocks.distributions import symlog
from agentzoo.blocks.encoders import PoolEncoder, SymlogEncoder, pooled_image_shape
from agentzoo.blocks.fast.max_pool import max_pool2x2
from agentzoo.blocks.fast.upsampled_conv import depth_to_space
from agentzoo.blocks.layers import MLP, RMSNorm
from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.spec import ObsSpec


def image(h: int, w: int, c: int = 3) -> ObsSpec:
    return ObsSpec(kind="image", shape=(h, w, c), source=(h, w, c))


VECTOR = ObsSpec(kind="vector", shape=(5,), source=(5,))
ONEHOT = ObsSpec(kind="onehot", shape=(6,), source=(2,), nvec=(4, 2), start=(0, 0))


def mlp(inputs: int, outputs: int | None = None) -> MLP:
    return MLP(inputs, 8, 3, outputs, act=F.silu, norm=RMSNorm)


def encoder(**obs: ObsSpec) -> SymlogEncoder:
    return SymlogEncoder(obs, image=lambda shape: PoolEncoder(shape, 2), vector=mlp)


def decoder(**obs: ObsSpec) -> SymlogDecoder:
    return SymlogDecoder(
        obs,
        image=lambda shape: UpsampleDecoder(16, 8, shape, 2, 8),
        vector=lambda: mlp(24),
    )


@pytest.mark.parametrize(("h", "w", "size"), [(64, 64, 128), (96, 96, 288), (48, 80, 120)])
def test_four_halvings_of_the_image(h: int, w: int, size: int) -> None:
    net = encoder(image=image(h, w))
    assert net.size == size == (h // 16) * (w // 16) * 8
    assert net({"image": torch.zeros(2, 3, h, w, 3, dtype=torch.uint8)}).shape == (2, 3, size)
    shown = decoder(image=image(h, w))(torch.randn(2, 3, 24))["image"]
    assert shown.shape == (2, 3, h, w, 3)
    assert 0 <= shown.min() <= shown.max() <= 1


@pytest.mark.parametrize(("h", "w"), [(32, 32), (84, 84), (64, 100), (272, 272)])
def test_sizes_that_do_not_halve_are_refused_with_those_that_do(h: int, w: int) -> None:
    with pytest.raises(ConfigError, match=rf"{h}x{w} pixels; .* multiple of 16 from 48 to 256"):
        pooled_image_shape({"image": image(h, w)})


def test_images_of_different_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r'differ in size: "a" 64x64, "b" 96x96'):
        encoder(a=image(64, 64), b=image(96, 96))


def test_vectors_come_first_and_are_squashed_but_one_hots_are_not() -> None:
    net = encoder(choice=ONEHOT, state=VECTOR, image=image(64, 64), more=image(64, 64, 1))
    assert pooled_image_shape({"image": image(64, 64), "more": image(64, 64, 1)}) == (64, 64, 4)
    hot = torch.tensor([[0.0, 1, 0, 0, 0, 1]])
    obs = {
        "choice": hot,
        "state": 100 * torch.randn(1, 5),
        "image": torch.zeros(1, 64, 64, 3, dtype=torch.uint8),
        "more": torch.zeros(1, 64, 64, 1, dtype=torch.uint8),
    }
    expected = net.vector(torch.cat([hot, symlog(obs["state"])], -1))  # type: ignore
    assert_close(net(obs)[:, :8], expected)
    assert net(obs).shape == (1, 8 + 128)


def test_an_encoder_reads_pixels_between_minus_and_plus_a_half() -> None:
    net = encoder(image=image(64, 64))
    seen: list[torch.Tensor] = []
    net.image.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))  # type: ignore
    net({"image": torch.full((1, 64, 64, 3), 255, dtype=torch.uint8)})
    assert (seen[0] == 0.5).all()


def test_a_grey_guess_of_a_black_image_costs_a_quarter_a_pixel() -> None:
    net = decoder(image=image(64, 64))
    torch.nn.init.zeros_(net.image.out.weight)  # type: ignore
    torch.nn.init.zeros_(net.image.out.bias)  # type: ignore
    black = torch.zeros(2, 3, 64, 64, 3, dtype=torch.uint8)
    loss = net.losses(torch.randn(2, 3, 24), {"image": black})["image"]
    assert_close(loss, torch.full((2, 3), 3072.0))


def test_vectors_cost_their_distance_in_symlog_and_classes_their_surprise() -> None:
    net = decoder(state=VECTOR, choice=ONEHOT)
    for out in net.outs:
        torch.nn.init.zeros_(out.weight)  # type: ignore
        torch.nn.init.zeros_(out.bias)  # type: ignore
    state, hot = torch.tensor([0.0, 1, -1, math.e - 1, 0]), torch.tensor([0.0, 0, 1, 0, 1, 0])
    obs = {"state": state.expand(2, 3, 5), "choice": hot.expand(2, 3, 6)}
    losses = net.losses(torch.randn(2, 3, 24), obs)
    assert_close(losses["state"], torch.full((2, 3), 2 * math.log(2) ** 2 + 1))
    assert_close(losses["choice"], torch.full((2, 3), math.log(4) + math.log(2)))
    net.outs[0].bias.data.fill_(math.log(11))  # type: ignore
    shown = net(torch.randn(2, 3, 24))
    assert_close(shown["state"], torch.full((2, 3, 5), 10.0))
    assert (shown["choice"].sum(-1) == 2).all()


def test_a_block_of_the_deterministic_state_fills_a_slice_of_the_channels() -> None:
    net = UpsampleDecoder(16, 8, (64, 64, 3), 2, 8)
    seen: list[torch.Tensor] = []
    net.norm.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    feat = torch.zeros(1, 24)
    net(feat)
    feat[0, 8 + 2 * 3 : 8 + 2 * 4] = 1.0  # the fourth of eight slices of `deter`
    torch.nn.init.ones_(net.from_deter.weight)
    net(feat)
    changed = (seen[1] != seen[0]).any(dim=(0, 1, 2))
    assert changed.nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize(("h", "w"), [(1, 1), (4, 6)])
def test_an_upsampled_convolution_is_upsampling_and_a_convolution(h: int, w: int) -> None:
    net = UpsampledConv(3, 5).double()
    image = torch.randn(2, 3, h, w, dtype=torch.double, requires_grad=True)
    given = (image, net.weight, net.bias)
    larger = F.interpolate(image, scale_factor=2.0)
    expected = F.conv2d(larger, net.weight, net.bias, padding=2)
    result = depth_to_space(net(image))
    assert_close(result, expected)
    up = torch.randn_like(expected)
    grads = torch.autograd.grad(result, given, up)  # type: ignore
    assert_close(grads, torch.autograd.grad(expected, given, up))  # type: ignore


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooling_has_pytorchs_gradient_where_pixels_tie_too(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    # three values in 2x2 pixels: most maxima are reached more than once
    image = torch.randint(3, (5, 4, 6, 8)).float().to(memory_format=layout).requires_grad_()
    result, expected = max_pool2x2(image), F.max_pool2d(image, 2)
    assert torch.equal(result, expected)
    up = torch.randn_like(expected)
    (grad,) = torch.autograd.grad(result, image, up)
    assert torch.equal(grad, torch.autograd.grad(expected, image, up)[0])
    with torch.no_grad():
        assert torch.equal(max_pool2x2(image), expected)
