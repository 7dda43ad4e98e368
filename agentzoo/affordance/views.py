"""One episode as LS-Imagine sees it: scores, jumps, zoomed views, and pairs that close later."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from agentzoo.runtime.envs.frames import shrunk
from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.spec import Array

from .intrinsic import affordance_score, gaussian_prior, intrinsic_reward
from .maps import COARSE, check_map, coarse, resized
from .pending import Closed, PendingPairs, average_reward
from .zoom import (
    Region,
    RunningStatistics,
    Window,
    is_central,
    is_small_target,
    is_unusual,
    regions,
    zoom_window,
)

STDS = 2.0  # released rule: by how many deviations of all scores a zoomed view scores higher


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Rules of a jump: its condition, target and pause; `LSImagineConfig` has the defaults."""

    jump_rule: str = "absolute"
    zoom_margin: float = 6.0
    jump_max: float = 0.25
    jump_mean: float = 0.025
    jump_gain: float = 0.15
    gate: str = "gated"
    max_interval: int = 1000
    discount: float = 0.997


class Zoomed(NamedTuple):
    """A view that is zoomed to.

    Attributes:
        frame: (h, w, 3) float64, the crop in the frame's own size.
        map: (h, w), its map.
        score: S' of the map.
        is_central: whether the goal was near the middle of the view before.
        window: the crop in the view before, in its pixels.
    """

    frame: Array
    map: Array
    score: float
    is_central: bool
    window: Window

    def image(self, size: int) -> Array:
        """View as the policy would see it: (size, size, 3) uint8."""
        return shrunk(_bytes(self.frame), size)

    def small_map(self, size: int) -> Array:
        """Map as the policy would see it: (size, size, 1) uint8."""
        return shrunk(_bytes(255 * self.map[..., None]), size)


class DelayedReward(NamedTuple):
    """The reward that closes an earlier transition, `interval` transitions before this one."""

    interval: int
    accumulated: float  # G', an average
    is_reached: bool


class Seen(NamedTuple):
    """The findings of one step.

    Attributes:
        score: S of its map.
        intrinsic: what it is paid for that.
        zoomed: where a jump would lead, or None.
        zoomed_intrinsic: what arriving there is paid.
        jump: whether to learn to jump from here.
        closed: pairs of earlier steps that end here.
    """

    score: float
    intrinsic: float
    zoomed: Zoomed | None
    zoomed_intrinsic: float
    jump: bool
    closed: list[DelayedReward]


def attempt(map_: Array, rules: Rules, jumps: RunningStatistics) -> tuple[Region, Window] | None:
    """Target of a zoom, in the map's pixels; None if there is none here."""
    if rules.jump_rule == "released":
        looked, times, tried = map_, 1, is_unusual(map_, jumps)
    else:
        looked, times = coarse(map_), COARSE
        tried = is_small_target(looked, rules.jump_max, rules.jump_mean)
    found = regions(looked, opened=times == 1) if tried else []
    if not found:
        return None
    region, prior = max(found, key=lambda each: each.heat), gaussian_prior(*looked.shape)
    window = zoom_window(
        looked, region, prior, margin=rules.zoom_margin, centered=rules.jump_rule == "absolute"
    )
    central = next((each for each in found if is_central(each, prior)), region)
    return central, window.scaled(times)


