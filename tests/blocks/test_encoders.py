"""Encoders and decoders: sizes, preprocessing, joining, and sentences for what does not fit."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from agentzoo.blocks.decoders import ConvDecoder, Decoder, OnePixelConvTranspose2d
from agentzoo.blocks.encoders import ConvEncoder, Encoder, join_images
from agentzoo.blocks.layers import MLP, LayerNorm
from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.spec import ObsSpec


def image(h: int = 64, w: int = 64, c: int = 3) -> ObsSpec:
    return ObsSpec(kind="image", shape=(h, w, c), source=(h, w, c))


def vector(n: int) -> ObsSpec:
    return ObsSpec(kind="vector", shape=(n,), source=(n,))


def onehot(n: int) -> ObsSpec:
    return ObsSpec(kind="onehot", shape=(n,), source=(), nvec=(n,), start=(0,))


OBS = {"front": image(), "speed": vector(2), "back": image(c=1), "gear": onehot(3)}


def encoder(obs: dict[str, ObsSpec]) -> Encoder:
    return Encoder(obs, image=lambda c: ConvEncoder(c, 2), vector=lambda n: MLP(n, 5, 2))


def decoder(obs: dict[str, ObsSpec], std: float = 1.0) -> Decoder:
    return Decoder(
        obs,
        image=lambda c: ConvDecoder(6, c, 2),
        vector=lambda n: MLP(6, 5, 2, n),
        vector_std=std,
    )


def batch(*lead: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "front": torch.randint(0, 256, (*lead, 64, 64, 3), dtype=torch.uint8),
        "back": torch.randint(0, 256, (*lead, 64, 64, 1), dtype=torch.uint8),
        "speed": torch.randn(*lead, 2),
        "gear": torch.eye(3)[torch.randint(0, 3, lead)],
    }


def test_convolutions_shrink_and_grow_as_the_papers() -> None:
    sizes, net = [], ConvEncoder(3, 4)
    for layer in net.layers:
        layer.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[1:])))
    assert net(torch.zeros(1, 64, 64, 3)).shape == (1, net.size)
    assert sizes == [(4, 31, 31), (8, 14, 14), (16, 6, 6), (32, 2, 2)]
    sizes, back = [], ConvDecoder(230, 3, 4)
    for layer in back.layers:
        layer.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[1:])))
    assert back(torch.zeros(1, 230)).shape == (1, 64, 64, 3)
    assert sizes == [(16, 5, 5), (8, 13, 13), (4, 30, 30), (3, 64, 64)]


def test_one_pixel_is_convolved_as_torch_does() -> None:
    torch.manual_seed(0)
    ours, theirs = OnePixelConvTranspose2d(6, 4, 5, 2), nn.ConvTranspose2d(6, 4, 5, 2)
    theirs.load_state_dict(ours.state_dict())
    x, y = (torch.randn(3, 6, 1, 1), torch.randn(3, 4, 5, 5))
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    found, expected = ours(inputs[0]), theirs(inputs[1])
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    pairs = zip(
        torch.autograd.grad((found * y).sum(), [inputs[0], *ours.parameters()]),
        torch.autograd.grad((expected * y).sum(), [inputs[1], *theirs.parameters()]),
        strict=True,
    )
    for mine, reference in pairs:
        assert_close(mine, reference, rtol=1e-4, atol=1e-4)


def test_parameters_at_paper_size() -> None:
    assert sum(p.numel() for p in ConvEncoder(3).parameters()) == 690_144
    assert ConvEncoder(3).size == 1024
    assert sum(p.numel() for p in ConvDecoder(230, 3).parameters()) == 3_795_555


def test_images_are_scaled_to_a_half_around_zero() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    assert_close(join_images({"i": pixels}, ["i"]).flatten(), torch.tensor([-0.5, -0.3, 0.5]))


def test_embedding_joins_images_then_vectors() -> None:
    net, obs = encoder(OBS), batch(2, 3)
    embed = net(obs)
    assert embed.shape == (2, 3, 64 + 5)
    assert net.size == 64 + 5
    assert net.image is not None
    assert net.vector is not None
    pictures = torch.cat([obs["front"], obs["back"]], -1)[1, 2][None]
    assert_close(embed[1, 2, :64], net.image(pictures.float() / 255 - 0.5)[0], rtol=1e-4, atol=1e-5)
    assert_close(embed[1, 2, 64:], net.vector(torch.cat([obs["speed"], obs["gear"]], -1)[1, 2]))


def test_a_batch_is_encoded_as_its_elements() -> None:
    net, obs = encoder(OBS), batch(4)
    alone = [net({k: v[i : i + 1] for k, v in obs.items()}) for i in range(4)]
    assert_close(net(obs), torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_only_what_is_observed_is_built() -> None:
    assert encoder({"speed": vector(2)}).image is None
    assert encoder({"front": image()}).vector is None
    assert decoder({"speed": vector(2)}).image is None
    assert decoder({"front": image()}).vector is None


def test_decoder_losses_are_likelihoods_summed_over_each_observation() -> None:
    net, obs, feat = decoder(OBS, std=0.3), batch(2, 3), torch.randn(2, 3, 6)
    losses = net.losses(feat, obs)
    assert {k: tuple(v.shape) for k, v in losses.items()} == {"image": (2, 3), "vector": (2, 3)}
    assert net.image is not None
    assert net.vector is not None
    target = join_images(obs, ["front", "back"])[0, 1]
    mean = net.image(feat[0, 1][None])[0]
    expected = -torch.distributions.Normal(mean, 1.0).log_prob(target).sum()
    assert_close(losses["image"][0, 1], expected, rtol=1e-4, atol=1e-2)
    target = torch.cat([obs["speed"], obs["gear"]], -1)
    expected = -torch.distributions.Normal(net.vector(feat), 0.3).log_prob(target).sum(-1)
    assert_close(losses["vector"], expected)


def test_decoder_predicts_by_key_in_the_observations_units() -> None:
    predicted = decoder(OBS)(100 * torch.randn(2, 3, 6))
    shapes = {key: tuple(value.shape[2:]) for key, value in predicted.items()}
    assert shapes == {"front": (64, 64, 3), "back": (64, 64, 1), "speed": (2,), "gear": (3,)}
    assert predicted["front"].min() >= 0
    assert predicted["front"].max() <= 1


def test_images_of_different_size_are_refused() -> None:
    with pytest.raises(ConfigError, match='"a" 64x64, "b" 84x84; they are joined on channels'):
        encoder({"a": image(), "b": image(84, 84)})


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ConfigError, match='"a" has 84x96 pixels, the convolutions take 64x64'):
        encoder({"a": image(84, 96)})


def channels_normalised(x: torch.Tensor, norm: LayerNorm) -> torch.Tensor:
    """Mean 0 and variance 1 over the channels (N, c, h, w), the gain and offset of each."""
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    gain, offset = (p[:, None, None] for p in (norm.weight, norm.bias))
    return (x - mean) / torch.sqrt(var + 1e-3) * gain + offset


def test_convolutions_are_normalised_over_channels_before_each_activation() -> None:
    torch.manual_seed(0)
    net = ConvEncoder(3, 2, act=F.elu, norm=LayerNorm)
    back = ConvDecoder(6, 3, 2, act=F.elu, norm=LayerNorm)
    for p in [*net.norms.parameters(), *back.norms.parameters()]:
        nn.init.normal_(p, 1.0)
    image = torch.rand(2, 64, 64, 3) - 0.5
    x = image.permute(0, 3, 1, 2)
    for layer, norm in zip(net.layers, net.norms, strict=True):
        x = F.elu(channels_normalised(layer(x), norm.layer))  # type: ignore
    assert_close(net(image), x.permute(0, 2, 3, 1).flatten(1), rtol=1e-4, atol=1e-4)
    feat = torch.randn(2, 6)
    x = back.dense(feat)[:, :, None, None]
    for layer, norm in zip(back.layers[:3], back.norms, strict=True):
        x = F.elu(channels_normalised(layer(x), norm.layer))  # type: ignore
    x = back.layers[3](x)  # what is put out is neither normalised nor squashed
    assert_close(back(feat), x.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4)
