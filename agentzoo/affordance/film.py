"""Pictures of what LS-Imagine sees and imagines: episodes with zooms, rollouts with jumps."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agentzoo.runtime.envs.backend import SIDE
from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.evaluation.video import VideoWriter
from agentzoo.runtime.policy.noise import derive_seed, draw
from agentzoo.runtime.spec import Array

from ..agents.ls_imagine import IMAGE, MAP, LSImagine, LSImagineAlgorithm, as_bytes
from ..algorithm import Carry, NoiseSource
from ..blocks import acting
from ..blocks.rssm import State
from ..train.collector import noise_for_step
from .views import Seen

if TYPE_CHECKING:
    from matplotlib.figure import Figure

YELLOW, RED = (255, 210, 0), (230, 40, 40)  # a zoom; one that teaches a jump
FPS = 12.0


@dataclass
class Moment:
    """One decision of an episode.

    Attributes:
        frame: (h, w, 3) uint8.
        map: (h, w) in [0, 1].
        seen: what the jump rule found.
        carry: the agent's, after this observation.
    """

    frame: Array
    map: Array
    seen: Seen
    carry: Carry


def algorithm_of(agent: LSImagine) -> LSImagineAlgorithm:
    """An agent's algorithm.

    Raises:
        ConfigError: if it never jumps.
    """
    algorithm = agent.algorithm
    assert isinstance(algorithm, LSImagineAlgorithm)
    if not algorithm.config.long_branch:
        raise ConfigError(
            "this LSImagine was made with long_branch=False, so it neither zooms nor jumps; film "
            "one that was not"
        )
    return algorithm


@torch.no_grad()
def play(agent: LSImagine, env: gym.Env[Any, Any], *, seed: int = 0) -> list[Moment]:
    """An episode, as the agent looks at it while it learns.

    Args:
        agent: an LS-Imagine with jumps.
        env: of its kind, with side observations.
        seed: of the episode and of the agent's noise.
    """
    algorithm = algorithm_of(agent)
    episode, (jumps, scores) = algorithm.new_episode(), algorithm.statistics()
    specs, address = noise_for_step(algorithm.noise_spec), derive_seed(seed, "film")
    obs, info = env.reset(seed=seed)
    carry, moments, reward, is_over = algorithm.initial(1), list[Moment](), 0.0, False
    while True:
        first = torch.tensor([not moments])
        noise = {
            k: torch.from_numpy(v) for k, v in draw(specs, [(address, 0, len(moments))]).items()
        }
        seen = {k: torch.from_numpy(np.asarray(obs[k]))[None] for k in algorithm.observed}
        # as while it learns: a sample
        mode = torch.zeros(1, dtype=torch.bool)
        carry, action = algorithm.step(carry, {**seen, "is_first": first}, noise, mode)
        shown = {k: np.asarray(v)[None] for k, v in {**obs, **info.get(SIDE, {})}.items()}
        if algorithm.maps is not None:
            shown[MAP] = as_bytes(algorithm.mapped(shown[IMAGE]))
        map_, frame = algorithm.view(shown, 0)
        assert frame is not None, "views are zoomed to, so there is a frame"
        found = episode.look(map_, frame, float(reward), jumps, scores, is_last=is_over)
        moments.append(Moment(frame, map_, found, carry))
        if is_over:
            return moments
        obs, reward, terminated, truncated, info = env.step(action[0].numpy())
        is_over = bool(terminated or truncated)


def marked(moment: Moment) -> Array:
    """A decision as a picture (h, 2 w, 3) uint8: map and window in the frame, the view zoomed to.

    The map is red. The window is yellow, and red where the step teaches a jump.
    """
    heat = 0.6 * moment.map[..., None]
    left = as_bytes((moment.frame * (1 - heat) + heat * np.array(RED)) / 255)
    right = np.zeros_like(left)
    if (zoomed := moment.seen.zoomed) is not None:
        color = RED if moment.seen.jump else YELLOW
        top, first, height, width = zoomed.window
        _frame(left, top, first, height, width, color)
        right = as_bytes(zoomed.frame / 255)
        _frame(right, 0, 0, right.shape[0], right.shape[1], color)
    return np.concatenate([left, right], 1)


def _frame(
    picture: Array, top: int, left: int, height: int, width: int, color: tuple[int, int, int]
) -> None:
    """Draw a rectangle's border, two pixels wide."""
    part = picture[top : top + height, left : left + width]
    for border in (part[:2], part[-2:], part[:, :2], part[:, -2:]):
        border[:] = color


def episode_film(moments: list[Moment], path: str | Path) -> Path:
    """An episode as an mp4, a frame a decision."""
    with VideoWriter(path, fps=FPS) as film:
        for moment in moments:
            film.add(marked(moment))
    return Path(path)


