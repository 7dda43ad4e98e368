"""A process that plays one episode beside its dream, or lets a person act in a dream.

It stands apart from the server so that neither an environment nor a world model can keep a policy's
clients waiting: it runs at lower priority, and the server ends it when its time is up. It reads one
JSON object a line from standard input, the first of them its job; it writes messages to standard
output, each a length (four bytes, little-endian), a kind (`F` a frame, `T` JSON) and its content.
"""

import json
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO, cast

import gymnasium as gym
import numpy as np

from ...bundle.load import load_policy
from ...envs import for_evaluation, make_env, resolve
from ...errors import AgentZooError, ConfigError
from ...policy.planners import parse_plan
from ...policy.policy import Policy, PolicyState
from ...policy.spaces import env_action, model_action
from ...spec import ActionSpec, Array, Arrays
from ...world import Start, World, begun, has_world, load_world
from .frames import frame, numbers_of, picture_of, shown
from .job import Job

NICE = 10
FPS = 15.0  # decisions a second where an environment does not say
FASTEST = 30.0
LONGEST_PLAY = 10_000  # steps of a dream
MOST_STEPS = 100  # asked for one by one while an episode is paused


@dataclass
class Controls:
    """The requests of people, read between steps."""

    is_paused: bool = False
    steps: int = 0
    speed: float = 1.0
    again: bool = False
    is_over: bool = False
    action: list[float] = field(default_factory=list[float])


class Line:
    """The way to and from the server."""

    def __init__(self, lines: Iterator[bytes], out: BinaryIO) -> None:
        """Read commands in a thread of its own; they are taken between steps.

        However many come between two steps, what is kept of them is one wish of each kind.
        """
        self.controls, self._out = Controls(), out
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._latest: dict[str, Any] = {}
        self._steps, self._again = 0, False
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()

    def _read(self, lines: Iterator[bytes]) -> None:
        for line in lines:
            command: dict[str, Any] = json.loads(line)
            with self._lock:
                self._steps = min(self._steps + int(command.pop("step", False)), MOST_STEPS)
                self._again |= bool(command.pop("again", False))
                self._latest |= command
        self._ended.set()  # the server has gone or wants no more

    def take(self, timeout_s: float) -> None:
        """Wait this long, or until the server has gone; then take what has come."""
        c = self.controls
        c.is_over = self._ended.wait(timeout_s)
        with self._lock:
            latest, self._latest = self._latest, {}
            c.steps = min(c.steps + self._steps, MOST_STEPS)
            c.again |= self._again
            self._steps, self._again = 0, False
        c.is_paused = latest.get("pause", c.is_paused)
        c.speed = latest.get("speed", c.speed)
        c.action = latest.get("action", c.action)

    def send_frame(self, content: bytes) -> None:
        """A frame for everybody who looks on."""
        self._write(b"F", content)

    def say(self, kind: str, **facts: object) -> None:
        """A fact as JSON."""
        self._write(b"T", json.dumps({"kind": kind, **facts}).encode())

    def _write(self, kind: bytes, content: bytes) -> None:
        self._out.write(struct.pack("<I", len(content)) + kind + content)
        self._out.flush()


class Clock:
    """Keeps a pace, and stops where people pause."""

    def __init__(self, line: Line, fps: float) -> None:
        """Begin now."""
        self.line, self.fps = line, fps
        self._next = time.monotonic()

    def wait(self) -> bool:
        """Wait until the next step is due; False once it is all over."""
        controls = self.line.controls
        self._next = max(self._next + 1.0 / (self.fps * controls.speed), time.monotonic() - 0.1)
        self.line.take(max(self._next - time.monotonic(), 0.0))
        while controls.is_paused and not controls.steps and not controls.is_over:
            self.line.take(0.25)
            self._next = time.monotonic()
        controls.steps = max(controls.steps - 1, 0)
        return not controls.is_over


# -- an episode beside its dream -----------------------------------------------------------------


def policy_of(job: Job) -> Policy:
    """The policy that the server serves, its planner's settings included.

    Raises:
        AgentZooError: if it cannot be opened.
    """
    plan = parse_plan(job.plan) if job.plan else None
    return load_policy(job.folder, provider="cpu", deterministic=job.deterministic, plan=plan)


