"""The DeepMind Control Suite: `dmc:walker-walk,obs=pixels,repeat=2`.

Source: Tunyasuvunakool et al. 2020 (arXiv:2006.12983); 64x64 pixels of camera 0, quadruped 2, as in
danijar/dreamerv2 common/envs.py:DMC.
"""

import math
import sys
from collections import deque
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np

from ..errors import EnvironmentStringError, EpisodeError, MissingExtraError, ProviderError, nearest
from ..spec import Array, Arrays
from .opengl import choose_backend
from .suite import REPEAT, Env, Key, Settings, Suite

RENDER_SIZE = 256  # pixels a side of `render()`; a multiple of 16, as video encoders like it
INSTALL_OPENGL = (
    'on Debian or Ubuntu run "apt-get install libegl1 libgl1-mesa-dri" (EGL) or "apt-get install '
    'libosmesa6" (OSMesa)'
)
TASKS = {  # as of dm_control 1.0.50; listed so that strings are read without it
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": (
        *("balance", "balance_sparse", "swingup", "swingup_sparse"),
        *("two_poles", "three_poles"),
    ),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run", "run_pure_state"),
    "humanoid_CMU": ("stand", "walk", "run"),
    "lqr": ("lqr_2_1", "lqr_6_2"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}


# -- the suite's strings -------------------------------------------------------------------------


def _spellings() -> dict[str, str]:
    names = {f"{domain}-{task}": (domain, task) for domain in TASKS for task in TASKS[domain]}
    # The papers' code splits at the first underscore and calls ball_in_cup a cup.
    underscored = {f"{domain}_{task}": name for name, (domain, task) in names.items()}
    cup = dict.fromkeys(("cup-catch", "cup_catch"), "ball_in_cup-catch")
    return {name: name for name in names} | underscored | cup


SPELLINGS = _spellings()


def canonical(task: str) -> str:
    """A task as `domain-task`.

    Raises:
        EnvironmentStringError: if the suite has no such task.
    """
    if task in SPELLINGS:
        return SPELLINGS[task]
    raise EnvironmentStringError(
        f'"dmc:{task}" is not a task of the DeepMind Control Suite; '
        f"{nearest(task, set(SPELLINGS.values()), 'tasks')}"
    )


def default_camera(task: str) -> int:
    """Camera 2 for the quadruped, which walks out of camera 0's picture; else 0."""
    return 2 if task.startswith("quadruped-") else 0


def _has_pixels(settings: Settings) -> bool:
    return settings["obs"] != "state"


def make(task: str, settings: Settings, render_mode: str | None) -> Env:
    """Make it; `render_mode` is not looked at, since every task can draw."""
    return DMC(
        task,
        obs=str(settings["obs"]),
        repeat=int(settings["repeat"]),
        fast=settings.get("render") == "fast",
        camera=int(settings.get("camera", default_camera(task))),
        size=int(settings.get("size", RENDER_SIZE)),
        frames=int(settings.get("frames", 1)),
    )


def dimensions(task: str) -> dict[str, tuple[str, ...]]:
    """Names of the numbers in `state`, as the task calls its observations: `velocity[2]`."""
    domain, name = task.split("-", 1)
    specs = _module("suite").load(domain, name, task_kwargs={"random": 0}).observation_spec()
    sizes = {part: int(np.prod(tuple(spec.shape))) for part, spec in specs.items()}
    return {
        "state": tuple(
            f"{part}[{i}]" if size > 1 else part
            for part, size in sizes.items()
            for i in range(size)
        )
    }


SUITE = Suite(
    name="dmc",
    keys=(
        Key(name="obs", default="pixels", allowed=("pixels", "state", "both")),
        Key(name="repeat", kind=int, default=1, least=1, most=REPEAT),
        Key(name="render", default="default", allowed=("default", "fast"), applies=_has_pixels),
        Key(name="camera", kind=int, default=default_camera, least=0, applies=_has_pixels),
        Key(name="size", kind=int, default=64, least=1, most=2048, applies=_has_pixels),
        Key(name="frames", kind=int, default=None, least=1, most=9, applies=_has_pixels),
    ),
    canonical=canonical,
    make=make,
    dimensions=dimensions,
)


# -- the environment -----------------------------------------------------------------------------


