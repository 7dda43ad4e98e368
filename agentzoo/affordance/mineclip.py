"""MineCLIP, a scorer of Minecraft videos, read from its official checkpoint.

Its weights are not ours to give, and nothing is downloaded. The checkpoints `attn.pth` and
`avg.pth` are linked from the README of github.com/MineDojo/MineCLIP; the words' numbers come from
the folder of any CLIP with this vocabulary (`vocab.json` and `merges.txt`).

Source: Fan et al. 2022 (MineDojo, arXiv:2206.08853); MineDojo/MineCLIP.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.spec import Array

from .clip_layers import ImageEncoder, TemporalEncoder, TextEncoder
from .clip_words import ClipWords

MEAN, STD = (0.3331, 0.3245, 0.3051), (0.2439, 0.2493, 0.2873)  # of its videos' colours
FRAMES = 16  # of a video; the temporal encoder has places for 32
SLOPE, CENTRE = 1.2, 21.8  # LS-Imagine's, from a logit to a score
WHERE = (
    "download attn.pth or avg.pth from the links in the README of github.com/MineDojo/MineCLIP "
    "and give its path"
)
PREFIX = "model."  # of every name in the checkpoint
ALIASES = ("reward_head.clip_model.", "clip_model.vision_model.")  # CLIP is in there three times


@dataclass(frozen=True)
class MineClipSizes:
    """The sizes of the networks; the defaults are the official checkpoint's."""

    image: tuple[int, int] = (160, 256)
    patch: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    context: int = 77
    vocabulary: int = 49408
    feature: int = 512
    depth: int = 2
    temporal_heads: int = 8
    places: int = 32


class _RewardHead(nn.Module):
    """The share of the video's own feature, and what is mixed into it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # the checkpoint numbers the two linear layers 0 and 3
        self.video_adapter = nn.Sequential(
            nn.Linear(width, width), nn.Identity(), nn.ReLU(), nn.Linear(width, width)
        )
        self.video_residual_weight = nn.Parameter(torch.tensor(4.0))

    def forward(self, video: Tensor) -> Tensor:
        own = torch.sigmoid(self.video_residual_weight)
        return own * video + (1 - own) * self.video_adapter(video)


class _Clip(nn.Module):
    """The half of CLIP that reads texts, and the scale of its logits."""

    def __init__(self, text: TextEncoder) -> None:
        super().__init__()
        self.text_model = text
        self.logit_scale = nn.Parameter(torch.tensor(0.0))


class MineClip(nn.Module):
    """The networks, one copy of each.

    Args:
        pool: `attn`, a transformer over the frames, or `avg`, their mean.
        sizes: of the networks.
    """

    def __init__(self, pool: str = "attn", sizes: MineClipSizes | None = None) -> None:
        super().__init__()
        s = MineClipSizes() if sizes is None else sizes
        self.sizes = s
        self.image_encoder = ImageEncoder(s.image, s.patch, s.width, s.layers, s.heads, s.feature)
        temporal = {"attn": TemporalEncoder(s.feature, s.depth, s.temporal_heads, s.places)}
        self.temporal_encoder = nn.ModuleDict(temporal if pool == "attn" else {})
        self.reward_head = _RewardHead(s.feature)
        text = TextEncoder(
            s.context, s.vocabulary, s.text_width, s.text_layers, s.text_heads, s.feature
        )
        self.clip_model = _Clip(text)

    def encode_image(self, image: Tensor) -> Tensor:
        """Bytes (N, h, w, 3) of the networks' size -> (N, F)."""
        mean, std = (
            image.new_tensor(MEAN, dtype=torch.float32),
            image.new_tensor(STD, dtype=torch.float32),
        )
        return self.image_encoder(((image / 255 - mean) / std).permute(0, 3, 1, 2))

    def encode_video(self, features: Tensor) -> Tensor:
        """Features of frames (N, L, F) -> (N, F)."""
        if "attn" in self.temporal_encoder:
            return self.temporal_encoder["attn"](features)
        return features.mean(1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Numbers of tokens (P, L) -> (P, F)."""
        return self.clip_model.text_model(tokens)

    def forward(self, features: Tensor, text: Tensor) -> Tensor:
        """Features of frames (N, L, F) and of sentences (P, F) -> logits (N, P)."""
        video = self.reward_head(self.encode_video(features))
        scale = self.clip_model.logit_scale.exp()
        return scale * F.normalize(video, dim=-1) @ F.normalize(text, dim=-1).mT


def checkpoint_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors under this module's names, the further copies of CLIP left out."""
    without = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in without.items() if not name.startswith(ALIASES)}