@dataclass
class EpisodeViews:
    """The memory of an episode between its steps.

    Args:
        rules: when to jump.
        has_zoom: whether views are zoomed to at all.
        map_of: makes the map (h, w) of a zoomed view (h, w, 3); None takes its part of the map.
    """

    rules: Rules
    has_zoom: bool = True
    map_of: Callable[[Array], Array] | None = None
    pending: PendingPairs = field(init=False)
    before: float = 0.0  # best score so far, or (delta) the last one
    best_zoomed: float = 0.0
    rewards: list[float] = field(default_factory=list)  # of every step so far

    def __post_init__(self) -> None:
        """Begin with nothing pending."""
        self.pending = PendingPairs(self.rules.max_interval)

    def look(
        self,
        map_: Array,
        frame: Array | None,
        reward: float,
        jumps: RunningStatistics,
        scores: RunningStatistics,
        *,
        alpha: float = 1.0,
        is_last: bool = False,
    ) -> Seen:
        """Take in the next step.

        Args:
            map_: (h, w) in [0, 1].
            frame: (h, w, 3) uint8; needed where views are zoomed to.
            reward: the environment's, and a scorer's.
            jumps: P_jump of all steps of all episodes, which this one's is added to.
            scores: S of all steps of all episodes, likewise.
            alpha: of the intrinsic reward in what a jump earns.
            is_last: whether the episode ends here; nothing is opened then.
        """
        prior = gaussian_prior(*map_.shape)
        score = affordance_score(map_, prior)
        scores.add(score)
        paid = intrinsic_reward(score, self.before, self.rules.gate)
        # S' has a ceiling with a margin, the goal's share of the window, while the deviation grows
        # with the policy that reaches the goal: by the released rule no view would be good enough
        gain = STDS * scores.std if self.rules.jump_rule == "released" else self.rules.jump_gain
        zoomed = self._zoomed(map_, frame, jumps, score + gain)
        closed = [self._delayed(each) for each in self.pending.close(score, len(self.rewards))]
        zoomed_paid = 0.0
        if zoomed is not None:
            gated = self.rules.gate == "gated"
            best = max(self.before, score, self.best_zoomed) if gated else score
            zoomed_paid = intrinsic_reward(zoomed.score, best, self.rules.gate)
            self.best_zoomed = max(self.best_zoomed, zoomed.score)
            if not is_last:
                self.pending.add(zoomed.score, len(self.rewards))
        self.before = score if self.rules.gate == "delta" else max(self.before, score)
        self.rewards.append(reward + alpha * paid)
        jump = zoomed is not None and zoomed.is_central
        return Seen(score, paid, zoomed, zoomed_paid, jump, closed)

    def _zoomed(
        self, map_: Array, frame: Array | None, jumps: RunningStatistics, least: float
    ) -> Zoomed | None:
        """Target of a jump, if it promises at least a score."""
        if not self.has_zoom:
            return None
        where = attempt(map_, self.rules, jumps)
        if where is None:
            return None
        assert frame is not None, "views are zoomed to, so there is a frame"
        region, window = where
        picture = None
        if self.map_of is None:
            seen = np.clip(resized(window.crop(map_), *map_.shape), 0, 1)
        else:
            picture = resized(window.crop(frame), *map_.shape)
            seen = check_map(self.map_of(picture), map_.shape)
        score = affordance_score(seen, gaussian_prior(*map_.shape))
        if score < least:
            return None
        looked = map_.shape if self.rules.jump_rule == "released" else coarse(map_).shape
        if picture is None:
            picture = resized(window.crop(frame), *map_.shape)
        central = is_central(region, gaussian_prior(*looked))
        return Zoomed(picture, seen, score, central, window)

    def _delayed(self, pair: Closed) -> DelayedReward:
        between = self.rewards[pair.begun + 1 : pair.begun + pair.interval]
        return DelayedReward(
            pair.interval, average_reward(between, self.rules.discount), pair.is_reached
        )


def require_frame(frame: Array | None, map_: Array) -> Array:
    """The frame to zoom into.

    Raises:
        ConfigError: if there is none, or of another size than the map.
    """
    if frame is None:
        raise ConfigError(
            'long_branch=True zooms into the large frame, a side observation "frame", and the '
            "environment gives none; choose one that does (vizdoom:harvest-tree,map=oracle), or "
            "set long_branch=False"
        )
    if frame.shape[:2] != map_.shape:
        raise ConfigError(
            f"the side observation frame is {frame.shape[0]} x {frame.shape[1]}, the map that "
            f"belongs to it {map_.shape[0]} x {map_.shape[1]}; both have to be of one size (a "
            'side observation "mask", like the field tasks of vizdoom)'
        )
    return frame


def _bytes(picture: Array) -> Array:
    return np.clip(np.floor(picture + 0.5), 0, 255).astype(np.uint8)