class Watching:
    """Episodes of one policy, one after the other, each beside what the model dreams of it."""

    def __init__(self, job: Job, line: Line, stack: ExitStack) -> None:
        """Open policy, world model and environment.

        Raises:
            AgentZooError: if one of them cannot be opened.
        """
        self.job, self.line = job, line
        self.policy = policy_of(job)
        self.spec = self.policy.spec
        self.world: World | None = load_world(job.folder) if has_world(job.folder) else None
        self.env = stack.enter_context(opened(self.policy))
        fps = float(self.env.metadata.get("render_fps", FPS))
        self.clock = Clock(line, job.fps or min(max(fps, 1.0), FASTEST))

    def run(self) -> None:
        """Play until told to end."""
        self.line.say("ready", dreams=self.world is not None)
        seed = self.job.seed
        while self._episode(seed):
            seed += 1

    def _episode(self, seed: int) -> bool:
        """Play one episode; False once it is all over."""
        policy = self.policy.session(seed)
        obs, _ = self.env.reset(seed=seed)
        state, first = policy.start(1), np.ones(1, bool)
        dream: PolicyState | None = None
        reward, total, judged = 0.0, 0.0, dict[str, Array]()
        step = 0
        while True:
            batch = {key: np.asarray(one)[None] for key, one in by_key(self.spec, obs).items()}
            actions, state = policy.predict(batch, state, first, policy.deterministic)
            first = np.zeros(1, bool)
            if self.line.controls.again:
                self.line.controls.again, dream = False, None
            self._show(seed, step, batch, state, dream, judged, reward, total)
            if not self.clock.wait():
                return False
            if dream is None and step >= self.job.context - 1:
                dream = state
            obs, gained, terminated, truncated, _ = self.env.step(actions[0])
            reward, step = float(gained), step + 1
            total += reward
            if dream is not None:
                dream, judged = self._dreamed(dream, actions)
            if terminated or truncated:
                self.line.say("episode", seed=seed, steps=step, total=total)
                return True

    def _dreamed(self, dream: PolicyState, actions: Array) -> tuple[PolicyState, Arrays]:
        """The dream's next step, by the actions that were really taken."""
        if self.world is None:
            return dream, {}
        return self.world.step(dream, model_action(self.spec.action, actions))

    def _show(
        self,
        seed: int,
        step: int,
        batch: Arrays,
        state: PolicyState,
        dream: PolicyState | None,
        judged: Arrays,
        reward: float,
        total: float,
    ) -> None:
        element = {key: one[0] for key, one in batch.items()}
        seen = picture_of(self.spec.obs, element)
        pictures = {"real": shown(self.env.render()) if seen is None else seen}  # pyright: ignore[reportArgumentType]
        vectors = {} if seen is not None else {"real": numbers_of(self.spec.obs, element)}
        facts: dict[str, object] = {"reward": reward if step else None}
        if self.world is not None:
            facts["value"] = value_of(self.world, state)
        if dream is not None and judged and self.world is not None:
            drawn = {key: one[0] for key, one in self.world.decode(dream).items()}
            picture = picture_of(self.spec.obs, drawn)
            if picture is None:
                vectors["dream"] = numbers_of(self.spec.obs, drawn)
                picture = posed(self.env, drawn)
            if picture is not None:
                pictures["dream"] = picture
            facts |= {f"dream_{name}": float(one[0]) for name, one in judged.items()}
        content = frame("watch", step, pictures, vectors=vectors, seed=seed, total=total, **facts)
        self.line.send_frame(content)


def posed(env: gym.Env[Any, Any], drawn: Mapping[str, Array]) -> Array | None:
    """A dreamed vector drawn by the environment's own renderer, where it is the whole state.

    Gymnasium's classic control keeps its state in an attribute of the observation's shape; others
    have no such way in, and their dreams are drawn as lines.
    """
    inner: Any = env.unwrapped
    kept = getattr(inner, "state", None)
    vectors = list(drawn.values())
    if kept is None or len(vectors) != 1 or np.shape(kept) != vectors[0].shape:
        return None
    try:
        inner.state = tuple(vectors[0].tolist()) if isinstance(kept, tuple) else vectors[0].copy()
        return shown(np.asarray(env.render()))
    finally:
        inner.state = kept


# -- a dream to act in ---------------------------------------------------------------------------


class Playing:
    """Two dreams from the same place: a person acts in one, the policy in the other."""

    def __init__(self, job: Job, line: Line, stack: ExitStack) -> None:
        """Open policy and world model, and find a place to begin.

        Raises:
            AgentZooError: if one of them cannot be opened.
        """
        self.job, self.line = job, line
        self.world = load_world(job.folder, deterministic=job.deterministic)
        self.spec = self.world.spec
        policy = policy_of(job)
        fps, start = _real_start(policy, job, stack)
        if start is None:
            starts = self.world.starts()
            start = starts[job.seed % len(starts)]
        self.start = start
        self.clock = Clock(line, job.fps or min(max(fps, 1.0), FASTEST))

    def run(self) -> None:
        """Dream until told to end."""
        self.line.say("ready", dreams=True)
        one = begun(self.world, self.start, self.job.seed, self.job.context)
        state = PolicyState.joined([one, one])  # the same noise for both
        over = np.zeros(2, bool)
        judged: Arrays = {}
        for step in range(LONGEST_PLAY):
            self._show(step, state, judged, over)
            if over.all():
                self.line.say("end", why="both dreams are over: the model holds the end for likely")
                return
            if not self.clock.wait():
                return
            units = self.world.proposal(state)
            units[0] = units_of(self.spec.action, self.line.controls.action)
            state, judged = self.world.step(state, units)
            if "continue" in judged:
                over |= judged["continue"] < 0.5

    def _show(self, step: int, state: PolicyState, judged: Arrays, over: Array) -> None:
        drawn = self.world.decode(state)
        pictures, vectors = dict[str, Array](), dict[str, list[float]]()
        numbers: dict[str, dict[str, object]] = {}
        for i, slot in enumerate(("person", "policy")):
            element = {key: one[i] for key, one in drawn.items()}
            picture = picture_of(self.spec.obs, element)
            if picture is None:
                vectors[slot] = numbers_of(self.spec.obs, element)
            else:
                pictures[slot] = picture
            numbers[slot] = {name: float(one[i]) for name, one in judged.items()}
            numbers[slot]["is_over"] = bool(over[i])
        self.line.send_frame(frame("play", step, pictures, vectors=vectors, numbers=numbers))


