"""Any CLIP of the package transformers as a scorer of videos, read from a folder.

A video's feature is the mean of its frames'. Nothing is downloaded: a folder is what
`save_pretrained` leaves, or a copy of a model's repository.
"""

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from agentzoo.runtime.errors import ConfigError, MissingExtraError
from agentzoo.runtime.spec import Array

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's own pictures' colours
STD = (0.26862954, 0.26130258, 0.27577711)
FRAMES = 16


class ClipFolderScorer:
    """A CLIP from a folder.

    Args:
        folder: with config.json, weights, and a tokenizer's files.
        slope: by which a logit's distance to the centre is multiplied; a CLIP's own logits are
            not MineCLIP's, so take 2 over their interquartile range on random play.
        centre: the logit that counts one half; take their 65th percentile.
        frames: of a video.
        device: to compute on.

    Raises:
        ConfigError: if the folder holds no CLIP.
        MissingExtraError: without transformers.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        slope: float,
        centre: float,
        frames: int = FRAMES,
        device: str = "cpu",
    ) -> None:
        root = Path(folder).expanduser()
        if not (root / "config.json").is_file():
            raise ConfigError(
                f"{root} holds no CLIP (no config.json); give the folder that save_pretrained "
                "left, or a copy of a model's repository"
            )
        transformers = _module()
        try:
            model: Any = transformers.AutoModel.from_pretrained(root, local_files_only=True)
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                root, local_files_only=True
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ConfigError(
                f"{root} cannot be read as a CLIP: {' '.join(str(error).split())[:300]}"
            ) from error
        for name in ("get_image_features", "get_text_features"):
            if not hasattr(model, name):
                raise ConfigError(
                    f"{root} holds a {type(model).__name__}, which has no {name}; give a model of "
                    "images and texts, such as a CLIPModel"
                )
        self.model: Any = model.to(device).eval()
        self.device, self.frames = torch.device(device), frames
        self.slope, self.centre = slope, centre
        self.size = int(model.config.vision_config.image_size)
        self.mean, self.std = _colours(root)

    @torch.no_grad()
    def encode(self, images: Array) -> Array:
        """(N, h, w, 3) uint8 -> (N, F)."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device).float() / 255
        pixels = F.interpolate(
            pixels.permute(0, 3, 1, 2), (self.size, self.size), mode="bilinear", antialias=True
        )
        mean, std = (pixels.new_tensor(each).view(1, 3, 1, 1) for each in (self.mean, self.std))
        found = _features(self.model.get_image_features(pixel_values=(pixels - mean) / std))
        return found.numpy(force=True)

    @torch.no_grad()
    def logits(self, videos: Array, texts: Sequence[str]) -> Array:
        """Videos of encoded frames (N, L, F) and P sentences -> (N, P), 100 times the cosine."""
        tokens = self.tokenizer(list(texts), padding=True, return_tensors="pt").to(self.device)
        text = _features(self.model.get_text_features(**tokens))
        video = torch.from_numpy(videos).float().to(self.device).mean(1)
        return (100 * F.normalize(video, dim=-1) @ F.normalize(text, dim=-1).mT).numpy(force=True)


def _features(found: Any) -> Tensor:
    """The projected feature, which newer versions wrap."""
    return found if isinstance(found, Tensor) else found.pooler_output


def _colours(root: Path) -> tuple[Sequence[float], Sequence[float]]:
    file = root / "preprocessor_config.json"
    about = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return about.get("image_mean", MEAN), about.get("image_std", STD)


def _module() -> Any:
    try:
        return import_module("transformers")
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "transformers", "clip") from error
