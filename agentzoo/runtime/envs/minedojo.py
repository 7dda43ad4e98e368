"""MineDojo: `minedojo:harvest_log_in_plains`, LS-Imagine's four others, and MineDojo's own ids.

The real package needs gym 0.21, numpy 1 and Java 8, so it lives in an environment of its own, whose
interpreter AGENTZOO_MINEDOJO_PYTHON names, behind `minedojo_bridge`.

Source: Fan et al. 2022 (arXiv:2206.08853), minedojo 0.1; tasks, actions, sticky jump, pitch limits
and resets as in qiwang067/LS-Imagine (Li et al. 2025, arXiv:2410.03618), envs/tasks.
"""

import json
import mmap
import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from ..errors import EnvironmentStringError, EpisodeError, ProviderError, WorkerError
from ..spec import Array, Arrays
from .backend import LOST, SIDE
from .frames import shrunk
from .suite import Env, Key, Outcome, Settings, Suite, Value
from .worker_process import INHERITS, end

PYTHON = "AGENTZOO_MINEDOJO_PYTHON"
BRIDGE = Path(__file__).with_name("minedojo_bridge.py")
FPS = 20  # steps a second of Minecraft's clock
HEIGHT, WIDTH = 160, 256
STEP_S, RESET_S, BUILD_S = 240.0, 600.0, 3600.0  # within which an answer has to come; first reset
TRIES = 3  # of a reset, with a fresh game each
TURN = 10.0  # degrees
PITCH_LIMIT = 70.0
STICKY_JUMP = 10  # steps
OWN_ID = re.compile(r"\w+")
ACTIONS: dict[str, Mapping[str, Any]] = {  # in MineDojo's parts of an action
    "noop": {},
    "attack": {"attack": 1},
    "turn_up": {"camera": (-TURN, 0.0)},
    "turn_down": {"camera": (TURN, 0.0)},
    "turn_left": {"camera": (0.0, -TURN)},
    "turn_right": {"camera": (0.0, TURN)},
    "forward": {"forward": 1},
    "back": {"back": 1},
    "left": {"left": 1},
    "right": {"right": 1},
    "jump": {"jump": 1, "forward": 1},
    "use": {"use": 1},
}
INSTALL = (
    "python3 -m venv md && md/bin/pip install pip==24.0 setuptools==65.5.0 wheel==0.38.4 && "
    "md/bin/pip install --no-build-isolation gym==0.21.0 numpy==1.24.4 minedojo==0.1"
)


@dataclass(frozen=True, kw_only=True)
class Harvest:
    """One of LS-Imagine's tasks: the harvest meta task, and how its settings differ.

    Attributes:
        target: what has to be in the inventory.
        prompt: what the paper says to its scorers.
        biome: of the world; "" for any.
        held: in the main hand at the start.
        limit: steps of an episode.
        fast_resets: for each new world.
        more: further settings of the meta task.
    """

    target: str
    prompt: str
    biome: str = ""
    held: str = ""
    limit: int = 1000
    fast_resets: int = 5
    more: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def spec(self) -> dict[str, Any]:
        """Task as the bridge takes it."""
        settings: dict[str, Any] = {
            "target_names": self.target,
            "target_quantities": 1,
            "reward_weights": 1,
            "break_speed_multiplier": 100.0,
            **self.more,
        }
        if self.biome:
            settings["specified_biome"] = self.biome
        return {"harvest": settings, **({"held": self.held} if self.held else {})}


HARVEST = {
    "harvest_log_in_plains": Harvest(target="log", prompt="Cut a tree", biome="plains"),
    "harvest_water_with_bucket": Harvest(
        target="water_bucket", prompt="Obtain water", biome="plains", held="bucket"
    ),
    "harvest_sand": Harvest(target="sand", prompt="Obtain sand"),
    "shear_sheep": Harvest(
        target="wool",
        prompt="Obtain wool",
        biome="plains",
        held="shears",
        more={
            "initial_mobs": ["sheep"],
            "initial_mob_spawn_range_low": [-15, 1, -15],
            "initial_mob_spawn_range_high": [15, 1, 15],
        },
    ),
    "mine_iron_ore": Harvest(
        target="iron_ore",
        prompt="Mine iron ore",
        held="stone_pickaxe",
        limit=2000,
        fast_resets=10,
    ),
}


# -- the suite's strings -------------------------------------------------------------------------


def canonical(task: str) -> str:
    """One of LS-Imagine's names, or what may be one of MineDojo's ids; its package knows them all.

    Raises:
        EnvironmentStringError: if it cannot be an id.
    """
    if OWN_ID.fullmatch(task):
        return task
    raise EnvironmentStringError(
        f'"minedojo:{task}" is no name of a task; expected one of {", ".join(HARVEST)}, '
        "or an id of MineDojo's such as harvest_milk"
    )


