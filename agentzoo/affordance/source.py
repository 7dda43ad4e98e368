"""Sources of maps, and scorers of a video against a goal: the two seams of this package.

map = affordance(image, goal, source)          any `MapSource`: the oracle's mask, a sliding
                                               zoom over a scorer, a network
logits = scorer.logits(scorer.encode(frames)[None], [goal])      any `Scorer`: MineCLIP, a CLIP
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from agentzoo.runtime.errors import AgentZooError, ConfigError, NotFiniteError, ObservationError
from agentzoo.runtime.spec import Array

from .maps import check_map


class ScorerError(AgentZooError, RuntimeError):
    """A scorer of videos failed, or gave what is no score."""


@runtime_checkable
class MapSource(Protocol):
    """A maker of affordance maps."""

    def __call__(self, image: Array, goal: str) -> Array:
        """(h, w, 3) uint8 and a sentence -> (h, w) in [0, 1], 1 where the goal can be reached."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """A scorer of videos against sentences.

    Attributes:
        frames: of a video.
        slope: by which a logit's distance to the centre is multiplied.
        centre: the logit that counts one half.
    """

    frames: int
    slope: float
    centre: float

    def encode(self, images: Array) -> Array:
        """(N, h, w, 3) uint8 -> (N, F), each image by itself."""
        ...

    def logits(self, videos: Array, texts: Sequence[str]) -> Array:
        """Videos of encoded frames (N, L, F) and P sentences -> (N, P)."""
        ...


def affordance(image: Array, goal: str, source: MapSource) -> Array:
    """The map of an image, checked.

    Args:
        image: (h, w, 3) uint8.
        goal: what is to be reached, as a sentence.
        source: makes the map.

    Returns:
        (h, w) float64 in [0, 1].

    Raises:
        ConfigError: without a goal.
        ObservationError: for what is no image, or no map.
        NotFiniteError: if the map holds NaN.
    """
    require_goal(goal)
    require_image(image)
    return check_map(source(image, goal), image.shape[:2])


def require_goal(goal: str) -> str:
    """The goal without spaces at its ends.

    Raises:
        ConfigError: if nothing is left.
    """
    if not goal.strip():
        raise ConfigError(
            f'the goal is {goal!r}, expected what is to be reached as a sentence, as "Cut a tree"; '
            "an affordance map is a map of a goal"
        )
    return goal.strip()


def require_image(image: Array) -> Array:
    """A picture of bytes.

    Raises:
        ObservationError: if it is none.
    """
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ObservationError(
            f"the image has shape {image.shape} and type {image.dtype}, expected (h, w, 3) uint8; "
            "give it as the environment showed it"
        )
    return image


class Oracle:
    """The map an environment knows itself: what `info["side"]["mask"]` of the last step showed.

    Args:
        mask: (h, w) or (h, w, 1) uint8, 255 where the goal shows.
    """

    def __init__(self, mask: Array) -> None:
        self.mask = mask

    def __call__(self, image: Array, goal: str) -> Array:
        """The mask as shares, whatever the image and the goal: they are the environment's."""
        return check_map(np.asarray(self.mask) / 255.0, image.shape[:2])


def scored(scorer: Scorer, videos: Array, texts: Sequence[str]) -> Array:
    """The logits of videos (N, L, F) against P sentences, checked: (N, P) float64.

    Raises:
        ScorerError: if the scorer raises, or gives another shape.
        NotFiniteError: if a logit is NaN or infinite.
    """
    try:
        found = np.asarray(scorer.logits(videos, texts), np.float64)
    except AgentZooError:
        raise
    except Exception as error:
        raise _failed(scorer, error) from error
    if found.shape != (len(videos), len(texts)):
        raise ScorerError(
            f"{type(scorer).__name__} gave logits of shape {found.shape} for {len(videos)} videos "
            f"and {len(texts)} sentences, expected {(len(videos), len(texts))}"
        )
    if not np.isfinite(found).all():
        raise NotFiniteError(
            f"{type(scorer).__name__} gave NaN or infinity for {', '.join(map(repr, texts))}; look "
            "at its weights, and feed it bytes, not numbers in [0, 1]"
        )
    return found


def encoded(scorer: Scorer, images: Array, batch: int = 64) -> Array:
    """Features of images (N, h, w, 3) uint8, a batch at a time: (N, F).

    Raises:
        ScorerError: if the scorer raises, or gives another number of features.
    """
    parts: list[Array] = []
    for first in range(0, len(images), batch):
        some = images[first : first + batch]
        try:
            features = np.asarray(scorer.encode(some))
        except AgentZooError:
            raise
        except Exception as error:
            raise _failed(scorer, error) from error
        if features.ndim != 2 or len(features) != len(some):
            raise ScorerError(
                f"{type(scorer).__name__} gave features of shape {features.shape} for {len(some)} "
                "images, expected one feature vector for each"
            )
        parts.append(features)
    return np.concatenate(parts)


def _failed(scorer: Scorer, error: Exception) -> ScorerError:
    return ScorerError(
        f"{type(scorer).__name__} failed: {type(error).__name__}: {error}; a scorer takes images "
        "(N, h, w, 3) uint8 and gives a logit for each video and sentence"
    )
