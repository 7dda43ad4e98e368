"""ViZDoom: `vizdoom:basic` and other shipped scenarios, `vizdoom:harvest-tree,far=mid`, our fields.

The fields are open meadows with a goal in the distance, the kind of world LS-Imagine is about: a
tree to be hit, a pond to be reached, a sheep to be shorn. See `vizdoom_fields`.

Source: Wydmuch et al. 2018 (arXiv:1809.03470), vizdoom 1.3.2. The twelve actions, the frame's size
and the turns of 10 degrees are those of Li et al. 2025 (LS-Imagine, arXiv:2410.03618).
"""

import math
import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np

from ..errors import EnvironmentStringError, EpisodeError, MissingExtraError, nearest
from ..policy.noise import derive_seed
from ..spec import Array, Arrays
from . import vizdoom_fields as fields
from .backend import LOST, SIDE
from .frames import shrunk
from .suite import REPEAT, Env, Key, Outcome, Settings, Suite, Value
from .vizdoom_engine import Engine

FPS = 35  # tics a second of Doom's clock
HEIGHT, WIDTH = 160, 256  # of the frame, LS-Imagine's
# Of the shipped ones, those for one player that need no other package's files, with the tics that
# their own files limit an episode to; 0 is no limit.
SCENARIOS: dict[str, int] = {
    "basic": 300,
    "deadly_corridor": 2100,
    "deathmatch": 4200,
    "defend_the_center": 2100,
    "defend_the_line": 0,
    "health_gathering": 2100,
    "health_gathering_supreme": 2100,
    "my_way_home": 2100,
    "predict_position": 300,
    "rocket_basic": 300,
    "simpler_basic": 300,
    "take_cover": 0,
}
TASKS = (*fields.TASKS, *SCENARIOS)
LIMIT = 1200  # tics of a field's episode: 300 decisions of 4
WARM_UP = 14  # tics until the player obeys
TURN = 2.5  # degrees a tic, so that four of them turn by 10
PITCH_LIMIT = 30.0  # degrees up and down
EYE = 41.0  # map units from the ground
# the engine's picture: 90 degrees across 4:3, more across 16:10, pixels 1.2 times as high as wide
FOCAL_X, FOCAL_Y = WIDTH / 2 / 1.2, WIDTH / 2
ACTIONS = (
    *("noop", "attack", "turn_up", "turn_down", "turn_left", "turn_right"),
    *("forward", "back", "left", "right", "jump", "use"),
)


# -- the suite's strings -------------------------------------------------------------------------


def canonical(task: str) -> str:
    """A task as `TASKS` has it.

    Raises:
        EnvironmentStringError: if the suite has no such task.
    """
    spellings = {name.replace("_", "-"): name for name in TASKS}
    if (name := spellings.get(task.replace("_", "-"))) is not None:
        return name
    raise EnvironmentStringError(
        f'"vizdoom:{task}" is neither one of our fields nor a scenario that ViZDoom ships for one '
        f"player; {nearest(task, TASKS, 'tasks')}"
    )


def _of_fields(value: Value) -> Callable[[str], Value | None]:
    return lambda task: value if task in fields.TASKS else None


def _limit(task: str) -> Value:
    return LIMIT if task in fields.TASKS else SCENARIOS[task]


def make(task: str, settings: Settings, render_mode: str | None) -> Env:
    """Make it in this process; `render_mode` is not looked at, since the engine always draws."""
    size, repeat = int(settings["size"]), int(settings["repeat"])
    if task in fields.TASKS:
        return Field(
            task,
            far=str(settings["far"]),
            split=str(settings["split"]),
            has_map=settings["map"] == "oracle",
            max_episode_steps=int(settings["max_episode_steps"]),
            repeat=repeat,
            size=size,
        )
    limit = int(settings["max_episode_steps"])
    return Scenario(task, max_episode_steps=limit, repeat=repeat, size=size)


def scores(task: str, episodes: Sequence[Outcome]) -> dict[str, float]:
    """Per cent of the episodes that reached the goal, and decisions until then.

    A failed episode counts as many decisions as the limit allows, as in the paper's tables.

    Returns:
        `success` and `steps_to_success` of a field; nothing for a shipped scenario.
    """
    if task not in fields.TASKS:
        return {}
    return {
        "success": 100.0 * float(np.mean([one.info["is_success"] for one in episodes])),
        "steps_to_success": float(np.mean([one.info["steps_to_success"] for one in episodes])),
    }


