"""The program of the process that holds MineDojo, in an environment of its own.

It imports nothing of agentzoo: MineDojo 0.1 needs gym 0.21 and numpy 1, so another interpreter runs
this file, with -I. One request and one answer at a time, a line of JSON each, on an inherited
socket; frames lie in inherited memory, so that standard output stays Java's. Python 3.9 suffices.

    {"do": "hello"}                                -> versions
    {"do": "make", "task": {...}, "seed": 0}       -> {"prompt": "...", "spaces": "..."}
    {"do": "reset", "hard": true}                  -> state
    {"do": "step", "action": {"forward": 1, ...}}  -> state
    {"do": "close"}                                -> {}

A state is {"reward", "done", "dead", "crashed", "inventory": {name: count}, "pitch"}. An answer may
be {"error": "sentence"} instead.
"""

from __future__ import annotations

import copy
import difflib
import fcntl
import importlib
import importlib.util
import io
import json
import mmap
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import traceback
from typing import Any

HEIGHT, WIDTH = 160, 256
FRAME_BYTES = HEIGHT * WIDTH * 3
PROTOCOL = 1
LIFELINE = 0  # standard input: a pipe that the learner holds open and never writes to
RANGE = 200  # blocks, within which a fast reset puts the player
TURN_BINS = 12  # of the own ids' camera: the bin that turns by nothing; a bin is 15 degrees


class SetupError(Exception):
    """A part is missing that no further try brings."""


def serve(world: Any, connection: socket.socket, memory: mmap.mmap) -> None:
    """Answer requests about a world until the connection closes."""
    lines = connection.makefile("rwb")
    for line in lines:
        request = json.loads(line)
        try:
            answer = answered(world, request, memory)
        except Exception as error:
            if not isinstance(error, SetupError):
                traceback.print_exc()
            answer = {"error": sentence(error), "setup": isinstance(error, SetupError)}
        lines.write(json.dumps(answer).encode() + b"\n")
        lines.flush()
        if request["do"] == "close":
            return


def answered(world: Any, request: dict[str, Any], memory: mmap.mmap) -> dict[str, Any]:
    """The answer to one request; a frame goes into the memory."""
    if request["do"] in ("reset", "step"):
        argument = request["hard"] if request["do"] == "reset" else request["action"]
        state, frame = getattr(world, request["do"])(argument)
        memory.seek(0)
        memory.write(frame)  # (160, 256, 3) uint8
        return state
    if request["do"] == "make":
        return world.make(request["task"], request["seed"])
    return getattr(world, request["do"])()


def sentence(error: Exception) -> str:
    """An exception in one line; Malmo's are pages long."""
    if isinstance(error, SetupError):
        return str(error)
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:300]}"


