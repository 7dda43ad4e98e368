"""Atari 2600 games in the Arcade Learning Environment: `atari:pong,protocol=dreamerv2`.

Source: Bellemare et al. 2013 (arXiv:1207.4708); sticky actions, action sets and time limit as in
Machado et al. 2018 (arXiv:1709.06009). Each paper's settings stand under `PROTOCOLS`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import AtariPreprocessing

from ..errors import ConfigError, EnvironmentStringError, EpisodeError, MissingExtraError, nearest
from ..spec import Array, Arrays
from .atari_scores import Reference, references
from .suite import (
    REPEAT,
    Env,
    Key,
    Outcome,
    Settings,
    Suite,
    Value,
)

FPS = 60  # frames a second of an NTSC console
VIA = 84  # pixels a side of the detour of resize=area84
LUMA = np.array([0.299, 0.587, 1 - (0.299 + 0.587)])  # of red, green, blue; ITU-R BT.601
# ALE's games for one player as of ale-py 0.12.1; listed so that strings are read without it
_NAMES = """
adventure air_raid alien amidar assault asterix asteroids atlantis atlantis2 backgammon
bank_heist basic_math battle_zone beam_rider berzerk blackjack bowling boxing breakout
carnival casino centipede chopper_command crazy_climber crossbow darkchambers defender
demon_attack donkey_kong double_dunk earthworld elevator_action enduro entombed et
fishing_derby flag_capture freeway frogger frostbite galaxian gopher gravitar hangman
haunted_house hero human_cannonball ice_hockey jamesbond journey_escape kaboom kangaroo
keystone_kapers king_kong klax koolaid krull kung_fu_master laser_gates lost_luggage
mario_bros miniature_golf montezuma_revenge mr_do ms_pacman name_this_game othello pacman
phoenix pitfall pitfall2 pong pooyan private_eye qbert riverraid road_runner robotank
seaquest sir_lancelot skiing solaris space_invaders space_war star_gunner superman surround
tennis tetris tic_tac_toe_3d time_pilot trondead turmoil tutankham up_n_down venture
video_checkers video_chess video_cube video_pinball wizard_of_wor word_zapper yars_revenge
zaxxon
"""
GAMES = frozenset(_NAMES.split())

_AGREED: Settings = {
    "life_loss": "ignore",
    "max_episode_steps": 108_000,
    "repeat": 4,
    "sticky": 0.25,
}
# A paper's text and its released code may be two protocols.
PROTOCOLS: Mapping[str, Settings] = {
    # Hafner et al. 2020 (arXiv:1912.01603), google-research/dreamer; its floor of 50 decisions an
    # episode is left out.
    "dreamer": {
        **_AGREED,
        **{"actions": "minimal", "color": "rgb", "resize": "bilinear", "size": 64},
        **{"min_noops": 1, "max_noops": 29, "life_loss": "end"},
    },
    # danijar/dreamerv2 at 07d906e, common/envs.py:Atari and the settings of `atari`.
    "dreamerv2": {
        **_AGREED,
        **{"actions": "minimal", "color": "gray", "resize": "area", "size": 64},
        **{"min_noops": 1, "max_noops": 30},
    },
    # Hafner et al. 2021 (arXiv:2010.02193): all actions, and 84 pixels on the way to 64. The text
    # gives no no-ops; they are the code's.
    "dreamerv2-paper": {
        **_AGREED,
        **{"actions": "full", "color": "gray", "resize": "area84", "size": 64},
        **{"min_noops": 1, "max_noops": 30},
    },
    # danijar/dreamerv3 at e3f0224, embodied/envs/atari.py and the settings of `atari`; there the
    # time limit counts as a termination, here it is a truncation.
    "dreamerv3": {
        **_AGREED,
        **{"actions": "full", "color": "gray", "resize": "bilinear", "size": 96},
        **{"min_noops": 0, "max_noops": 30},
    },
    # The same, its settings of `atari100k`.
    "atari100k": {
        **_AGREED,
        **{"actions": "minimal", "color": "rgb", "resize": "bilinear", "size": 64},
        **{"min_noops": 0, "max_noops": 30, "sticky": 0.0},
    },
}
# A picture of 64 pixels, which every agent here can see, and repeat=4, which all published scores
# are of; nobody means single frames.
DEFAULTS = PROTOCOLS["dreamerv2"]


# -- the suite's strings -------------------------------------------------------------------------


def canonical(task: str) -> str:
    """A game's short name, such as `ms_pacman`.

    Raises:
        EnvironmentStringError: if there is no such game, or it is named by an id of Gymnasium's.
    """
    task = "jamesbond" if task == "james_bond" else task  # as the papers' code has it
    if task in GAMES:
        return task
    short = SHORT.get(_folded(_without_version(task)))
    if short is not None:
        raise EnvironmentStringError(
            f'"atari:{task}" names a game by an id, expected its short name: write '
            f'"atari:{short}", and what the id stands for as keys, such as sticky=0.25'
        )
    raise EnvironmentStringError(
        f'"atari:{task}" is not a game of the Arcade Learning Environment; '
        f"{nearest(_folded_words(task), GAMES, 'games')}"
    )


def _without_version(task: str) -> str:
    """`Pong` of ALE/Pong-v5, PongNoFrameskip-v4, PongDeterministic-v0, Pong-ram-v4."""
    name = re.sub(r"-v\d+$", "", task.rpartition("/")[2])
    return re.sub(r"(-ram)?(NoFrameskip|Deterministic)?$", "", name)


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _folded_words(name: str) -> str:
    """Snake case, so that what is nearest is found for other spellings, too."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", _without_version(name))
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


