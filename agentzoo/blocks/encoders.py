"""Encoders: raw observations to one embedding."""

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.policy.spaces import resize_advice
from agentzoo.runtime.spec import ObsSpec

from .distributions import symlog
from .fast.max_pool import max_pool2x2
from .layers import MLP, Activation, Normalization, RMSNorm, channel_norms
from .standardize import Standardizer

IMAGE_SIZE = 64  # height and width in pixels that the convolutions of these papers are made for


# of the pooled convolutions
WIDTHS = (2, 3, 4, 4)  # channels of each stage over the depth
SMALLEST, LARGEST = 3, 16  # pixels a side after the last stage
SIDES = range(SMALLEST << len(WIDTHS), (LARGEST << len(WIDTHS)) + 1, 1 << len(WIDTHS))


def image_keys(obs: Mapping[str, ObsSpec]) -> list[str]:
    """Keys of the images, in the observations' order.

    Raises:
        ConfigError: if images differ in size, or have a size the convolutions do not take.
    """
    keys = [key for key, spec in obs.items() if spec.kind == "image"]
    sizes = {key: obs[key].shape[:2] for key in keys}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f'"{key}" {h}x{w}' for key, (h, w) in sizes.items())
        raise ConfigError(
            f"the images differ in size: {listed}; they are joined on channels, so resize them to "
            f"{IMAGE_SIZE}x{IMAGE_SIZE}"
        )
    for key, (h, w) in sizes.items():
        if (h, w) != (IMAGE_SIZE, IMAGE_SIZE):
            raise ConfigError(
                f'the image "{key}" has {h}x{w} pixels, the convolutions take {IMAGE_SIZE}x'
                f"{IMAGE_SIZE}; {resize_advice(obs, key, IMAGE_SIZE)}"
            )
    return keys


def vector_keys(obs: Mapping[str, ObsSpec]) -> list[str]:
    """Keys of everything that is not an image, in the observations' order."""
    return [key for key, spec in obs.items() if spec.kind != "image"]


def join_images(obs: Mapping[str, Tensor], keys: list[str]) -> Tensor:
    """Images (..., h, w, c) joined on channels: uint8 ones scaled to [-0.5, 0.5], others as given.

    Source: danijar/dreamer dreamer.py:preprocess, x / 255 - 0.5.
    """
    image = torch.cat([obs[key] for key in keys], -1) if len(keys) > 1 else obs[keys[0]]
    return image.float() / 255 - 0.5 if image.dtype == torch.uint8 else image


