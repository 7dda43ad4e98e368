"""Frames and their maps in a folder: collected at random, labelled, and what a network learns of.

A folder holds `frames.npz` with `images` (N, h, w, 3) uint8 and, once labelled, `maps` (N, h, w)
uint8, and `about.json` with the environment and the goal.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from agentzoo.runtime.bundle.golden_trace import DAMAGED
from agentzoo.runtime.bundle.manifest import read_json
from agentzoo.runtime.envs import make_env
from agentzoo.runtime.errors import BundleError, ConfigError
from agentzoo.runtime.policy.noise import derive_seed
from agentzoo.runtime.spec import Array
from agentzoo.runtime.strict_json import read_object

from ..blocks.seeded_init import SeededInit
from ..replay.chunks import write_durably
from .map_network import STEP, MapModel, MapNetwork, to_size
from .source import MapSource, affordance, require_goal

FRAMES, ABOUT = "frames.npz", "about.json"
IMAGES, EVERY = 2_000, 10  # frames of a data set; decisions from one to the next
POSITIVE = 5.0  # weight of what shows the goal, which is little of a frame


@dataclass
class Frames:
    """Frames, and their maps if they are labelled.

    Attributes:
        images: (N, h, w, 3) uint8.
        maps: (N, h, w) uint8, 255 where the goal can be reached, or None.
        env: where they are from.
        goal: what the maps are of, or "".
    """

    images: Array
    maps: Array | None
    env: str
    goal: str = ""

    def save(self, folder: str | Path) -> Path:
        """Write them; what was there before stands until they are whole."""
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"images": self.images} | ({} if self.maps is None else {"maps": self.maps})
        partial = folder / f"partial-{FRAMES}"
        np.savez_compressed(partial, allow_pickle=False, **arrays)
        partial.replace(folder / FRAMES)
        about = {"env": self.env, "goal": self.goal}
        write_durably(folder / ABOUT, (json.dumps(about, indent=1) + "\n").encode())
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Frames":
        """Read what `save` left.

        Raises:
            ConfigError: if there is none.
        """
        folder = Path(folder).expanduser()
        if not (folder / FRAMES).is_file() or not (folder / ABOUT).is_file():
            raise ConfigError(
                f"{folder} holds no frames ({FRAMES} and {ABOUT}); make some with "
                "agentzoo affordance collect"
            )
        try:
            about = read_object(read_json(folder / ABOUT), str(folder / ABOUT))
            with (folder / FRAMES).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                images, maps = arrays["images"], arrays.get("maps")
        except (BundleError, KeyError, *DAMAGED) as error:
            raise ConfigError(f"the frames in {folder} cannot be read: {error}") from error
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or not len(images):
            raise ConfigError(
                f"the frames in {folder} have shape {images.shape} and type {images.dtype}, "
                "expected (N, h, w, 3) uint8; collect them again"
            )
        if maps is not None and (maps.shape != images.shape[:-1] or maps.dtype != np.uint8):
            raise ConfigError(
                f"the maps in {folder} have shape {maps.shape} and type {maps.dtype}, expected "
                f"{images.shape[:-1]} uint8; label the frames again"
            )
        return cls(images, maps, str(about.get("env", "")), str(about.get("goal", "")))

    def labelled(self) -> Array:
        """The maps.

        Raises:
            ConfigError: if there are none.
        """
        if self.maps is None:
            raise ConfigError(
                "these frames have no maps; label them first: agentzoo affordance label"
            )
        return self.maps


def collect(
    env: str, *, images: int = IMAGES, every: int = EVERY, seed: int = 0, goal: str = ""
) -> Frames:
    """Play at random and keep every so manieth frame, with its mask where there is one.

    Args:
        env: an environment string; one with a side observation `frame`.
        images: how many frames to keep.
        every: decisions from one to the next.
        seed: of the episodes and the actions.
        goal: of the masks.

    Raises:
        ConfigError: for an environment without frames.
    """
    world = make_env(env)
    world.action_space.seed(derive_seed(seed, "affordance actions") % 2**31)
    kept: list[Array] = []
    masks: list[Array] = []
    try:
        episode, decisions, is_over = 0, 0, True
        while len(kept) < images:
            if is_over:
                _, info = world.reset(seed=derive_seed(seed, "affordance", episode) % 2**31)
                episode, is_over = episode + 1, False
            else:
                _, _, terminated, truncated, info = world.step(world.action_space.sample())
                is_over = terminated or truncated
            side = info.get("side", {})
            if "frame" not in side:
                raise ConfigError(
                    f'{env} has no side observation "frame", which maps are made of; choose an '
                    "environment with one (vizdoom:harvest-tree)"
                )
            if decisions % every == 0:
                kept.append(np.array(side["frame"]))
                if "mask" in side:
                    masks.append(np.array(side["mask"])[..., 0])
            decisions += 1
    finally:
        world.close()
    return Frames(np.stack(kept), np.stack(masks) if masks else None, env, goal if masks else "")


def label(
    frames: Frames, source: MapSource, goal: str, told: Callable[[int], object] | None = None
) -> Frames:
    """The same frames with maps of a goal from a source; `told` hears how many are done."""
    maps: list[Array] = []
    for image in frames.images:
        maps.append(np.floor(255 * affordance(image, goal, source) + 0.5).astype(np.uint8))
        if told is not None:
            told(len(maps))
    return Frames(frames.images, np.stack(maps), frames.env, require_goal(goal))


def iou(predicted: Array, maps: Array) -> float:
    """Intersection over union of what is above one half, of all pixels together; 1 for nothing."""
    a, b = predicted > 0.5, maps > 0.5
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 1.0


def in_size(frames: Frames, size: tuple[int, int]) -> tuple[Array, Array]:
    """Images (N, *size, 3) uint8 and their maps (N, *size) uint8."""
    images = np.stack([to_size(image, size) for image in frames.images])
    maps = np.stack([to_size(map_[..., None], size)[..., 0] for map_ in frames.labelled()])
    return images, maps


def train(
    sets: list[Frames],
    *,
    size: tuple[int, int] = (64, 64),
    steps: int = 1_500,
    batch: int = 16,
    lr: float = 2e-3,
    seed: int = 0,
    told: Callable[[int, float], object] | None = None,
) -> MapModel:
    """Learn the maps of some sets of frames, a goal each, then calibrate their mass.

    The loss is the binary cross-entropy with shares as targets, what shows the goal weighted five
    times. That makes maps too large, so in the end the output is shifted until, over the frames
    learned from, the maps' mean is the labels'.

    Args:
        sets: labelled frames; those of one goal may be in several.
        size: height and width of the network's pictures, multiples of 8.
        steps: gradient steps.
        batch: pictures in each.
        lr: learning rate at the start; it falls to 0 along a cosine.
        seed: of weights, order and flips.
        told: hears the step and its loss.

    Raises:
        ConfigError: without frames, for frames without maps or a goal, or a size that is none.
    """
    if not sets:
        raise ConfigError("there are no frames to learn from; give at least one folder")
    if any(side % STEP or side < STEP for side in size):
        raise ConfigError(
            f"size={size[0]}x{size[1]} has to be of multiples of {STEP}: the network halves a "
            "picture three times"
        )
    goals = sorted({require_goal(each.goal) for each in sets})
    pairs = [in_size(each, size) for each in sets]
    images, maps = (torch.from_numpy(np.concatenate(part)) for part in zip(*pairs, strict=True))
    numbers = torch.tensor([goals.index(each.goal.strip()) for each in sets]).repeat_interleave(
        torch.tensor([len(each.images) for each in sets])
    )
    with SeededInit(seed):
        network = MapNetwork(len(goals))
    optimizer = torch.optim.Adam(network.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator, weight = torch.Generator().manual_seed(seed), torch.tensor(POSITIVE)
    for step in range(steps):
        index = torch.randint(len(images), (batch,), generator=generator)
        x, y = images[index], maps[index].float() / 255
        if torch.rand((), generator=generator) < 0.5:
            x, y = x.flip(2), y.flip(2)
        found = network.logits(x, numbers[index])
        loss = F.binary_cross_entropy_with_logits(found, y, pos_weight=weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if told is not None:
            told(step + 1, float(loss.detach()))
    network.eval().requires_grad_(False)
    _calibrate(network, images, maps, numbers)
    return MapModel(network, goals, size)


@torch.no_grad()
def predicted(network: MapNetwork, images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Logits of many pictures (N, h, w), 64 at a time."""
    parts = zip(images.split(64), numbers.split(64), strict=True)
    return torch.cat([network.logits(x, n) for x, n in parts])


def _calibrate(
    network: MapNetwork, images: torch.Tensor, maps: torch.Tensor, numbers: torch.Tensor
) -> None:
    """Shift the output until the mean of the maps is that of the labels."""
    logits, wanted = predicted(network, images, numbers), float((maps.double() / 255).mean())
    low, high = -20.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2
        if float(torch.sigmoid(logits + middle).double().mean()) > wanted:
            high = middle
        else:
            low = middle
    assert network.out.bias is not None
    network.out.bias.data.add_((low + high) / 2)


def measured(model: MapModel, frames: Frames) -> dict[str, float]:
    """Agreement of a network's maps of frames with their labels.

    Returns:
        `iou` over all pixels, and `mass`, the maps' mean over the labels'.
    """
    images, maps = in_size(frames, model.size)
    number = torch.full((len(images),), model.number(frames.goal))
    found = torch.sigmoid(predicted(model.network, torch.from_numpy(images), number)).numpy()
    shares = maps / 255.0
    return {"iou": iou(found, shares), "mass": float(found.mean() / max(shares.mean(), 1e-12))}