SHORT = {_folded(game): game for game in GAMES}


def make(task: str, settings: Settings, render_mode: str | None) -> Env:
    """Make it; `render_mode` is not looked at, since every game can draw."""
    return Atari(
        task,
        actions=str(settings["actions"]),
        color=str(settings["color"]),
        ends_with_life=settings["life_loss"] == "end",
        max_episode_steps=int(settings["max_episode_steps"]),
        noops=(int(settings["min_noops"]), int(settings["max_noops"])),
        repeat=int(settings["repeat"]),
        resize=str(settings["resize"]),
        size=int(settings["size"]),
        sticky=float(settings["sticky"]),
    )


def scores(task: str, episodes: Sequence[Outcome]) -> dict[str, float]:
    """The mean return on the scales of a human and of the human record; 0 is random, 1 is theirs.

    Source: references and records, see `atari_scores`.
    """
    reference: Reference | None = references().get(task)
    if reference is None:
        return {}
    return reference.scores(float(np.mean([episode.total for episode in episodes])))


def _key(
    name: str,
    kind: type[int] | type[float] | type[str] = str,
    *,
    allowed: tuple[Value, ...] = (),
    least: float | None = None,
    most: float | None = None,
    evaluated: Value | None = None,
) -> Key:
    return Key(
        name=name,
        default=DEFAULTS[name],
        kind=kind,
        allowed=allowed,
        least=least,
        most=most,
        evaluated=evaluated,
    )


SUITE = Suite(
    name="atari",
    keys=(
        _key("actions", allowed=("full", "minimal")),
        _key("color", allowed=("gray", "rgb")),
        _key("life_loss", allowed=("ignore", "end"), evaluated="ignore"),
        _key("max_episode_steps", int, least=1),
        _key("max_noops", int, least=0),
        _key("min_noops", int, least=0),
        _key("repeat", int, least=1, most=REPEAT),
        _key("resize", allowed=("area", "area84", "bilinear")),
        _key("size", int, least=1, most=2048),
        _key("sticky", float, least=0, most=1),
    ),
    canonical=canonical,
    make=make,
    protocols=PROTOCOLS,
    scores=scores,
)


# -- the environment -----------------------------------------------------------------------------