SUITE = Suite(
    name="vizdoom",
    keys=(
        Key(name="far", default=_of_fields("mid"), allowed=tuple(fields.FAR)),
        Key(name="map", default=_of_fields("none"), allowed=("none", "oracle")),
        Key(name="max_episode_steps", kind=int, default=_limit, least=0),
        Key(name="repeat", kind=int, default=4, least=1, most=REPEAT),
        Key(name="size", kind=int, default=64, least=8, most=512),
        Key(name="split", default=_of_fields("train"), allowed=fields.SPLITS, evaluated="test"),
    ),
    canonical=canonical,
    make=make,
    scores=scores,
    is_isolated=True,
    package="vizdoom",
)


# -- the environments ----------------------------------------------------------------------------


class Doom(gym.Env[dict[str, Any], np.int64]):
    """An engine behind Gymnasium's interface; `Field` and `Scenario` are the kinds.

    Observations are a dict of `image` (size, size, 3) uint8; the side observation `frame`
    (160, 256, 3) uint8 is in `info["side"]`. The same seed gives the same episode, in every
    process. An engine that dies ends its episode with `info["world_lost"]`; the next reset starts
    another.
    """

    render_mode = "rgb_array"

    def __init__(self, game: Any, files: dict[str, bytes], repeat: int, size: int) -> None:
        """Start an engine for a game whose particulars a subclass has set."""
        vizdoom = _module()
        game.set_window_visible(False)
        game.set_sound_enabled(False)
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_256X160)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_mode(vizdoom.Mode.PLAYER)  # the engine waits for each action
        self._errors = (
            vizdoom.ViZDoomErrorException,
            vizdoom.ViZDoomUnexpectedExitException,
            vizdoom.ViZDoomIsNotRunningException,
        )
        self._game, self._files = game, files
        self._repeat, self.size, self._open = repeat, size, False
        self.engine = Engine(game, files)
        self._frame: Array = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        self._spaces = {"image": gym.spaces.Box(0, 255, (size, size, 3), np.uint8)}
        self._side_spaces = {"frame": gym.spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)}
        self._last_info: dict[str, Any] = {}
        self._declare()

    def _declare(self) -> None:
        self.observation_space = gym.spaces.Dict(dict(self._spaces))
        self.metadata = {
            "render_modes": ["rgb_array"],
            "render_fps": FPS / self._repeat,
            SIDE: gym.spaces.Dict(dict(self._side_spaces)),
        }

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Start an episode; the same seed gives the same one."""
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**31 - 1)) if seed is None else seed
        try:
            self._begin(number)
        except self._errors:  # it died while nobody asked
            self.engine.close()
            self.engine = Engine(self._game, self._files)
            self._begin(number)
        self._open = True
        self._last_info = {**self._info(), SIDE: self._side()}
        return self._observation(), self._last_info

    def step(self, action: np.int64) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Take an action for `repeat` tics.

        Raises:
            EpisodeError: if no episode is open.
        """
        if not self._open:
            raise EpisodeError("a step was taken outside an episode; call reset first")
        try:
            reward, terminated, truncated = self._act(int(action))
        except self._errors as error:
            self._open = False
            lost = {LOST: f"the engine stopped ({str(error).strip()})"}
            return self._observation(), 0.0, False, True, {**self._last_info, **lost}
        self._open = not (terminated or truncated)
        self._last_info = {**self._info(), SIDE: self._side()}
        return self._observation(), reward, terminated, truncated, self._last_info

    def render(self) -> Array:
        """The frame now, (160, 256, 3) uint8."""
        return self._frame.copy()

    def close(self) -> None:
        """End the engine; the object is of no use afterwards."""
        self._open = False
        self.engine.close()

    def _begin(self, seed: int) -> None:
        """Start the seed's episode and take its first frame."""
        self._game.set_seed(seed % 2**32)
        self._game.new_episode()
        self._look()

    def _act(self, action: int) -> tuple[float, bool, bool]:
        """The reward of an action, and whether the episode was terminated or truncated."""
        raise NotImplementedError

    def _look(self) -> Any:
        """Take the newest frame, if there is one: a finished episode has none."""
        state = self._game.get_state()
        if state is not None:
            self._frame = np.array(state.screen_buffer)
        return state

    def _observation(self) -> Arrays:
        return {"image": shrunk(self._frame, self.size)}

    def _side(self) -> Arrays:
        return {"frame": self._frame.copy()}

    def _info(self) -> dict[str, Any]:
        return {}