def read_mineclip(
    path: str | Path, *, sha256: str = "", sizes: MineClipSizes | None = None
) -> MineClip:
    """Read a checkpoint, strictly.

    Args:
        path: `attn.pth`, `avg.pth`, or the same tensors as `.safetensors`.
        sha256: of the file, if it is to be checked before it is opened.
        sizes: of the networks.

    Raises:
        ConfigError: if there is no file, it is another one, or holds other tensors.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"there is no MineCLIP checkpoint at {file}; {WHERE}")
    if sha256 and (found := file_sha256(file)) != sha256.lower():
        raise ConfigError(f"{file} has the SHA-256 {found}, expected {sha256.lower()}; {WHERE}")
    state = checkpoint_names(_read(file))
    pool = "attn" if any(name.startswith("temporal_encoder.") for name in state) else "avg"
    with torch.device("meta"):  # no weights but the checkpoint's
        network = MineClip(pool, sizes)
    try:
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise ConfigError(
            f"{file} holds other tensors than MineCLIP's: {' '.join(str(error).split())[:600]}; "
            f"{WHERE}"
        ) from error
    return network.float().eval().requires_grad_(False)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(file: Path) -> Mapping[str, Tensor]:
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ConfigError(f"{file} holds no safetensors: {error}; {WHERE}") from error
    try:
        # tensors and plain containers alone; anything else in the file is an error
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file that is none makes torch raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{file} is no checkpoint of torch: {reason}; {WHERE}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not state or not all(isinstance(each, Tensor) for each in state.values()):
        raise ConfigError(f"{file} holds no tensors by name; {WHERE}")
    return state


class MineClipScorer:
    """MineCLIP as a scorer of videos.

    Args:
        network: as `read_mineclip` gives it.
        words: gives sentences as numbers.
        device: to compute on.
    """

    frames, slope, centre = FRAMES, SLOPE, CENTRE

    def __init__(self, network: MineClip, words: ClipWords, device: str = "cpu") -> None:
        self.network, self.words = network.to(device), words
        self.device = torch.device(device)
        self._texts: dict[str, Tensor] = {}

    @torch.no_grad()
    def encode(self, images: Array) -> Array:
        """(N, h, w, 3) uint8 -> (N, F); images of another size are resized."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device).float()
        if tuple(images.shape[1:3]) != self.network.sizes.image:
            pixels = pixels.permute(0, 3, 1, 2)
            pixels = F.interpolate(pixels, self.network.sizes.image, mode="bilinear")
            pixels = pixels.permute(0, 2, 3, 1)
        return self.network.encode_image(pixels).numpy(force=True)

    @torch.no_grad()
    def logits(self, videos: Array, texts: Sequence[str]) -> Array:
        """Videos of encoded frames (N, L, F) and P sentences -> (N, P)."""
        for text in texts:
            if text not in self._texts:  # a sentence is encoded once
                tokens = torch.from_numpy(self.words.tokens([text], self.network.sizes.context))
                self._texts[text] = self.network.encode_text(tokens.to(self.device))[0]
        features = torch.from_numpy(videos).float().to(self.device)
        text = torch.stack([self._texts[one] for one in texts])
        return self.network(features, text).numpy(force=True)