class DMC(gym.Env[dict[str, Any], Array]):
    """One task of the suite.

    Observations are a dict of `image` (size, size, 3) uint8, drawn once per decision, and `state`,
    one float32 vector of everything the task observes, in its order. With several frames, `image_1`
    is the picture of one decision ago, and so on; at an episode's start all are the first. A time
    limit is a truncation; termination is the task's own (discount 0).

    Attributes:
        dm_env: dm_control's environment, with its `physics` and `task`.
        size: pixels a side of the observed image.
        render_size: pixels a side of `render()`.
    """

    render_mode = "rgb_array"

    def __init__(
        self,
        task: str,
        *,
        obs: str = "pixels",
        repeat: int = 1,
        fast: bool = False,
        camera: int = 0,
        size: int = 64,
        render_size: int = RENDER_SIZE,
        frames: int = 1,
    ) -> None:
        """Load a task.

        Args:
            task: `domain-task`, see `canonical`.
            obs: `pixels`, `state` or `both`.
            repeat: environment steps in one `step`, rewards added up.
            fast: draw without shadows, reflections and multisampling.
            camera: number of one of the task's cameras.
            size: pixels a side of the observed image.
            render_size: pixels a side of `render()`.
            frames: pictures in an observation, of this decision and of those before.

        Raises:
            MissingExtraError: if dm_control is not installed.
            ProviderError: if pixels are asked for and nothing here can draw them.
            EnvironmentStringError: if the task has no such camera.
        """
        domain, name = task.split("-", 1)
        # A fixed seed, since lqr draws its very model; episodes are reseeded below.
        self.dm_env: Any = _module("suite").load(domain, name, task_kwargs={"random": 0})
        self.dm_env.task._random = np.random.RandomState()
        self._image, self._state = obs != "state", obs != "pixels"
        self._repeat, self._open = repeat, False
        self._frames: deque[Array] = deque(maxlen=frames)  # the newest one first
        self.size, self.render_size = size, render_size
        limit = float(self.dm_env._step_limit)  # dm_control's, in control steps
        self.max_episode_steps = math.ceil(limit) if math.isfinite(limit) else None
        self._painter = _Painter(self.dm_env.physics, task, camera, fast, size)
        if self._image:
            self._painter.start()
        self.observation_space = self._observation_space()
        self.action_space = self._action_space()
        fps = round(1 / (self.dm_env.control_timestep() * repeat))
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": max(fps, 1)}

    def _observation_space(self) -> gym.spaces.Dict:
        parts: dict[str, gym.Space[Any]] = {}
        if self._image:
            picture = gym.spaces.Box(0, 255, (self.size, self.size, 3), np.uint8)
            parts |= {_frame_key(age): picture for age in range(self._frames.maxlen or 1)}
        if self._state:
            specs = self.dm_env.observation_spec().values()
            length = sum(int(np.prod(tuple(spec.shape))) for spec in specs)
            parts["state"] = gym.spaces.Box(-np.inf, np.inf, (length,), np.float32)
        return gym.spaces.Dict(parts)

    def _action_space(self) -> gym.spaces.Box:
        spec = self.dm_env.action_spec()
        low, high = (np.broadcast_to(b, spec.shape) for b in (spec.minimum, spec.maximum))
        return gym.spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Start an episode; the same seed gives the same one, in every object of this task."""
        super().reset(seed=seed)
        if seed is not None:  # dm_control takes a seed at load only
            self.dm_env.task._random = np.random.RandomState(seed)
        self._open = True
        self._frames.clear()
        return self._observe(self.dm_env.reset()), {}

    def step(self, action: Array) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Take an action `repeat` times, or until the episode ends.

        Raises:
            EpisodeError: if no episode is open.
        """
        if not self._open:
            raise EpisodeError("a step was taken outside an episode; call reset first")
        reward, time_step = 0.0, None
        for _ in range(self._repeat):
            time_step = self.dm_env.step(action)
            reward += float(time_step.reward)
            if time_step.last():
                break
        assert time_step is not None, self._repeat
        self._open = not time_step.last()
        terminated = time_step.last() and time_step.discount == 0.0
        truncated = time_step.last() and not terminated
        return self._observe(time_step), reward, terminated, truncated, {}

    def _observe(self, time_step: Any) -> Arrays:
        observation: Arrays = {}
        if self._image:
            self._frames.appendleft(self._painter.paint(self.size))
            while len(self._frames) < (self._frames.maxlen or 1):
                self._frames.append(self._frames[0])
            observation |= {_frame_key(age): frame for age, frame in enumerate(self._frames)}
        if self._state:
            parts = [np.ravel(part) for part in time_step.observation.values()]
            observation["state"] = np.concatenate(parts).astype(np.float32)
        return observation

    def render(self) -> Array:
        """The scene now, (render_size, render_size, 3) uint8, whatever is observed.

        Raises:
            ProviderError: if nothing here can draw.
        """
        return self._painter.paint(self.render_size)

    def close(self) -> None:
        """Free the simulation and what draws it; the object is of no use afterwards."""
        self._painter.close()
        self.dm_env.physics.free()
        self._open = False