class Scenario(Doom):
    """A scenario that ViZDoom ships, with its own rewards: an action a button, and none at first.

    Buttons with an amount (deathmatch has three) are left alone. The scenario's own time limit is a
    truncation, all other ends are terminations; a finished episode shows its last frame once more.
    """

    def __init__(
        self, task: str, *, max_episode_steps: int = 0, repeat: int = 4, size: int = 64
    ) -> None:
        """Load a scenario.

        Args:
            task: one of `SCENARIOS`.
            max_episode_steps: tics after which an episode is truncated; 0 is never.
            repeat: tics an action is held.
            size: pixels a side of the observed image.

        Raises:
            MissingExtraError: if vizdoom is not installed.
        """
        vizdoom = _module()
        game = vizdoom.DoomGame()
        game.load_config(
            os.path.join(os.path.dirname(vizdoom.__file__), "scenarios", f"{task}.cfg")
        )
        game.set_episode_timeout(max_episode_steps)
        self.max_episode_steps = max_episode_steps
        buttons = [
            button for button in game.get_available_buttons() if not button.name.endswith("_DELTA")
        ]
        game.set_available_buttons(buttons)
        super().__init__(game, {}, repeat, size)
        self.action_space = gym.spaces.Discrete(len(buttons) + 1)
        self._pressed = np.eye(len(buttons) + 1, dtype=int)[:, 1:].tolist()

    def _act(self, action: int) -> tuple[float, bool, bool]:
        reward = float(self._game.make_action(self._pressed[action], self._repeat))
        is_over = bool(self._game.is_episode_finished())
        truncated = is_over and bool(self._game.is_episode_timeout_reached())
        self._look()
        return reward, is_over and not truncated, truncated


