"""A small U-Net that makes affordance maps of pictures, conditioned on the goal.

    3 -> 8 -> 16 -> 32 -> 48 channels, halved three times; the goal's vector scales the 48;
    back up with what each size had before, to one number a pixel

The authors' network is a Swin U-Net of 53 million parameters; this one has 97 thousand.

Source: Ronneberger et al. 2015 (arXiv:1505.04597) for the shape.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from agentzoo.runtime.bundle.manifest import read_json
from agentzoo.runtime.envs.frames import shrunk
from agentzoo.runtime.errors import BundleError, ConfigError, nearest
from agentzoo.runtime.spec import Array
from agentzoo.runtime.strict_json import read_object

from ..replay.chunks import write_durably
from ..train.checkpoint import read_tensors, write_tensors
from .maps import resized
from .source import MapSource, require_goal, require_image

WIDTHS = (8, 16, 32, 48)  # channels from the whole size to the smallest
STEP = 1 << (len(WIDTHS) - 1)  # sides are multiples of it
ABOUT, WEIGHTS, FORMAT = "map_network.json", "model.safetensors", 1


class Pair(nn.Module):
    """Two convolutions of kernel 3."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) -> (N, outputs, h, w)."""
        return F.relu(self.second(F.relu(self.first(x))))


class MapNetwork(nn.Module):
    """Pictures to maps of one of its goals.

    Args:
        goals: how many there are.
    """

    def __init__(self, goals: int = 1) -> None:
        super().__init__()
        # different from the start, or they would learn the same
        self.goals = nn.Parameter(1 + 0.5 * torch.randn(goals, WIDTHS[-1]))
        self.down = nn.ModuleList(Pair(a, b) for a, b in pairwise((3, *WIDTHS)))
        self.up = nn.ModuleList(Pair(a + b, a) for a, b in pairwise(WIDTHS))
        self.out = nn.Conv2d(WIDTHS[0], 1, 1)

    def logits(self, image: Tensor, goal: Tensor) -> Tensor:
        """Bytes (N, h, w, 3) and numbers of goals (N,) -> (N, h, w)."""
        x = image.permute(0, 3, 1, 2).float() / 255 - 0.5
        kept: list[Tensor] = []
        for k, pair in enumerate(self.down):
            x = pair(x if not k else F.max_pool2d(x, 2))
            kept.append(x)
        x = x * self.goals[goal][..., None, None]
        for pair, before in zip(reversed(self.up), reversed(kept[:-1]), strict=True):
            x = pair(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), before], 1))
        return self.out(x).squeeze(1)

    def forward(self, image: Tensor) -> Tensor:
        """Bytes (N, h, w, 3) -> maps of the first goal (N, h, w, 1) in [0, 1]."""
        goal = torch.zeros(image.shape[0], dtype=torch.long, device=image.device)
        return torch.sigmoid(self.logits(image, goal)).unsqueeze(-1)


class MapModel(MapSource):
    """A trained network with the names of its goals and the size of its pictures.

    Args:
        network: makes the maps.
        goals: by number.
        size: height and width of a picture.
    """

    def __init__(self, network: MapNetwork, goals: Sequence[str], size: tuple[int, int]) -> None:
        self.network, self.goals, self.size = network, tuple(goals), size

    def number(self, goal: str) -> int:
        """Index of a goal among its goals.

        Raises:
            ConfigError: if it is none, or nothing.
        """
        if (wanted := require_goal(goal)) not in self.goals:
            raise ConfigError(
                f"the map network knows no goal {wanted!r}; {nearest(wanted, self.goals, 'goals')}"
            )
        return self.goals.index(wanted)

    def for_goal(self, goal: str) -> dict[str, Tensor]:
        """The weights of a network of this goal alone."""
        state = dict(self.network.state_dict())
        number = self.number(goal)
        return state | {"goals": state["goals"][number : number + 1].clone()}

    @torch.no_grad()
    def __call__(self, image: Array, goal: str) -> Array:
        """(h, w, 3) uint8 and one of its goals -> (h, w) in [0, 1]."""
        number = torch.tensor([self.number(goal)])
        small = torch.from_numpy(to_size(require_image(image), self.size))[None]
        map_ = torch.sigmoid(self.network.logits(small, number))[0].double().numpy()
        return np.clip(resized(map_, *image.shape[:2]), 0, 1)

    def save(self, folder: str | Path, **about: object) -> Path:
        """Write the network, and what is to be known about it."""
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / WEIGHTS, self.network.state_dict())
        content = {"format": FORMAT, "goals": list(self.goals), "size": list(self.size), **about}
        write_durably(folder / ABOUT, (json.dumps(content, indent=1) + "\n").encode())
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "MapModel":
        """Read what `save` left.

        Raises:
            ConfigError: if there is none, or it is another network's.
        """
        folder = Path(folder).expanduser()
        if not (folder / ABOUT).is_file() or not (folder / WEIGHTS).is_file():
            raise ConfigError(
                f"{folder} holds no map network ({ABOUT} and {WEIGHTS}); make one with "
                "agentzoo affordance train"
            )
        try:
            about: dict[str, Any] = read_object(read_json(folder / ABOUT), str(folder / ABOUT))
        except BundleError as error:
            raise ConfigError(str(error)) from error
        if about.get("format") != FORMAT:
            raise ConfigError(
                f"{folder / ABOUT} has format {about.get('format')!r}, expected {FORMAT}; train "
                "the map network again with this version"
            )
        goals: Any = about.get("goals")
        size: Any = about.get("size")
        if not _is_list(goals, str) or not _is_list(size, int) or len(size) != 2:
            raise ConfigError(
                f"{folder / ABOUT} has the goals {goals!r} and the size {size!r}, expected a list "
                "of sentences and height and width; train the map network again"
            )
        network = MapNetwork(len(goals))
        try:
            network.load_state_dict(read_tensors(folder / WEIGHTS), strict=True)
        except (RuntimeError, ValueError, SafetensorError) as error:
            raise ConfigError(
                f"{folder / WEIGHTS} holds another network than a map network of {len(goals)} "
                f"goals: {' '.join(str(error).split())[:300]}"
            ) from error
        return cls(network.eval().requires_grad_(False), goals, (size[0], size[1]))


def _is_list(value: Any, kind: type) -> bool:
    entries = cast("list[object]", value) if isinstance(value, list) else []
    return bool(entries) and all(type(one) is kind for one in entries)


def to_size(image: Array, size: tuple[int, int]) -> Array:
    """A picture (h, w, c) uint8 in a network's size: (*size, c) uint8.

    Squares are made as environments make a policy's image, other sizes by bilinear interpolation,
    which are means of areas where a side is halved.
    """
    if image.shape[:2] == tuple(size):
        return np.ascontiguousarray(image)
    if size[0] == size[1]:
        return shrunk(image, size[0])
    return np.clip(np.floor(resized(image, *size) + 0.5), 0, 255).astype(np.uint8)