class MineDojoWorld:
    """The real package."""

    def __init__(self) -> None:
        self.env: Any = None
        self.last: Any = None  # observation
        self.held = ""
        self.is_own = False  # whether the task is one of MineDojo's ids, with its action arrays

    def hello(self) -> dict[str, Any]:
        """The packages installed here."""
        metadata = importlib.import_module("importlib.metadata")
        importlib.import_module("minedojo")
        found = {name: metadata.version(name) for name in ("minedojo", "gym", "numpy")}
        return {"protocol": PROTOCOL, "python": sys.version.split()[0], **found}

    def make(self, task: dict[str, Any], seed: int) -> dict[str, Any]:
        """Make a task: one of MineDojo's ids, or the harvest task with the settings given."""
        tasks: Any = importlib.import_module("minedojo.tasks")
        self.is_own, self.held = "id" in task, task.get("held", "")
        if self.is_own:
            name = task["id"]
            if name not in tasks.ALL_TASKS_SPECS:
                near = difflib.get_close_matches(name, tasks.ALL_TASKS_SPECS, 3)
                mean = " or ".join(f'"{one}"' for one in near)
                known = f"it has {len(tasks.ALL_TASKS_SPECS)}"
                raise SetupError(
                    f'MineDojo has no task "{name}"; '
                    + (f"did you mean {mean}?" if near else known)
                )
            # the release takes entries out of its own table, so that a second one would fail
            kept = copy.deepcopy(tasks.ALL_TASKS_SPECS[name])
            package: Any = importlib.import_module("minedojo")
            self.env = package.make(name, image_size=(HEIGHT, WIDTH), world_seed=seed)
            tasks.ALL_TASKS_SPECS[name] = kept
        else:
            self.env = tasks._meta_task_make(
                "harvest", image_size=(HEIGHT, WIDTH), world_seed=seed, fast_reset=False,
                event_level_control=False, use_voxel=False, use_lidar=False,
                **harvest_settings(task),
            )  # fmt: skip
        prompt = getattr(self.env, "task_prompt", "") or ""
        return {"prompt": str(prompt), "action": str(self.env.action_space)}

    def reset(self, hard: bool) -> tuple[dict[str, Any], bytes]:
        """Start an episode: a new world, or the same one from another place."""
        require_java()
        if hard or self.last is None:
            try:
                self.last = self.env.reset()
            except EOFError as error:
                raise SetupError(
                    "Minecraft did not start. The first start builds it with Java 8, gradle 4.10.2 "
                    "and ForgeGradle, and downloads Mojang's client and assets; see what it said "
                    "above, or build it once by hand"
                ) from error
        else:
            for command in self.commands():
                self.last = self.env.unwrapped.execute_cmd(command)[0]
        return self.state(0.0, False, crashed=False)

    def commands(self) -> list[str]:
        """The commands that put the player elsewhere in the same world, unharmed."""
        commands = ["/kill", f"/spreadplayers ~ ~ 0 {RANGE} false @p"]
        commands += ["/time set 0", "/weather clear"]
        if self.held:
            commands.append(f"/replaceitem entity @p slot.weapon.mainhand minecraft:{self.held}")
        return [*commands, "/kill @e[type=item]"]

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Take an action; MineDojo swallows a lost connection and gives the frame before it."""
        numpy: Any = importlib.import_module("numpy")
        before = self.last["rgb"]
        self.last, reward, done, _ = self.env.step(self.filled(action))
        is_same = numpy.array_equal(before, self.last["rgb"])
        crashed = bool(done) and is_same and not reward and self.life() > 0
        return self.state(reward, done, crashed)

    def filled(self, action: dict[str, Any]) -> Any:
        """A whole action of the task's own kind with our parts of it."""
        whole = self.env.action_space.no_op()
        if not self.is_own:
            whole.update(action)
            return whole
        pitch, yaw = action.get("camera", (0.0, 0.0))
        whole[0] = 1 if action.get("forward") else 2 if action.get("back") else 0
        whole[1] = 1 if action.get("left") else 2 if action.get("right") else 0
        whole[2] = 1 if action.get("jump") else 0
        whole[3] = TURN_BINS + (pitch > 0) - (pitch < 0)
        whole[4] = TURN_BINS + (yaw > 0) - (yaw < 0)
        whole[5] = 1 if action.get("use") else 3 if action.get("attack") else 0
        return whole

    def state(self, reward: float, done: bool, crashed: bool) -> tuple[dict[str, Any], bytes]:
        """The newest observation as what an answer holds, and its frame."""
        numpy: Any = importlib.import_module("numpy")
        seen, counts = self.last, dict[str, int]()
        names, amounts = seen["inventory"]["name"], seen["inventory"]["quantity"]
        for name, amount in zip(numpy.ravel(names), numpy.ravel(amounts)):  # noqa: B905
            key = str(name).replace(" ", "_")
            counts[key] = counts.get(key, 0) + int(amount)
        pitch = float(numpy.ravel(seen["location_stats"]["pitch"])[0])
        frame = numpy.ascontiguousarray(numpy.transpose(seen["rgb"], (1, 2, 0)))
        state = {
            "reward": float(reward),
            "done": bool(done),
            "dead": self.life() <= 0,
            "crashed": crashed,
            "inventory": counts,
            "pitch": pitch,
        }
        return state, frame.astype(numpy.uint8).tobytes()

    def life(self) -> float:
        """Health of the player; 0 is death."""
        numpy: Any = importlib.import_module("numpy")
        return float(numpy.ravel(self.last["life_stats"]["life"])[0])

    def close(self) -> dict[str, Any]:
        """End the game."""
        if self.env is not None:
            self.env.close()
        return {}