class Field(Doom):
    """An episode in one of twenty fields, which the seed chooses as it does the first direction.

    The reward is 1 where the goal is reached, which terminates the episode, else 0. With a map the
    observation has `map` (size, size, 1) uint8, the share of each pixel that shows the target (255
    is all of it), and `info["side"]` has `mask` (160, 256, 1) uint8, 255 where the frame shows it.
    `info` has `is_success`, `steps_to_success` in decisions, which is the limit until then, and of
    the nearest target its `distance` in map units and its `bearing` in degrees, left of the view.
    """

    def __init__(
        self,
        task: str,
        *,
        far: str = "mid",
        split: str = "train",
        has_map: bool = False,
        max_episode_steps: int = LIMIT,
        repeat: int = 4,
        size: int = 64,
    ) -> None:
        """Write the fields and start an engine for them.

        Args:
            task: one of `vizdoom_fields.TASKS`.
            far: `near`, `mid` or `far`.
            split: `train` or `test`.
            has_map: whether the target is shown.
            max_episode_steps: tics after which an episode is truncated; 0 is never.
            repeat: tics an action is held.
            size: pixels a side of the observed image and map.

        Raises:
            MissingExtraError: if vizdoom is not installed.
        """
        self._task, self._has_map = task, has_map
        self.max_episode_steps = max_episode_steps
        first = fields.FIELDS * fields.SPLITS.index(split)
        self._layouts = [fields.layout(task, far, first + k) for k in range(fields.FIELDS)]
        self._layout, self._tics, self._decisions, self._is_success = self._layouts[0], 0, 0, False
        self._mask: Array = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
        self._sheep: list[tuple[float, float]] = []
        super().__init__(
            _field_game(), {"scenario.wad": fields.wad(task, far, split)}, repeat, size
        )
        self.action_space = gym.spaces.Discrete(len(ACTIONS))
        if has_map:
            self._spaces["map"] = gym.spaces.Box(0, 255, (size, size, 1), np.uint8)
            self._side_spaces["mask"] = gym.spaces.Box(0, 255, (HEIGHT, WIDTH, 1), np.uint8)
            self._declare()

    def _begin(self, seed: int) -> None:
        number = derive_seed("field of an episode", seed) % fields.FIELDS
        self._layout = self._layouts[number]
        self._tics, self._decisions, self._is_success = 0, 0, False
        self._game.set_doom_map(fields.map_name(number))
        self._game.set_seed(seed % 2**32)
        self._game.new_episode()
        # the engine turns by any angle within one tic
        heading = 360.0 * derive_seed("heading of an episode", seed) / 2**64 - 180.0
        self._game.make_action([*[0.0] * (len(BUTTONS) - 2), heading, 0.0], 1)
        self._look()

    def _act(self, action: int) -> tuple[float, bool, bool]:
        tics = (
            min(self._repeat, self.max_episode_steps - self._tics)
            if self.max_episode_steps
            else self._repeat
        )
        pressed = self._pressed(ACTIONS[action], tics)
        # the engine acts on use when it is pressed, not while it is held: let go of it
        held = tics - 1 if ACTIONS[action] == "use" and tics > 1 else tics
        self._game.make_action(pressed, held)
        if held < tics:
            self._game.make_action([0.0] * len(BUTTONS), tics - held)
        self._tics += tics
        self._decisions += 1
        self._look()
        self._is_success = self._has_reached_goal()
        truncated = not self._is_success and 0 < self.max_episode_steps <= self._tics
        return float(self._is_success), self._is_success, truncated

    def _pressed(self, action: str, tics: int) -> list[float]:
        amounts = dict.fromkeys(BUTTONS, 0.0) | PRESSED[action]
        # the engine's pitch is positive downwards, the button's amount upwards
        pitch = self.variable("PITCH") - tics * amounts["LOOK_UP_DOWN_DELTA"]
        if abs(pitch) > PITCH_LIMIT + TURN / 2:
            amounts["LOOK_UP_DOWN_DELTA"] = 0.0
        return list(amounts.values())

    def _has_reached_goal(self) -> bool:
        if self._task != "reach-water":
            return self.variable("KILLCOUNT") > 0
        x, y = self.variable("POSITION_X"), self.variable("POSITION_Y")
        return bool(_in_pond(np.array(x), np.array(y), self._layout.pond))

    def variable(self, name: str) -> float:
        """One of the engine's game variables now, such as PITCH: see `vizdoom.GameVariable`."""
        return float(self._game.get_game_variable(getattr(_module().GameVariable, name)))

    def _look(self) -> Any:
        state = super()._look()
        if state is None:
            return state
        if self._task == "shear-sheep":  # they wander
            sheep = [each for each in state.objects if each.name == ACTORS[self._task]]
            self._sheep = [(each.position_x, each.position_y) for each in sheep]
        if self._has_map:
            self._mask = 255 * self._seen(state)[..., None].astype(np.uint8)
        return state

    def _seen(self, state: Any) -> Array:
        """Mask of the target in the frame, (160, 256) bool."""
        labels = state.labels_buffer
        if self._task != "reach-water":
            name = ACTORS[self._task]
            return np.isin(labels, [one.value for one in state.labels if one.object_name == name])
        objects = np.isin(labels, [label.value for label in state.labels])
        return self._shows_water() & ~objects

    def _shows_water(self) -> Array:
        """Mask of the pond, if nothing stands before it, (160, 256) bool.

        The ground is flat, so each pixel below the horizon shows one point of it. The engine looks
        up and down by moving the horizon.
        """
        pitch, angle = (math.radians(self.variable(name)) for name in ("PITCH", "ANGLE"))
        eye = self.variable("CAMERA_POSITION_Z")
        horizon = HEIGHT / 2 - FOCAL_Y * math.tan(pitch)
        # a pixel shows the ground at its lower left corner
        rows, columns = np.arange(HEIGHT)[:, None] + 1.0, np.arange(WIDTH)[None]
        below = np.maximum(rows - horizon, 1e-6)
        depth = eye * FOCAL_Y / below
        right = depth * (columns - WIDTH / 2) / FOCAL_X
        x = self.variable("POSITION_X") + depth * math.cos(angle) + right * math.sin(angle)
        y = self.variable("POSITION_Y") + depth * math.sin(angle) - right * math.cos(angle)
        return _in_pond(x, y, self._layout.pond) & (rows > horizon)

    def _observation(self) -> Arrays:
        seen = super()._observation()
        if not self._has_map:
            return seen
        return {**seen, "map": shrunk(self._mask, self.size)}

    def _side(self) -> Arrays:
        side = super()._side()
        return {**side, "mask": self._mask.copy()} if self._has_map else side

    def _info(self) -> dict[str, Any]:
        limit = math.ceil(self.max_episode_steps / self._repeat)
        return {
            "is_success": self._is_success,
            "steps_to_success": self._decisions if self._is_success or not limit else limit,
            **self._nearest_target(),
        }

    def _nearest_target(self) -> dict[str, float]:
        x, y, angle = (self.variable(name) for name in ("POSITION_X", "POSITION_Y", "ANGLE"))
        targets = self._layout.trees if self._task == "harvest-tree" else [self._layout.pond]
        if self._task == "shear-sheep":
            targets = self._sheep
        distance, (to_x, to_y) = min((math.dist(one, (x, y)), one) for one in targets)
        bearing = math.degrees(math.atan2(to_y - y, to_x - x)) - angle
        return {"distance": distance, "bearing": (bearing + 180) % 360 - 180}


