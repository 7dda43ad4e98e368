"""Encoders: raw observations to one embedding."""

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.spec import ObsSpec

from .layers import MLP, Activation, Normalization, channel_norms
from .standardize import Standardizer

IMAGE_SIZE = 64  # height and width in pixels that the convolutions of these papers are made for


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
                f"{IMAGE_SIZE}; write size={IMAGE_SIZE} in the environment string or wrap the "
                f"environment in gymnasium.wrappers.ResizeObservation(env, ({IMAGE_SIZE}, "
                f"{IMAGE_SIZE}))"
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

    def measure(self, rows: Mapping[str, np.ndarray], *, learning: bool) -> None:
        """Take the vectors of rows (B, ...) into their statistics, if they are standardised."""
        if self.standardizer is None:
            return
        device = self.standardizer.mean.device
        vectors = {key: torch.from_numpy(rows[key]).to(device) for key in self.vectors}
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