def _frame_key(age: int) -> str:
    """The observation's key of a picture so many decisions ago."""
    return f"image_{age}" if age else "image"


class _Painter:
    """One camera's pictures of a simulation, in any size.

    Cameras are kept: making one a frame, as `physics.render` does, costs more than a small frame.
    """

    def __init__(self, physics: Any, task: str, camera: int, fast: bool, size: int) -> None:
        if not 0 <= camera < physics.model.ncam:
            raise EnvironmentStringError(
                f'"dmc:{task}" has no camera {camera}, expected 0 to {physics.model.ncam - 1}; '
                "set camera to one of these"
            )
        self._physics, self._task, self._camera, self._fast = physics, task, camera, fast
        self._cameras: dict[int, Any] = {}
        # quadruped-escape makes a drawing context at each reset, even where nobody draws.
        physics._make_rendering_contexts = lambda: None
        if fast:
            quality, buffer = physics.model.vis.quality, physics.model.vis.global_
            quality.shadowsize = quality.offsamples = 0
            buffer.offwidth = buffer.offheight = size

    def start(self) -> None:
        """Allow drawing from now on, or say what is missing."""
        if _module("_render").BACKEND in (None, "off"):
            raise ProviderError(
                f'"dmc:{self._task}" was asked for a picture, but neither EGL nor OSMesa works '
                f"here; {INSTALL_OPENGL}, or learn from obs=state"
            )
        self._physics.__dict__.pop("_make_rendering_contexts", None)

    def paint(self, size: int) -> Array:
        """The scene now, (size, size, 3) uint8, an array of its own."""
        if size not in self._cameras:
            self.start()
            self._fit_buffer(size)
            self._cameras[size] = self._new_camera(size)
        return np.ascontiguousarray(self._cameras[size].render())

    def _new_camera(self, size: int) -> Any:
        camera = _module("mujoco").Camera(self._physics, size, size, camera_id=self._camera)
        if self._fast:
            flag = _module("mujoco.wrapper.mjbindings.enums").mjtRndFlag
            camera.scene.flags[[flag.mjRND_SHADOW, flag.mjRND_REFLECTION]] = 0
        return camera

    def _fit_buffer(self, size: int) -> None:
        buffer = self._physics.model.vis.global_
        if size <= min(buffer.offwidth, buffer.offheight):
            return
        buffer.offwidth = max(buffer.offwidth, size)
        buffer.offheight = max(buffer.offheight, size)
        self.close()  # whatever was made for the smaller buffer

    def close(self) -> None:
        """Free cameras and contexts; the next picture makes new ones."""
        self._cameras.clear()
        if self._physics._contexts:
            self._physics._free_rendering_contexts()


def _module(name: str) -> Any:
    """A module of dm_control, imported so that it finds an OpenGL that works."""
    if "dm_control._render" not in sys.modules:  # which reads MUJOCO_GL, once
        choose_backend()
    try:
        return import_module(f"dm_control.{name}")
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "dm_control", "dmc") from error
    except (ImportError, AttributeError) as error:  # PyOpenGL without its library has None there
        raise ProviderError(
            f"dm_control could not start the OpenGL it was told to use ({error}); unset MUJOCO_GL "
            f"to let it be chosen, or install it: {INSTALL_OPENGL}"
        ) from error
