"""A worker that speaks the bridge's protocol without Minecraft; its world is a counter.

A file named by STANDIN says what goes wrong, "WHAT COUNT": at that step of an episode the process
dies, hangs, or loses its connection, or the player dies, finds logs, or only looks far down. The
file is removed, so that it happens once.
"""

import importlib.util
import os
import sys
import time
from pathlib import Path


class World:
    """Its frames show the step in red, and how the episode began in green."""

    def __init__(self) -> None:
        self.count, self.hard, self.worlds, self.pitch, self.held = 0, 0, 0, 0.0, []

    def hello(self) -> dict:
        return {"protocol": 1, "python": "3", "minedojo": "standin", "gym": "", "numpy": ""}

    def make(self, task: dict, seed: int) -> dict:
        self.seed = seed
        return {"prompt": task.get("id", ""), "action": ""}

    def reset(self, hard: bool) -> tuple:
        self.strike(0)
        self.count, self.hard, self.pitch = 0, int(hard), 0.0
        return self.state()

    def step(self, action: dict) -> tuple:
        self.count += 1
        self.pitch += action.get("camera", [0, 0])[0]
        self.held.append(sorted(key for key in action if key != "camera"))
        return self.state(**self.strike(self.count))

    def strike(self, count: int) -> dict:
        file = Path(os.environ["STANDIN"])
        if not file.exists() or file.read_text().split()[1] != str(count):
            return {}
        what = file.read_text().split()[0]
        file.unlink()
        if what == "die":
            os._exit(7)
        if what == "hang":
            time.sleep(1000)
        if what == "raise":
            raise EOFError("Minecraft process finished unexpectedly.\nAnd much more.")
        return {what: True}

    def state(self, lost: bool = False, dead: bool = False, logs: bool = False) -> tuple:
        state = {
            "reward": 0.0, "done": dead or lost, "dead": dead, "crashed": lost,
            "inventory": {"log": 2} if logs else {"air": 36}, "pitch": self.pitch,
        }  # fmt: skip
        pressed = len(self.held[-1]) if self.held else 0
        return state, bytes([self.count, self.hard, pressed]) * (160 * 256)

    def close(self) -> dict:
        return {}


if __name__ == "__main__":
    # -I BRIDGE CONNECTION MEMORY, as the real interpreter is given them
    spec = importlib.util.spec_from_file_location("bridge", sys.argv[2])
    bridge = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bridge)
    bridge.serve(World(), *bridge.inherited(sys.argv[3:]))