def _real_start(policy: Policy, job: Job, stack: ExitStack) -> tuple[float, Start | None]:
    """The first observations of a real episode; None where there is no environment here."""
    try:
        env = stack.enter_context(opened(policy, draws=False))
    except AgentZooError:
        return FPS, None  # then what the bundle recorded is where a dream begins
    session = policy.session(job.seed)
    obs, _ = env.reset(seed=job.seed)
    seen, moves = [by_key(policy.spec, obs)], list[Array]()
    while len(seen) < job.context:
        moves.append(session.act(obs))
        obs, _, terminated, truncated, _ = env.step(moves[-1])
        seen.append(by_key(policy.spec, obs))
        if terminated or truncated:
            break
    stacked = {key: np.stack([np.asarray(one[key]) for one in seen]) for key in seen[0]}
    actions = np.stack(moves) if moves else None
    return float(env.metadata.get("render_fps", FPS)), Start(obs=stacked, actions=actions)


def units_of(spec: ActionSpec, given: list[float]) -> Array:
    """A person's action in model units, whatever was sent: (A,) float32."""
    if len(given) != spec.size:
        return np.zeros(spec.size, np.float32) if spec.kind == "box" else _first(spec)
    units = np.clip(np.nan_to_num(np.asarray(given, np.float32)), -1.0, 1.0)
    # to the environment's action and back, so that it is one that the model could have seen
    return model_action(spec, env_action(spec, units)).reshape(spec.size)


def _first(spec: ActionSpec) -> Array:
    return np.concatenate([np.eye(n, dtype=np.float32)[0] for n in spec.nvec])


# -- both ----------------------------------------------------------------------------------------


def opened(policy: Policy, *, draws: bool = True) -> gym.Env[Any, Any]:
    """The environment a policy learned in; its name may have come with a download.

    Raises:
        ConfigError: if it cannot be named.
        AgentZooError: if it cannot be opened here.
    """
    spec = policy.spec
    if not spec.env:
        raise ConfigError("this policy learned on an environment object, which has no name")
    name = for_evaluation(resolve(spec.env, trusted=False))
    has_image = any(one.kind == "image" for one in spec.obs.values())
    return make_env(name, render_mode="rgb_array" if draws and not has_image else None)


def by_key(spec: Any, obs: object) -> dict[str, Array]:
    """An observation by key, a bare one under its own."""
    if isinstance(obs, Mapping):
        return dict(cast("Mapping[str, Array]", obs))
    return {next(iter(spec.obs)): np.asarray(obs)}


def value_of(world: World, state: PolicyState) -> float | None:
    """The critic's value of a state of one batch element; None where there is no critic."""
    return float(world.value(state)[0]) if "value" in world.judges else None


def read_lines(source: int) -> Iterator[bytes]:
    """Lines of a file descriptor, without the lock that would be held when the process ends."""
    rest = b""
    while chunk := os.read(source, 1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines


def read_job(line: bytes) -> Job:
    """The job in a worker's first line."""
    entries = json.loads(line)
    known = {one.name for one in fields(Job)}
    assert entries.keys() <= known, entries.keys()
    job = Job(**entries)
    assert Path(job.folder).is_dir(), job.folder
    return job


def main() -> None:
    """Do one job; ends when standard input does."""
    if hasattr(os, "nice"):
        os.nice(NICE)
    lines = read_lines(sys.stdin.fileno())
    job = read_job(next(lines))
    # what an environment prints must not get between the messages
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    line = Line(lines, out)
    with ExitStack() as stack:
        try:
            kind = Watching if job.view == "watch" else Playing
            kind(job, line, stack).run()
        except AgentZooError as error:
            line.say("end", why=str(error)[:500])
        except BrokenPipeError:
            pass  # the server has gone


if __name__ == "__main__":
    main()
