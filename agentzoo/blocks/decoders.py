"""Decoders: features back to observations, and their likelihood."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agentzoo.runtime.spec import ObsSpec

from .distributions import normal_nll
from .encoders import image_keys, join_images, join_vectors, vector_keys
from .layers import MLP, Activation, Normalization, channel_norms
from .standardize import Standardizer


class OnePixelConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution of a single pixel, computed as the matrix product that it is.

    At 1536 channels to 192 on a CPU PyTorch's own takes ten times as long, forth and back.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, i, 1, 1) -> (N, o, k, k)."""
        assert self.bias is not None
        weight = self.weight.permute(0, 2, 3, 1)  # (i, k, k, o): a view of channels-last memory
        pixels = (input.flatten(1) @ weight.flatten(1)).unflatten(1, weight.shape[1:])
        return (pixels + self.bias).permute(0, 3, 1, 2)


class ConvDecoder(nn.Module):
    """A dense layer and four transposed convolutions of stride 2: 1 -> 5 -> 13 -> 30 -> 64.

    Args:
        inputs: F, size of the features.
        channels: channels of the image.
        depth: filters of the last hidden layer; each earlier one has twice as many.
        act: activation between the convolutions.
        norm: makes a normalisation of the channels, applied before each activation.

    Source: Ha & Schmidhuber 2018 (arXiv:1803.10122); danijar/dreamer models.py:ConvDecoder. ELU and
    normalisation danijar/dreamerv2 common/nets.py:Decoder.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        depth: int = 32,
        *,
        act: Activation = F.relu,
        norm: Normalization | None = None,
    ) -> None:
        super().__init__()
        self.act = act
        self.dense = nn.Linear(inputs, 32 * depth)
        widths = [32 * depth, 4 * depth, 2 * depth, depth, channels]
        kinds = OnePixelConvTranspose2d, *[nn.ConvTranspose2d] * 3
        shapes = zip(kinds, widths, widths[1:], (5, 5, 6, 6), strict=False)
        self.layers = nn.ModuleList(kind(a, b, k, 2) for kind, a, b, k in shapes)
        self.layers.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.norms = channel_norms(widths[1:-1], norm)

    def forward(self, feat: Tensor) -> Tensor:
        """(N, F) -> means (N, 64, 64, c), meant for [-0.5, 0.5]."""
        x = self.dense(feat)[:, :, None, None].contiguous(memory_format=torch.channels_last)
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            x = self.act(norm(layer(x)))
        return self.layers[-1](x).permute(0, 2, 3, 1)


class Decoder(nn.Module):
    """Features to all observations: images by one network, vectors by another.

    Args:
        obs: the observations.
        image: makes the image network from the number of channels.
        vector: makes the vector network from the length of the joined vectors.
        vector_std: standard deviation of the vectors' likelihood, in the observations' own units,
            or in scaled ones where they are standardised.
        standardizer: the encoder's, or None.
    """

    def __init__(
        self,
        obs: Mapping[str, ObsSpec],
        *,
        image: Callable[[int], ConvDecoder],
        vector: Callable[[int], MLP],
        vector_std: float = 1.0,
        standardizer: Standardizer | None = None,
    ) -> None:
        super().__init__()
        self.images, self.vectors = image_keys(obs), vector_keys(obs)
        self.channels = [obs[key].shape[-1] for key in self.images]
        self.lengths = [obs[key].shape[0] for key in self.vectors]
        self.image = image(sum(self.channels)) if self.images else None
        self.vector = vector(sum(self.lengths)) if self.vectors else None
        self.vector_std = vector_std
        self._shared = (standardizer,)  # a tuple hides it: the encoder saves it, and once is enough

    def losses(self, feat: Tensor, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Negative log-likelihood in nats, constants included, summed over each observation.

        Args:
            feat: (B, T, F).
            obs: raw observations (B, T, *shape).

        Returns:
            "image" and "vector", where there are any, (B, T) each.
        """
        losses: dict[str, Tensor] = {}
        if self.image is not None:
            target = join_images(obs, self.images)
            losses["image"] = normal_nll(target, self._image(feat)).flatten(2).sum(-1)
        if self.vector is not None:
            target, (standardizer,) = join_vectors(obs, self.vectors), self._shared
            target = target if standardizer is None else standardizer(target)
            nll = normal_nll(target, self.vector(feat).float(), self.vector_std)
            losses["vector"] = nll.sum(-1)
        return losses

    def forward(self, feat: Tensor) -> dict[str, Tensor]:
        """Predicted observations by key from (B, T, F): images in [0, 1], vectors in raw units."""
        predicted: dict[str, Tensor] = {}
        if self.image is not None:
            image = (self._image(feat) + 0.5).clamp(0, 1)
            predicted |= zip(self.images, image.split(self.channels, -1), strict=True)
        if self.vector is not None:
            vector, (standardizer,) = self.vector(feat).float(), self._shared
            vector = vector if standardizer is None else standardizer.inverse(vector)
            predicted |= zip(self.vectors, vector.split(self.lengths, -1), strict=True)
        return predicted

    def _image(self, feat: Tensor) -> Tensor:
        assert self.image is not None
        return self.image(feat.flatten(0, 1)).float().unflatten(0, feat.shape[:2])
