"""DreamerV3's decoder: images by upsampled convolutions, vectors in symlog, classes as logits."""

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agentzoo.runtime.spec import ObsSpec

from .distributions import onehot_argmax, symexp, symlog
from .encoders import vector_keys
from .encoders_v3 import WIDTHS, image_shape
from .layers import MLP, BlockLinear, RMSNorm

# by an output pixel's parity: which of the five upsampled pixels it reads are the same input pixel
SHARED = (
    ((1.0, 1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 1.0, 0.0), (0.0, 0.0, 0.0, 0.0, 1.0)),
    ((1.0, 0.0, 0.0, 0.0, 0.0), (0.0, 1.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0, 1.0)),
)


class UpsampledConv(nn.Conv2d):
    """A convolution of kernel 5 on images of twice the sides, every pixel of which is repeated.

    Equal to nearest-neighbour upsampling and the convolution in 9/25 of the operations. The 5x5
    upsampled pixels that an output reads are 3x3 of the input, and which weights meet on one of
    them depends on the output's place in its square of 2x2 alone. So the four places have a kernel
    of 3x3 each, of sums of weights, and the upsampled images are never made.

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
        weight = torch.einsum("oikl,ayk,bxl->aboiyx", self.weight, self.shared, self.shared)
        weight = weight.flatten(0, 2).contiguous(memory_format=torch.channels_last)
        assert self.bias is not None
        squares = F.conv2d(input, weight, self.bias.repeat(4), padding=1)
        return squares.permute(0, 2, 3, 1).unflatten(-1, (2, 2, -1))


def depth_to_space(squares: Tensor) -> Tensor:
    """Images of squares (N, h, w, 2, 2, c) -> (N, c, 2h, 2w), in channels-last memory."""
    # (N, h, 2, w, 2, c), whose pairs are one axis each
    return squares.transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


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
        shape = image_shape(obs)
        self.image = image(shape) if shape else None
        self.vector = vector() if self.vectors else None
        width = self.vector.size if self.vector is not None else 0
        # in the observations' order; a name of the user's may not be a module's
        self.outs = nn.ModuleList(nn.Linear(width, s.shape[0]) for s in self.vectors.values())

    def losses(self, feat: Tensor, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What each observation costs, by key, (B, T) each.

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