def dequantise(image: Tensor, noise: Tensor, bits: int = 5) -> Tensor:
    """Coarser colours, spread evenly within their steps: a density on them cannot be infinite.

    floor(x / 2^(8 - bits)) / 2^bits + noise / 2^bits - 0.5

    Args:
        image: (...) uint8.
        noise: (...) uniform in [0, 1).
        bits: of colour that are kept, 1 to 8.

    Returns:
        (...) float32 in [-0.5, 0.5).

    Source: google-research/planet tools/preprocess.py; Kingma & Dhariwal 2018 (arXiv:1807.03039).
    """
    bins = 2**bits
    return (torch.floor(image.float() / (256 // bins)) + noise) / bins - 0.5


def join_vectors(obs: Mapping[str, Tensor], keys: list[str]) -> Tensor:
    """Vectors (..., n) joined on the last axis, float32."""
    return torch.cat([obs[key].float() for key in keys], -1)


class ConvEncoder(nn.Module):
    """Four convolutions of kernel 4 and stride 2 without padding: 64 -> 31 -> 14 -> 6 -> 2.

    Args:
        channels: channels of the image.
        depth: filters of the first convolution; each further one has twice as many.
        act: activation.
        norm: makes a normalisation of the channels, applied before each activation.

    Source: Ha & Schmidhuber 2018 (arXiv:1803.10122); danijar/dreamer models.py:ConvEncoder. ELU and
    normalisation danijar/dreamerv2 common/nets.py:Encoder.
    """

    def __init__(
        self,
        channels: int,
        depth: int = 32,
        *,
        act: Activation = F.relu,
        norm: Normalization | None = None,
    ) -> None:
        super().__init__()
        self.act = act
        widths = [channels, depth, 2 * depth, 4 * depth, 8 * depth]
        self.size = 2 * 2 * widths[-1]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 4, 2) for a, b in pairwise(widths))
        self.layers.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.norms = channel_norms(widths[1:], norm)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 64, 64, c) in [-0.5, 0.5] -> (N, 32 * depth)."""
        x = image.permute(0, 3, 1, 2)  # a view of channels-last memory
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.act(norm(layer(x)))
        return x.permute(0, 2, 3, 1).flatten(1)


class Encoder(nn.Module):
    """All observations to one embedding: images through one network, vectors through another.

    Args:
        obs: the observations.
        image: makes the image network from the number of channels; it has a `size`.
        vector: makes the vector network from the length of the joined vectors; it has a `size`.
        standardize: none|prefill|running, how the vectors are standardised; see `Standardizer`.

    Attributes:
        standardizer: of the joined vectors, or None; the decoder shares it.

    Raises:
        ConfigError: if the images' sizes do not fit.
    """

    def __init__(
        self,
        obs: Mapping[str, ObsSpec],
        *,
        image: Callable[[int], ConvEncoder],
        vector: Callable[[int], MLP],
        standardize: str = "none",
    ) -> None:
        super().__init__()
        self.images, self.vectors = image_keys(obs), vector_keys(obs)
        channels = sum(obs[key].shape[-1] for key in self.images)
        length = sum(obs[key].shape[0] for key in self.vectors)
        self.image = image(channels) if self.images else None
        self.vector = vector(length) if self.vectors else None
        self.size = sum(net.size for net in (self.image, self.vector) if net is not None)
        self.standardizer = self._standardizer(obs, standardize)

    def _standardizer(self, obs: Mapping[str, ObsSpec], form: str) -> Standardizer | None:
        # one-hots are scaled already
        each = [obs[key].kind == "vector" for key in self.vectors for _ in range(*obs[key].shape)]
        if form == "none" or not any(each):
            return None
        return Standardizer(each, running=form == "running")

    def measure(self, transitions: Mapping[str, np.ndarray], *, learning: bool) -> None:
        """Take vectors (B, ...) into their statistics, if they are standardised."""
        if self.standardizer is None:
            return
        device = self.standardizer.mean.device
        vectors = {key: torch.from_numpy(transitions[key]).to(device) for key in self.vectors}
        self.standardizer.measure(join_vectors(vectors, self.vectors), learning=learning)

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Raw observations (..., *shape) -> (..., E); the image part comes first."""
        embeds: list[Tensor] = []
        if self.image is not None:
            image = join_images(obs, self.images)
            # (..., h, w, c) -> (N, h, w, c) -> (..., E)
            embed = self.image(image.flatten(0, -4))
            embeds.append(embed.unflatten(0, image.shape[:-3]))
        if self.vector is not None:
            vector = join_vectors(obs, self.vectors)
            scaled = vector if self.standardizer is None else self.standardizer(vector)
            embeds.append(self.vector(scaled))
        return torch.cat(embeds, -1) if len(embeds) > 1 else embeds[0]


def pooled_image_shape(obs: Mapping[str, ObsSpec]) -> tuple[int, int, int] | None:
    """Height, width and joint channels of the images; None without images.

    Raises:
        ConfigError: if images differ in size, or a side does not halve to 3..16 pixels.
    """
    images = {key: spec.shape for key, spec in obs.items() if spec.kind == "image"}
    if not images:
        return None
    h, w, _ = next(iter(images.values()))
    for key, shape in images.items():
        if shape[:2] != (h, w):
            listed = ", ".join(f'"{key}" {s[0]}x{s[1]}' for key, s in images.items())
            raise ConfigError(
                f"the images differ in size: {listed}; they are joined on channels, so resize them "
                "to one size"
            )
        if h not in SIDES or w not in SIDES:
            raise ConfigError(
                f'the image "{key}" has {h}x{w} pixels; {len(WIDTHS)} halvings have to leave '
                f"{SMALLEST} to {LARGEST} a side, so each side is a multiple of {SIDES.step} from "
                f"{SIDES[0]} to {SIDES[-1]}: {resize_advice(obs, key, 64)}"
            )
    return h, w, sum(shape[-1] for shape in images.values())