class Atari(gym.Env[dict[str, Any], np.int64]):
    """One game.

    Observations are a dict of `image` (size, size, 1 or 3) uint8: the brighter of the last two
    frames of a decision, pixel by pixel, then made smaller. Stickiness, action sets and the time
    limit are ALE's own; repeating, the two frames and lost lives are Gymnasium's
    `AtariPreprocessing`, and so is `resize=area`. Ours are the no-ops, which Gymnasium draws from 1
    and DreamerV3 from 0, and the two other ways to resize, which Gymnasium does not have. ALE's
    `AtariVectorEnv` gives the same frames as `resize=area`, but steps all games together.

    Attributes:
        ale: the emulator.
        max_episode_steps: frames after which an episode is truncated.
        preprocessing: Gymnasium's part, an `AtariPreprocessing`.
    """

    render_mode = "rgb_array"

    def __init__(
        self,
        game: str,
        *,
        actions: str = "minimal",
        color: str = "gray",
        ends_with_life: bool = False,
        max_episode_steps: int = 108_000,
        noops: tuple[int, int] = (1, 30),
        repeat: int = 4,
        resize: str = "area",
        size: int = 64,
        sticky: float = 0.25,
    ) -> None:
        """Load a game.

        Args:
            game: short name, see `canonical`.
            actions: `full` (all 18) or `minimal` (those that do something in this game).
            color: `gray` or `rgb`.
            ends_with_life: whether losing a life ends the episode; the next is a new game.
            max_episode_steps: frames, no-ops included, after which an episode is truncated.
            noops: smallest and largest number of frames that pass after a reset without an action.
            repeat: frames in one `step`, rewards added up.
            resize: `area`, `area84` (first to 84x84), or `bilinear` (Pillow's, in colour).
            size: pixels a side of the observed image.
            sticky: probability, each frame, that the action before is taken once more.

        Raises:
            MissingExtraError: if ale-py, OpenCV or Pillow is not installed.
            ConfigError: if the smallest number of no-ops is above the largest.
        """
        if noops[0] > noops[1]:
            raise ConfigError(
                f"min_noops={noops[0]} is above max_noops={noops[1]}; lower the one or raise the "
                "other"
            )
        console = _console(game, sticky, actions == "full", max_episode_steps)
        self.ale, self.max_episode_steps = console.ale, max_episode_steps
        self._resized = _resizing(resize, color, size)
        # In colour and full size where the resizing is ours.
        height, width = console.ale.getScreenDims()
        shown = {"area": (size, size), "area84": (VIA, VIA)}.get(resize, (width, height))
        self.preprocessing = AtariPreprocessing(
            _NoOps(console, noops),
            noop_max=0,
            frame_skip=repeat,
            screen_size=shown,
            terminal_on_life_loss=ends_with_life,
            grayscale_obs=color == "gray" and resize != "bilinear",
            grayscale_newaxis=True,
        )
        self._open = False
        channels = 1 if color == "gray" else 3
        image = gym.spaces.Box(0, 255, (size, size, channels), np.uint8)
        self.observation_space = gym.spaces.Dict({"image": image})
        self.action_space = console.action_space
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": max(round(FPS / repeat), 1)}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Start a game; the same seed gives the same one, in every object with these settings.

        With a seed ALE loads the game anew: it has no other way to take one, and a plain reset
        leaves traces of the game before in some.
        """
        super().reset(seed=seed)
        self._open = True
        frame, info = self.preprocessing.reset(seed=seed)
        return {"image": self._resized(frame)}, info

    def step(self, action: np.int64) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Take an action for `repeat` frames, or until the episode ends.

        Raises:
            EpisodeError: if no episode is open.
        """
        if not self._open:
            raise EpisodeError("a step was taken outside an episode; call reset first")
        frame, reward, terminated, truncated, info = self.preprocessing.step(action)
        self._open = not (terminated or truncated)
        return {"image": self._resized(frame)}, float(reward), terminated, truncated, info

    def render(self) -> Array:
        """The screen now, (h, w, 3) uint8 in the console's own size, whatever is observed."""
        return self.ale.getScreenRGB()

    def close(self) -> None:
        """The object is of no use afterwards."""
        self._open = False


class _NoOps(gym.Wrapper[Any, Any, Any, Any]):
    """Lets a random number of frames pass after each reset, so that games start differently."""

    def __init__(self, env: Env, noops: tuple[int, int]) -> None:
        super().__init__(env)
        self._least, self._most = noops

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        for _ in range(int(self.env.unwrapped.np_random.integers(self._least, self._most + 1))):
            observation, _, terminated, truncated, more = self.env.step(0)
            info |= more
            if terminated or truncated:
                observation, info = self.env.reset(options=options)
        return observation, info


def _console(game: str, sticky: float, full: bool, max_episode_steps: int) -> Any:
    """ALE's environment, one frame a step, whose observations nobody looks at."""
    _module("cv2")
    ale = _module("ale_py")
    ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)  # before its banner
    console = _module("ale_py.env").AtariEnv(
        game,
        obs_type="ram",  # cheap: AtariPreprocessing reads the screen itself, when it needs it
        frameskip=1,
        repeat_action_probability=sticky,
        full_action_space=full,
        max_num_frames_per_episode=max_episode_steps,
    )
    # ... but takes its size from here
    screen = (*console.ale.getScreenDims(), 3)
    console.observation_space = gym.spaces.Box(0, 255, screen, np.uint8)
    return console


def _resizing(resize: str, color: str, size: int) -> Callable[[Array], Array]:
    if resize == "bilinear":
        return partial(_bilinear, _module("PIL.Image"), size, color == "gray")
    return partial(_area, _module("cv2"), size) if resize == "area84" else _unchanged


def _unchanged(frame: Array) -> Array:
    return frame


def _area(cv2: Any, size: int, frame: Array) -> Array:
    small: Array = cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA)
    return small.reshape(size, size, -1)


def _bilinear(images: Any, size: int, gray: bool, frame: Array) -> Array:
    """Pillow's resize, then luma, rounded down.

    Source: danijar/dreamerv3 embodied/envs/atari.py:_obs.
    """
    small = np.array(images.fromarray(frame).resize((size, size), images.BILINEAR))
    return (small * LUMA).sum(-1, keepdims=True).astype(np.uint8) if gray else small


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or name, "atari") from error