def harvest_settings(task: dict[str, Any]) -> dict[str, Any]:
    """The settings of the harvest task with what is held as MineDojo's own objects."""
    sim: Any = importlib.import_module("minedojo.sim")
    settings = dict(task["harvest"])
    if "held" in task:
        item = sim.InventoryItem(slot="mainhand", name=task["held"], variant=None, quantity=1)
        settings["initial_inventory"] = [item]
    return settings


# -- what the machine has ------------------------------------------------------------------------


def java_version() -> str:
    """The version that `java -version` says, "" without Java."""
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if not java or not os.path.exists(java):
        return ""
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "([^"]+)"', said.stderr + said.stdout)
    return found.group(1) if found else "unknown"


def require_java() -> None:
    """Refuse to start Minecraft 1.11.2 with anything but Java 8."""
    found = java_version()
    if not found:
        raise SetupError(
            "there is no Java: MineDojo's Minecraft 1.11.2 needs JDK 8; install one and set "
            "JAVA_HOME to it"
        )
    if not found.startswith("1.8."):
        raise SetupError(
            f"Java is {found}, and MineDojo's Minecraft 1.11.2 needs JDK 8; set JAVA_HOME to one"
        )


def malmo_jar() -> str:
    """The built Minecraft mod, "" if it has not been built."""
    spec = importlib.util.find_spec("minedojo")
    if spec is None or not spec.submodule_search_locations:
        return ""
    root = os.path.join(next(iter(spec.submodule_search_locations)), "sim", "Malmo")
    for folder, _, files in os.walk(root):
        for name in files:
            if name.startswith("MalmoMod") and name.endswith("-fat.jar"):
                return os.path.join(folder, name)
    return ""


def check() -> dict[str, Any]:
    """The facts for `agentzoo doctor minedojo`: versions, Java, the built mod, a screen."""
    try:
        found = MineDojoWorld().hello()
    except ImportError as error:
        found = {"python": sys.version.split()[0], "missing": str(error)}
    found.update(java=java_version(), mod=malmo_jar(), xvfb=shutil.which("xvfb-run") or "")
    return found


# -- the process ---------------------------------------------------------------------------------


def die_with_the_learner() -> None:
    """Have the kernel kill this process and its children once the learner is gone. Linux only."""
    if sys.platform == "linux":
        fcntl.fcntl(LIFELINE, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(LIFELINE, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(LIFELINE, fcntl.F_GETFL)
        fcntl.fcntl(LIFELINE, fcntl.F_SETFL, flags | os.O_ASYNC)


def inherited(arguments: list[str]) -> tuple[socket.socket, mmap.mmap]:
    """The connection and the memory that were handed over as file descriptors."""
    die_with_the_learner()
    descriptors = [int(one) for one in arguments]
    for one in descriptors:
        os.set_inheritable(one, False)  # Java must not hold them open
    return socket.socket(fileno=descriptors[0]), mmap.mmap(descriptors[1], FRAME_BYTES)


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        said, sys.stdout = sys.stdout, io.StringIO()  # MineDojo prints when it is imported
        report = check()
        said.write(json.dumps(report) + "\n")
    else:
        serve(MineDojoWorld(), *inherited(sys.argv[1:]))