def episode_sheet(moments: list[Moment], path: str | Path, *, count: int = 6) -> Path:
    """Some decisions of an episode one below the other, those with zooms first, as a picture."""
    zooms = [k for k, one in enumerate(moments) if one.seen.zoomed is not None]
    among = zooms if len(zooms) >= count else list(range(len(moments)))
    chosen = [among[k * (len(among) - 1) // max(count - 1, 1)] for k in range(count)]
    figure = _figure(8.0, 2.6 * count)
    panels = np.atleast_1d(figure.subplots(count, 1))
    for panel, k in zip(panels, chosen, strict=True):
        seen = moments[k].seen
        panel.imshow(marked(moments[k]))
        state = "jump" if seen.jump else "zoomed" if seen.zoomed is not None else "not zoomed"
        zoomed = f", S' {seen.zoomed.score:.3f}" if seen.zoomed is not None else ""
        panel.set_title(f"decision {k}: {state}, S {seen.score:.3f}{zoomed}", fontsize="small")
        panel.axis("off")
    figure.savefig(path, dpi=90)
    return Path(path)


@dataclass
class ImaginedRollouts:
    """Imagined trajectories of H moves, decoded.

    Attributes:
        images: (N, H+1, h, w, 3) in [0, 1].
        maps: (N, H+1, h, w, 1) in [0, 1].
        jumped: (N, H) 1 where the move to the next picture is a jump.
        interval: (N, H) the steps that a move stands for.
        likely: (N,) probability of a jump at the start.
    """

    images: Array
    maps: Array
    jumped: Array
    interval: Array
    likely: Array


@torch.no_grad()
def imagine_rollouts(
    agent: LSImagine, moments: list[Moment], *, count: int = 4, seed: int = 0, force: bool = False
) -> ImaginedRollouts:
    """Imagination from the moments of an episode where a jump is likeliest, a jump or none a move.

    Args:
        agent: an LS-Imagine with jumps.
        moments: of an episode of its own.
        count: how many to start from, no two within five decisions where there are others.
        seed: of the noise.
        force: jump first, likely or not; that move comes before the H others.
    """
    algorithm = algorithm_of(agent)
    states = [acting.state_of(algorithm.rssm, one.carry) for one in moments]
    every = State(*(torch.cat(part) for part in zip(*states, strict=True)))
    likely = _jump_probability(algorithm, algorithm.rssm.feat(every))
    index = torch.tensor(_apart(likely.tolist(), count))
    start = State(*(part[index] for part in every))
    noise, feats = NoiseSource(seed), list[Tensor]()
    if force:
        feats, start = [algorithm.rssm.feat(start)], _landed(algorithm, start, noise)
    found, jumped, chance = algorithm.imagined(start, noise)
    assert jumped is not None
    assert chance is not None
    if force:
        jumped, chance = F.pad(jumped, (1, 0), value=1.0), F.pad(chance, (1, 0), value=1.0)
    feat = torch.stack([*feats, *found.feats], 1)
    interval, _ = algorithm.jump_lengths(feat, jumped, chance)
    shown = algorithm.decoder(feat)
    images, maps = (shown[key].float().clamp(0, 1).numpy() for key in (IMAGE, MAP))
    return ImaginedRollouts(images, maps, jumped.numpy(), interval.numpy(), likely[index].numpy())


def _landed(algorithm: LSImagineAlgorithm, start: State, noise: NoiseSource) -> State:
    """The states that jumps from some lead to."""
    N = len(start.deter)
    bit = F.pad(start.deter.new_ones(N, 1), (algorithm.action.size, 0))
    return algorithm.rssm.img_step(start, bit, noise.uniform(N, *algorithm.latent.noise_shape))


def _jump_probability(algorithm: LSImagineAlgorithm, feat: Tensor) -> Tensor:
    return algorithm.jump.prediction(algorithm.jump(feat)).mean


def _apart(values: list[float], count: int, least: int = 5) -> list[int]:
    """Places of the largest values, at least so far apart while there are such, in order."""
    order = sorted(range(len(values)), key=lambda k: -values[k])
    taken: list[int] = []
    for distance in (least, 1):
        for k in order:
            if len(taken) < count and all(abs(k - one) >= distance for one in taken):
                taken.append(k)
    return sorted(taken)


def draw_rollouts(rollouts: ImaginedRollouts, path: str | Path, *, moves: int = 10) -> Path:
    """Rollouts as a picture: the image over its map, a red frame and the steps at a jump."""
    N, shown = len(rollouts.images), min(moves, rollouts.jumped.shape[1]) + 1
    figure = _figure(1.15 * shown, 2.5 * N)
    panels = figure.subplots(2 * N, shown, squeeze=False)
    for n in range(N):
        for t in range(shown):
            jump = t > 0 and rollouts.jumped[n, t - 1] > 0
            for panel, picture in (
                (panels[2 * n, t], rollouts.images[n, t]),
                (panels[2 * n + 1, t], rollouts.maps[n, t, ..., 0]),
            ):
                panel.imshow(picture, vmin=0, vmax=1, cmap="inferno")
                panel.set(xticks=[], yticks=[])
                for spine in panel.spines.values():
                    spine.set(edgecolor="#e62828" if jump else "none", linewidth=3)
            title = f"+{rollouts.interval[n, t - 1]:.0f}" if t else f"p {rollouts.likely[n]:.2f}"
            panels[2 * n, t].set_title(title, fontsize=8, color="#e62828" if jump else "0.3")
    figure.savefig(path, dpi=80)
    return Path(path)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