class PoolStage(nn.Module):
    """A convolution of kernel 5, 2x2 max-pooling, normalisation over channels, SiLU.

    Args:
        inputs: channels of the input.
        outputs: channels of the result.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        conv = nn.Conv2d(inputs, outputs, 5, padding=2)
        self.conv = conv.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.norm = RMSNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) -> (N, outputs, h / 2, w / 2)."""
        x = max_pool2x2(self.conv(x))
        # to (N, h, w, c) and back: views of channels-last memory
        return self.norm(x.permute(0, 2, 3, 1), silu=True).permute(0, 3, 1, 2)


class PoolEncoder(nn.Module):
    """Four stages of convolution and 2x2 max-pooling: 64 -> 32 -> 16 -> 8 -> 4 pixels a side.

    Args:
        shape: height, width and channels of the image.
        depth: d, unit of the widths 2d, 3d, 4d, 4d.

    Source: danijar/dreamerv3 rssm.py:Encoder. The paper describes convolutions of stride 2.
    """

    def __init__(self, shape: tuple[int, int, int], depth: int) -> None:
        super().__init__()
        h, w, channels = shape
        widths = [channels, *(depth * width for width in WIDTHS)]
        self.size = (h >> len(WIDTHS)) * (w >> len(WIDTHS)) * widths[-1]
        self.stages = nn.Sequential(*(PoolStage(a, b) for a, b in pairwise(widths)))

    def forward(self, image: Tensor) -> Tensor:
        """(N, h, w, c) in [-0.5, 0.5] -> (N, E)."""
        return self.stages(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1)


class SymlogEncoder(nn.Module):
    """All observations to one embedding: vectors through symlog and an MLP, images through a CNN.

    Args:
        obs: the observations.
        image: makes the image network from (height, width, channels); it has a `size`.
        vector: makes the vector network from the length of the joined vectors; it has a `size`.

    Raises:
        ConfigError: if the images' sizes do not fit.
    """

    def __init__(
        self,
        obs: Mapping[str, ObsSpec],
        *,
        image: Callable[[tuple[int, int, int]], PoolEncoder],
        vector: Callable[[int], MLP],
    ) -> None:
        super().__init__()
        self.vectors = vector_keys(obs)
        self.images = [key for key in obs if key not in self.vectors]
        self.continuous = {key for key in self.vectors if obs[key].kind == "vector"}
        shape, length = pooled_image_shape(obs), sum(obs[key].shape[0] for key in self.vectors)
        self.vector = vector(length) if self.vectors else None
        self.image = image(shape) if shape else None
        self.size = sum(net.size for net in (self.vector, self.image) if net is not None)

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Raw observations (..., *shape) -> (..., E); the vector part comes first."""
        embeds: list[Tensor] = []
        if self.vector is not None:
            parts = [self._squashed(key, obs[key].float()) for key in self.vectors]
            embeds.append(self.vector(torch.cat(parts, -1)))
        if self.image is not None:
            image = join_images(obs, self.images)
            # (..., h, w, c) -> (N, h, w, c) -> (..., E)
            embed = self.image(image.flatten(0, -4))
            embeds.append(embed.unflatten(0, image.shape[:-3]))
        return torch.cat(embeds, -1) if len(embeds) > 1 else embeds[0]

    def _squashed(self, key: str, value: Tensor) -> Tensor:
        return symlog(value) if key in self.continuous else value