def _limit(task: str) -> Value:
    return HARVEST[task].limit if task in HARVEST else 1000


def _fast_resets(task: str) -> Value:
    return HARVEST[task].fast_resets if task in HARVEST else 0


def make(task: str, settings: Settings, render_mode: str | None) -> Env:
    """Make it behind a bridge; `render_mode` is not looked at, since the game always draws."""
    return MineDojo(
        task,
        fast_resets=int(settings["fast_resets"]),
        has_hud=settings["hud"] == "keep",
        max_episode_steps=int(settings["max_episode_steps"]),
        size=int(settings["size"]),
        world_seed=int(settings["world_seed"]),
    )


def scores(task: str, episodes: Sequence[Outcome]) -> dict[str, float]:
    """Per cent of the episodes that succeeded, and steps until then; a failure counts the limit."""
    return {
        "success": 100.0 * float(np.mean([one.info["is_success"] for one in episodes])),
        "steps_to_success": float(np.mean([one.info["steps_to_success"] for one in episodes])),
    }


SUITE = Suite(
    name="minedojo",
    keys=(
        Key(name="fast_resets", kind=int, default=_fast_resets, least=0, evaluated=0),
        Key(name="hud", default="remove", allowed=("keep", "remove")),
        Key(name="max_episode_steps", kind=int, default=_limit, least=1),
        Key(name="repeat", kind=int, default=1, least=1, most=1),
        Key(name="size", kind=int, default=64, least=8, most=512),
        Key(name="world_seed", kind=int, default=7, least=0),
    ),
    canonical=canonical,
    make=make,
    scores=scores,
)


# -- the bridge ----------------------------------------------------------------------------------


def interpreter() -> str:
    """The Python that has MineDojo.

    Raises:
        ProviderError: if the variable is not set, or names nothing that can be run.
    """
    given = os.environ.get(PYTHON, "")
    if given and os.access(given, os.X_OK):
        return given
    said = f"{PYTHON}={given} cannot be run" if given else f"{PYTHON} is not set"
    raise ProviderError(
        f"{said}: MineDojo needs an environment of its own; make one ({INSTALL}), set {PYTHON} to "
        'its python, and ask "agentzoo doctor minedojo" what else is missing'
    )


class _GoneError(WorkerError):
    """The bridge died or does not answer."""


class _RefusedError(WorkerError):
    """The bridge says why it cannot do what it was asked."""

    def __init__(self, message: str, is_setup: bool) -> None:
        super().__init__(message)
        self.is_setup = is_setup  # no further try helps


