"""Decoders: features back to observations, and their likelihood."""

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agentzoo.runtime.spec import ObsSpec

from .distributions import normal_nll, onehot_argmax, symexp, symlog
from .encoders import (
    WIDTHS,
    image_keys,
    join_images,
    join_vectors,
    pooled_image_shape,
    vector_keys,
)
from .fast.one_pixel_conv import one_pixel_conv
from .fast.upsampled_conv import SHARED, depth_to_space, upsampled_conv
from .layers import MLP, Activation, BlockLinear, Normalization, RMSNorm, channel_norms
from .standardize import Standardizer


class OnePixelConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution of a single pixel: (N, i, 1, 1) -> (N, o, k, k)."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Call the kernel `one_pixel_conv`."""
        assert self.bias is not None
        return one_pixel_conv(input, self.weight, self.bias, self.stride)


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


class UpsampledConv(nn.Conv2d):
    """A convolution of kernel 5 on images upsampled to twice their sides by nearest neighbours.

    Args:
        inputs: channels of the input.
        outputs: channels of the result.
    """

    shared: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 5, padding=2)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.register_buffer("shared", torch.tensor(SHARED), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """(N, inputs, h, w) -> the squares of the result (N, h, w, 2, 2, outputs)."""
        assert self.bias is not None
        return upsampled_conv(input, self.weight, self.bias, self.shared)


class UpsampleStage(nn.Module):
    """An upsampled convolution of kernel 5, normalisation over channels, SiLU.

    Args:
        inputs: channels of the input.
        outputs: channels of the result.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.norm = UpsampledConv(inputs, outputs), RMSNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) -> (N, outputs, 2h, 2w)."""
        return depth_to_space(self.norm(self.conv(x), silu=True))


class UpsampleDecoder(nn.Module):
    """Two dense maps to a small grid, then nearest-neighbour upsampling and convolutions.

    The deterministic state's map is block-diagonal; each block gives a slice of the channels.

    Args:
        deter: D, length of the deterministic state.
        stoch: length of the flat stochastic state.
        shape: height, width and channels of the image.
        depth: d, unit of the widths 4d, 4d, 3d, 2d.
        units: half the width of the stochastic state's hidden layer.
        blocks: G.

    Source: danijar/dreamerv3 rssm.py:Decoder.
    """

    def __init__(
        self,
        deter: int,
        stoch: int,
        shape: tuple[int, int, int],
        depth: int,
        units: int,
        blocks: int = 8,
    ) -> None:
        super().__init__()
        h, w, channels = shape
        widths = [depth * width for width in reversed(WIDTHS)]
        self.grid = h >> len(WIDTHS), w >> len(WIDTHS)
        size = self.grid[0] * self.grid[1] * widths[0]
        self.split, self.blocks = [stoch, deter], blocks
        self.from_deter = BlockLinear(deter, size, blocks)
        self.from_stoch = MLP(stoch, 2 * units, 1, size, act=F.silu, norm=RMSNorm)
        self.norm = RMSNorm(widths[0])
        self.stages = nn.ModuleList(UpsampleStage(a, b) for a, b in pairwise(widths))
        self.out = UpsampledConv(widths[-1], channels)

    def forward(self, feat: Tensor) -> Tensor:
        """[stoch, deter] (N, F) -> image (N, h, w, c) in [0, 1]."""
        stoch, deter = feat.split(self.split, -1)
        # (N, G * h * w * n) -> (N, h, w, G * n)
        grid = self.from_deter(deter).unflatten(1, (self.blocks, *self.grid, -1))
        grid = grid.permute(0, 2, 3, 1, 4).flatten(3)
        x = self.norm(grid + self.from_stoch(stoch).unflatten(1, (*self.grid, -1)), silu=True)
        x = x.permute(0, 3, 1, 2)
        for stage in self.stages:
            x = stage(x)
        return torch.sigmoid(depth_to_space(self.out(x)).permute(0, 2, 3, 1).float())


class SymlogDecoder(nn.Module):
    """Features to all observations, and the losses of the predictions.

    Args:
        obs: the observations.
        image: makes the image network from (height, width, channels).
        vector: makes the trunk of the vectors; it has a `size`.
    """

    def __init__(
        self,
        obs: Mapping[str, ObsSpec],
        *,
        image: Callable[[tuple[int, int, int]], UpsampleDecoder],
        vector: Callable[[], MLP],
    ) -> None:
        super().__init__()
        self.vectors = {key: obs[key] for key in vector_keys(obs)}
        self.channels = {k: s.shape[-1] for k, s in obs.items() if s.kind == "image"}
        shape = pooled_image_shape(obs)
        self.image = image(shape) if shape else None
        self.vector = vector() if self.vectors else None
        width = self.vector.size if self.vector is not None else 0
        # in the observations' order; a name of the user's may not be a module's
        self.outs = nn.ModuleList(nn.Linear(width, s.shape[0]) for s in self.vectors.values())

    def losses(self, feat: Tensor, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss of each observation, by key, (B, T) each.

        Images: squared error on [0, 1]. Vectors: squared error in symlog. Both without a factor of
        one half, summed over the observation. One-hots: cross-entropy, summed over the groups.

        Args:
            feat: (B, T, F), [stoch, deter].
            obs: raw observations (B, T, *shape).
        """
        losses: dict[str, Tensor] = {}
        for key, predicted in self._images(feat).items():
            target = obs[key].float() / 255
            losses[key] = F.mse_loss(predicted, target, reduction="none").flatten(2).sum(-1)
        for key, out in self._raw_vectors(feat).items():
            target, spec = obs[key].float(), self.vectors[key]
            if spec.kind == "vector":
                losses[key] = (out - symlog(target)).square().sum(-1)
            else:
                logs = [torch.log_softmax(group, -1) for group in out.split(list(spec.nvec), -1)]
                losses[key] = -(torch.cat(logs, -1) * target).sum(-1)
        return losses

    def forward(self, feat: Tensor) -> dict[str, Tensor]:
        """Predicted observations by key from (B, T, F): images in [0, 1], vectors as they are."""
        predicted = self._images(feat)
        for key, out in self._raw_vectors(feat).items():
            spec = self.vectors[key]
            if spec.kind == "vector":
                predicted[key] = symexp(out)
            else:
                groups = out.split(list(spec.nvec), -1)
                predicted[key] = torch.cat([onehot_argmax(group) for group in groups], -1)
        return predicted

    def _images(self, feat: Tensor) -> dict[str, Tensor]:
        if self.image is None:
            return {}
        image = self.image(feat.flatten(0, 1)).unflatten(0, feat.shape[:2])
        parts = image.split(list(self.channels.values()), -1)
        return dict(zip(self.channels, parts, strict=True))

    def _raw_vectors(self, feat: Tensor) -> dict[str, Tensor]:
        if self.vector is None:
            return {}
        units = self.vector(feat)
        return {key: out(units).float() for key, out in zip(self.vectors, self.outs, strict=True)}
