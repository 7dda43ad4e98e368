"""Environments in processes of their own, as one of Gymnasium's vector environments.

Gymnasium's AsyncVectorEnv steps environments that wait for their reset, loses which worker failed
and how, and waits for ever for one that hangs. Here a worker is a fresh interpreter (safe beside
threads, CUDA and OpenGL; the user's script is not run again), out of reach of the terminal's
Ctrl-C, and gone when the learner is gone.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import (
    CloudpickleWrapper,
    batch_space,
    concatenate,
    create_empty_array,
    iterate,
)

from ..errors import ConfigError, WorkerError
from ..spec import Array
from .backend import Outcome, Spaces
from .suite import Env

TIMEOUT_S = 300.0  # without an answer a worker counts as hung
CLOSE_S = 10.0  # in which a worker may close its environment
EXIT_S = 5.0  # between a worker's last word and its exit status
BOOT = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from agentzoo.runtime.envs.worker import serve
serve(int(sys.argv[2]))
"""
# one thread each: there is a process per environment, and the learner wants the cores
ONE_THREAD = dict.fromkeys(
    (
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
        "LP_NUM_THREADS",  # Mesa's software rendering
    ),
    "1",
)


class Worker:
    """One process, and the environment in it."""

    def __init__(self, index: int, make: bytes) -> None:
        """Start it; what it answers first is its environment's spaces and metadata."""
        self.index, self.doing = index, "made"
        self.connection, theirs = Pipe()
        command = [sys.executable, "-c", BOOT, json.dumps(sys.path), str(theirs.fileno())]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            env={**os.environ, **ONE_THREAD},
            start_new_session=True,  # the terminal's Ctrl-C is the learner's to handle
        )
        theirs.close()
        self._send(make)

    def ask(self, doing: str, *request: object) -> None:
        """Send a request; `doing` completes the sentence "it ... while it was being ..."."""
        self.doing = doing
        self._send(bytes(ForkingPickler.dumps(request)))

    def _send(self, message: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it died; `answer` tells
            self.connection.send_bytes(message)

    def answer(self) -> Any:
        """What the worker says; blocks.

        Raises:
            WorkerError: if its environment raised, or it is no more.
        """
        try:
            kind, *content = self.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise WorkerError(f"{self} {self._end()} while it was being {self.doing}") from error
        if kind == "done":
            return content[0]
        sentence, trace = content
        raised = WorkerError(f"{self} raised while it was being {self.doing}: {sentence}")
        raised.add_note(f"In the worker's process:\n{trace}")
        raise raised

    def _end(self) -> str:
        try:
            code = self.process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit status {code}"

    def close(self, deadline: float) -> None:
        """Wait for its end until `deadline` (time.monotonic), then kill it and its children."""
        try:
            self.process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.connection.close()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def __str__(self) -> str:
        return f"environment {self.index} (process {self.process.pid})"


class ProcessVectorEnv(gym.vector.VectorEnv[Any, Any, Any]):
    """One process an environment; AutoresetMode.DISABLED with masked, seeded resets.

    `send` and `receive` step some environments while others are reset, and let the caller work in
    between. `reset` and `step` are Gymnasium's; `step` leaves environments that wait for their
    reset as they are. Infos stay in the workers. Any error ends all workers.

    Args:
        make: makes one environment; it is sent to the workers.
        count: how many.
        timeout: seconds without an answer after which a worker counts as hung.

    Raises:
        ConfigError: if `make` cannot be sent to another process.
        WorkerError: if an environment cannot be made there.
    """

    sync_reset = False
    single_observation_space: gym.Space[Any]
    single_action_space: gym.Space[Any]
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]

    def __init__(self, make: Callable[[], Env], count: int, *, timeout: float = TIMEOUT_S) -> None:
        self.num_envs, self.timeout = count, timeout
        self._asked: list[int] = list(range(count))
        self._workers: list[Worker] = []
        message = _packed(make)
        try:
            for index in range(count):
                self._workers.append(Worker(index, message))
        except BaseException:
            self.close(kill=True)
            raise
        made = self._answers()
        self.spaces: Sequence[Spaces] = [made[i][:2] for i in range(count)]
        self.single_observation_space, self.single_action_space = self.spaces[0]
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)
        self.metadata = {**made[0][2], "autoreset_mode": gym.vector.AutoresetMode.DISABLED}
        self._newest: list[Any] = [None] * count  # observations
        self._waiting = np.ones(count, np.bool_)  # for a reset

    def __len__(self) -> int:
        return self.num_envs

    def send(
        self,
        actions: Mapping[int, Array],
        seeds: Mapping[int, int | None],
        options: dict[str, Any] | None = None,
    ) -> None:
        """Step some environments and reset others; `receive` fetches what comes of it."""
        assert not self._asked, f"environments {self._asked} have not been fetched yet"
        self._asked = [*actions, *seeds]
        for index, action in actions.items():
            self._workers[index].ask("stepped", "step", action)
        for index, seed in seeds.items():
            self._workers[index].ask("reset", "reset", seed, options)

    def receive(self) -> dict[int, Outcome]:
        """What came of the last `send`, by index.

        Raises:
            WorkerError: naming the environments whose process raised, died or hangs.
        """
        found: dict[int, Outcome] = {}
        for index, answer in self._answers().items():
            stepped = self._workers[index].doing == "stepped"
            found[index] = Outcome(*answer) if stepped else Outcome(answer)
            self._newest[index] = found[index].observation
            self._waiting[index] = found[index].terminated or found[index].truncated
        return found

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes, all or those of the boolean array `options["reset_mask"]`."""
        rest = dict(options or {})
        mask = rest.pop("reset_mask", np.ones(self.num_envs, np.bool_))
        if seed is None or isinstance(seed, int):
            seed = [None if seed is None else seed + i for i in range(self.num_envs)]
        seeds = dict(enumerate(seed))
        self.send({}, {i: seeds[i] for i in seeds if mask[i]}, rest or None)
        self.receive()
        return self._batch(), {}

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Step all environments but those that wait for their reset."""
        chosen = enumerate(iterate(self.action_space, actions))
        self.send({i: action for i, action in chosen if not self._waiting[i]}, {})
        found = self.receive()
        rows = [found.get(i, Outcome(self._newest[i])) for i in range(self.num_envs)]
        rewards = np.array([float(np.asarray(row.reward).item()) for row in rows])
        terminations = np.array([row.terminated for row in rows], np.bool_)
        truncations = np.array([row.truncated for row in rows], np.bool_)
        return self._batch(), rewards, terminations, truncations, {}

    def render(self, index: int | None = None) -> Any:
        """The picture of one environment, or a tuple of all."""
        assert not self._asked, f"environments {self._asked} have not been fetched yet"
        self._asked = list(range(self.num_envs)) if index is None else [index]
        for one in self._asked:
            self._workers[one].ask("drawn", "render")
        drawn = self._answers()
        return drawn[index] if index is not None else tuple(drawn[i] for i in sorted(drawn))

    def close_extras(self, *, kill: bool = False, **kwargs: Any) -> None:
        """End the workers: at once, or after they closed their environments."""
        deadline = time.monotonic() + (0.0 if kill or self._asked else CLOSE_S)
        for worker in self._workers:
            worker.ask("closed", "close")
        for worker in self._workers:
            worker.close(deadline)
        self._workers = []

    def _answers(self) -> dict[int, Any]:
        """One answer of each environment that was asked."""
        waiting = {self._workers[i].connection: self._workers[i] for i in self._asked}
        deadline = time.monotonic() + self.timeout
        answers: dict[int, Any] = {}
        try:
            while waiting:
                ready = wait(list(waiting), max(deadline - time.monotonic(), 0))
                if not ready:
                    raise self._hung(waiting.values())
                for connection in ready:
                    worker = waiting.pop(connection)  # type: ignore[arg-type]
                    answers[worker.index] = worker.answer()
        except BaseException:  # a second Ctrl-C, too
            self.close(kill=True)
            raise
        self._asked = []
        return answers

    def _hung(self, workers: Collection[Worker]) -> WorkerError:
        names = " and ".join(f"{worker} while it was being {worker.doing}" for worker in workers)
        return WorkerError(
            f"{names}: no answer for {self.timeout:g} s; if it may take longer, set worker_timeout "
            "higher"
        )

    def _batch(self) -> Any:
        space = self.single_observation_space
        return concatenate(space, self._newest, create_empty_array(space, self.num_envs))


def _packed(make: Callable[[], Env]) -> bytes:
    try:
        return bytes(ForkingPickler.dumps(CloudpickleWrapper(make)))
    except Exception as error:  # whatever the objects it holds raise when they are copied
        raise ConfigError(
            f"the function that makes environments cannot be sent to another process ({error}); "
            "make what it holds inside it, or set parallel=False"
        ) from error