class Bridge:
    """The process that holds MineDojo; it, and the game that it starts, end with this one."""

    def __init__(self) -> None:
        """Start it.

        Raises:
            ProviderError: where no such process can be started.
        """
        if not INHERITS:
            raise ProviderError(
                "minedojo: hands descriptors on to its process, which Windows cannot; use Linux"
            )
        python = interpreter()
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the bridge
        self._file.truncate(HEIGHT * WIDTH * 3)
        self.memory = mmap.mmap(self._file.fileno(), HEIGHT * WIDTH * 3)
        self._socket, theirs = socket.socketpair()
        # the package writes logs into the working directory
        self._folder = tempfile.TemporaryDirectory(prefix="agentzoo-minedojo-")
        descriptors = [theirs.fileno(), self._file.fileno()]
        self.process = subprocess.Popen(
            # isolated: neither our folder, which has modules of MineDojo's names, nor our packages
            [python, "-I", str(BRIDGE), *map(str, descriptors)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=descriptors,
            cwd=self._folder.name,
            env={**os.environ, "MINEDOJO_HEADLESS": "1", "TMPDIR": self._folder.name},
            start_new_session=True,
        )
        theirs.close()
        self._received = b""

    def ask(self, timeout: float, **request: object) -> dict[str, Any]:
        """One request, one answer.

        Raises:
            WorkerError: if the bridge refuses, dies or does not answer in time.
        """
        self._socket.settimeout(timeout)
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            while b"\n" not in self._received:
                more = self._socket.recv(65536)
                if not more:
                    raise _GoneError(f"MineDojo's process ended while asked to {request['do']}")
                self._received += more
        except TimeoutError as error:
            raise _GoneError(
                f"MineDojo gave no answer to {request['do']} for {timeout:g} s"
            ) from error
        except OSError as error:
            raise _GoneError(f"MineDojo's process is gone ({error})") from error
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise _RefusedError(str(answer["error"]), bool(answer.get("setup")))
        return answer

    @property
    def frame(self) -> Array:
        """The newest frame, (160, 256, 3) uint8."""
        return np.frombuffer(self.memory, np.uint8).reshape(HEIGHT, WIDTH, 3).copy()

    def close(self, timeout: float = 0.0) -> None:
        """End the process and the game; with a timeout the game may close by itself."""
        if timeout:
            with suppress(WorkerError):
                self.ask(timeout, do="close")
        end(self.process)
        self._socket.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.memory.close()
        self._file.close()
        self._folder.cleanup()


# -- the environment -----------------------------------------------------------------------------


class MineDojo(gym.Env[dict[str, Any], np.int64]):
    """Minecraft behind Gymnasium's interface, with LS-Imagine's twelve actions.

    Observations are a dict of `image` (size, size, 3) uint8; the side observation `frame`
    (160, 256, 3) is in `info["side"]`. Death is a termination. Success and the time limit are
    truncations, as in the authors' code: the world goes on after them. `info` has `is_success`,
    `steps_to_success` (the limit until then), and `goal`, the task's prompt.

    A game that dies, hangs, or loses its connection ends its episode with `info["world_lost"]`; the
    next reset starts another. The seed decides where fast resets lead at most: the game itself has
    `world_seed`.

    Attributes:
        goal: the task's prompt.
        pitch: of the view now, in degrees; positive is down.
        size: pixels a side of the observed image.
        versions: of the bridge's interpreter and packages.
    """

    render_mode = "rgb_array"

    def __init__(
        self,
        task: str,
        *,
        fast_resets: int = 0,
        has_hud: bool = False,
        max_episode_steps: int = 1000,
        size: int = 64,
        world_seed: int = 7,
        timeouts: tuple[float, float, float] = (STEP_S, RESET_S, BUILD_S),
    ) -> None:
        """Start the bridge and make the task there; the game starts with the first reset.

        Args:
            task: one of `HARVEST`, or one of MineDojo's ids.
            fast_resets: episodes that begin elsewhere in the same world, for each new world.
            has_hud: whether the frame keeps the hand, the hotbar and the bars above it.
            max_episode_steps: after which an episode is truncated.
            size: pixels a side of the observed image.
            world_seed: of the game's world.
            timeouts: seconds within which a step, a reset, and the first reset have to end.

        Raises:
            ProviderError: if no interpreter with MineDojo is named.
            EnvironmentStringError: if MineDojo does not know the id.
        """
        self._harvest = HARVEST.get(task)
        self._task = self._harvest.spec() if self._harvest else {"id": task}
        self._fast_resets, self._limit, self._has_hud = fast_resets, max_episode_steps, has_hud
        self._world_seed, self._timeouts, self.size = world_seed, timeouts, size
        self._resets = 0  # of the open world
        self._steps, self._jump, self._open, self._is_success = 0, 0, False, False
        self.pitch = 0.0
        self._frame: Array = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        self._bridge = self._opened()
        image = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        frame = gym.spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        self.observation_space = gym.spaces.Dict({"image": image})
        self.action_space = gym.spaces.Discrete(len(ACTIONS))
        self.metadata = {
            "render_modes": ["rgb_array"],
            "render_fps": FPS,
            SIDE: gym.spaces.Dict({"frame": frame}),
        }

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The process that holds MineDojo; a lost game's successor has another."""
        return self._bridge.process

    def _opened(self) -> Bridge:
        bridge, timeout, self._is_fresh = Bridge(), self._timeouts[1], True
        try:
            self.versions = bridge.ask(timeout, do="hello")
            made = bridge.ask(timeout, do="make", task=self._task, seed=self._world_seed)
        except WorkerError as error:
            bridge.close()
            if isinstance(error, _RefusedError) and error.is_setup:
                raise EnvironmentStringError(str(error)) from error
            raise WorkerError(f'{error}; ask "agentzoo doctor minedojo" what is missing') from error
        self.goal = self._harvest.prompt if self._harvest else str(made["prompt"])
        return bridge

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Start an episode: in a new world, or elsewhere in the same one.

        Raises:
            WorkerError: if Minecraft cannot start, or did not three times.
        """
        super().reset(seed=seed)
        self._see(self._begun())
        self._steps, self._jump, self._open, self._is_success = 0, 0, True, False
        return self._observation(), self._info()

    def _begun(self) -> dict[str, Any]:
        """The first state of an episode, of a fresh game where one is gone."""
        for tries in range(1, TRIES + 1):
            try:
                return self._begin()
            except WorkerError as error:
                if isinstance(error, _RefusedError) and error.is_setup:
                    raise
                self._restart_or_raise(tries, error)
        raise AssertionError("the last try raises")

    def _begin(self) -> dict[str, Any]:
        # new worlds are followed by so many fast resets, counted from the new world
        hard = self._is_fresh or self._resets >= self._fast_resets
        timeout = self._timeouts[2 if self._is_fresh else 1]
        state = self._bridge.ask(timeout, do="reset", hard=hard)
        self._resets = 0 if hard else self._resets + 1
        self._is_fresh = False
        return state

    def _restart_or_raise(self, tries: int, error: WorkerError) -> None:
        self._bridge.close()
        self._bridge = self._opened()
        if tries == TRIES:
            raise WorkerError(
                f"{error}, for the {tries}. time in a row; see what it says on standard error, or "
                'ask "agentzoo doctor minedojo"'
            ) from error

    def step(self, action: np.int64) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Take an action.

        Raises:
            EpisodeError: if no episode is open.
        """
        if not self._open:
            raise EpisodeError("a step was taken outside an episode; call reset first")
        try:
            state = self._bridge.ask(self._timeouts[0], do="step", action=self._parts(int(action)))
            if state["crashed"]:
                raise _GoneError("Minecraft lost its connection")
        except WorkerError as error:
            return self._lost(error)
        self._steps += 1
        self._see(state)
        reward = self._reward(state)
        terminated = bool(state["dead"])
        is_over = self._is_success or bool(state["done"]) or self._steps >= self._limit
        self._open = not (terminated or is_over)
        return self._observation(), reward, terminated, is_over and not terminated, self._info()

    def _lost(self, error: WorkerError) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        self._open = False
        self._bridge.close()
        self._bridge = self._opened()
        return self._observation(), 0.0, False, True, {**self._info(), LOST: str(error)}

    def _reward(self, state: Mapping[str, Any]) -> float:
        """1 for the first target item, which is the success; an own id has its own reward."""
        if self._harvest is None:
            self._is_success = self._is_success or bool(state["done"] and not state["dead"])
            return float(state["reward"])
        self._is_success = state["inventory"].get(self._harvest.target, 0) > 0
        return float(self._is_success)

    def _parts(self, action: int) -> dict[str, Any]:
        """The keys of a choice: a jump is held for ten steps, the view stays within its limits."""
        name = list(ACTIONS)[action]
        parts = dict(ACTIONS[name])
        if name == "jump":
            self._jump = STICKY_JUMP
        if self._jump:
            self._jump -= 1
            parts |= ACTIONS["jump"]
        if "camera" in parts and abs(self.pitch + parts["camera"][0]) > PITCH_LIMIT:
            parts["camera"] = (0.0, parts["camera"][1])
        return parts

    def _see(self, state: Mapping[str, Any]) -> None:
        self.pitch = float(state["pitch"])
        frame = self._bridge.frame
        self._frame = frame if self._has_hud else without_hud(frame)

    def render(self) -> Array:
        """The frame now, (160, 256, 3) uint8."""
        return self._frame.copy()

    def close(self) -> None:
        """End the game; the object is of no use afterwards."""
        self._open = False
        if self._bridge.process.returncode is None:
            self._bridge.close(timeout=self._timeouts[0])

    def _observation(self) -> Arrays:
        return {"image": shrunk(self._frame, self.size)}

    def _info(self) -> dict[str, Any]:
        return {
            "is_success": self._is_success,
            "steps_to_success": self._steps if self._is_success else self._limit,
            "goal": self.goal,
            SIDE: {"frame": self._frame.copy()},
        }


def hud() -> Array:
    """Mask of the hand, the hotbar and the bars above it in a frame, (160, 256) bool.

    The hotbar is 182 pixels wide and centred, as the game draws it at its smallest scale; the hand
    is taken for a triangle at the lower right. Drawn from the extent that LS-Imagine's own mask
    has (rows from 81, columns from 35, a quarter of the frame); no frame could be had to check it.
    """
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    bars = (rows >= 118) & (np.abs(columns - WIDTH / 2 + 0.5) <= 93)
    hand = (rows - 81) / (HEIGHT - 81) + (columns - 165) / (WIDTH - 165) >= 1
    return bars | (hand & (rows >= 81) & (columns >= 165))


def without_hud(frame: Array) -> Array:
    """A frame whose HUD is painted over with what stands above it in the same column."""
    covered = hud()
    above = np.where(covered, 0, np.arange(HEIGHT)[:, None])
    source = np.maximum.accumulate(above, axis=0)  # the last row that is not covered
    return np.take_along_axis(frame, source[..., None], axis=0)