def _in_pond(x: Array, y: Array, center: tuple[float, float]) -> Array:
    """Whether points of the ground lie in the pond, a regular polygon with a corner at angle 0."""
    half = math.pi / fields.POND_SIDES
    dx, dy = x - center[0], y - center[1]
    to_middle = np.mod(np.arctan2(dy, dx), 2 * half) - half  # of the side it lies behind
    inner = fields.POND_RADIUS * math.cos(half)
    return np.hypot(dx, dy) * np.cos(to_middle) <= inner


ACTORS = {"harvest-tree": "FieldTree", "shear-sheep": "FieldSheep"}
BUTTONS = (
    *("ATTACK", "USE", "JUMP", "MOVE_FORWARD", "MOVE_BACKWARD", "MOVE_LEFT", "MOVE_RIGHT"),
    *("TURN_LEFT_RIGHT_DELTA", "LOOK_UP_DOWN_DELTA"),
)
PRESSED = {  # action -> buttons and amounts a tic
    "noop": {},
    "attack": {"ATTACK": 1.0},
    "turn_up": {"LOOK_UP_DOWN_DELTA": TURN},
    "turn_down": {"LOOK_UP_DOWN_DELTA": -TURN},
    "turn_left": {"TURN_LEFT_RIGHT_DELTA": -TURN},
    "turn_right": {"TURN_LEFT_RIGHT_DELTA": TURN},
    "forward": {"MOVE_FORWARD": 1.0},
    "back": {"MOVE_BACKWARD": 1.0},
    "left": {"MOVE_LEFT": 1.0},
    "right": {"MOVE_RIGHT": 1.0},
    "jump": {"JUMP": 1.0, "MOVE_FORWARD": 1.0},
    "use": {"USE": 1.0},
}


def _field_game() -> Any:
    """A game with our buttons that shows nothing but the world, set up to the scenario."""
    vizdoom = _module()
    game = vizdoom.DoomGame()
    game.set_doom_game_path(os.path.join(os.path.dirname(vizdoom.__file__), "freedoom2.wad"))
    game.set_doom_map(fields.map_name(0))
    game.set_available_buttons([getattr(vizdoom.Button, name) for name in BUTTONS])
    game.set_labels_buffer_enabled(True)
    game.set_objects_info_enabled(True)
    game.set_episode_start_time(WARM_UP)
    game.set_episode_timeout(0)
    for shown in ("hud", "weapon", "crosshair", "messages", "decals", "particles"):
        getattr(game, f"set_render_{shown}")(False)
    return game


def _module() -> Any:
    try:
        return import_module("vizdoom")
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "vizdoom", "vizdoom") from error
