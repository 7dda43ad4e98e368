"""Environments in processes of their own, as one of Gymnasium's vector environments.

Gymnasium's AsyncVectorEnv steps environments that wait for their reset, loses which worker failed
and how, and waits for ever for one that hangs. Here a worker is a fresh interpreter (safe beside
threads, CUDA and OpenGL; the user's script is not run again), out of reach of the terminal's
Ctrl-C, and gone when the learner is gone.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
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

from ..errors import ConfigError, EpisodeError, ObservationError, WorkerError
from ..spec import Array
from .backend import LOST, NOTHING, Spaces, StepResult
from .suite import Env
from .time_limit import shared_limit
from .worker_process import end, start

TIMEOUT_S = 300.0  # without an answer a worker counts as hung
CLOSE_S = 10.0  # in which a worker may close its environment
EXIT_S = 5.0  # between a worker's last word and its exit status
DEATHS = 3  # of one environment's workers in a row, after which it is not started again
# one thread each: there is a process per environment, and the learner wants the cores
ONE_THREAD = dict.fromkeys(
    (
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
        "LP_NUM_THREADS",  # Mesa's software rendering
    ),
    "1",
)


class _GoneError(WorkerError):
    """A worker died or hangs; one that raised is another matter."""


class Worker:
    """One process, and the environment in it."""

    def __init__(self, index: int, make: bytes, *, infos: bool = False) -> None:
        """Start it; what it answers first is what its environment is like."""
        self.index, self.doing = index, "made"
        self.request: tuple[object, ...] = ()
        kept = "infos" if infos else "transitions"
        self.process, self.connection = start(kept, {**os.environ, **ONE_THREAD})
        self._send(make)

    def ask(self, doing: str, *request: object) -> None:
        """Send a request; `doing` completes the sentence "it ... while it was being ..."."""
        self.doing, self.request = doing, request
        self._send(bytes(ForkingPickler.dumps(request)))

    def _send(self, message: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it died; `answer` tells
            self.connection.send_bytes(message)

    def answer(self) -> Any:
        """The worker's answer; blocks.

        Raises:
            WorkerError: if its environment raised, or it is no more.
        """
        try:
            kind, *content = self.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise _GoneError(f"{self} {self._end()} while it was being {self.doing}") from error
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
        """Wait for its end until `deadline` (time.monotonic), then kill what is left of its group.

        A worker that died may have left children, such as a game's engine, in its group.
        """
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(max(deadline - time.monotonic(), 0))
        end(self.process)
        self.connection.close()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def __str__(self) -> str:
        return f"environment {self.index} (process {self.process.pid})"


class ProcessVectorEnv(gym.vector.VectorEnv[Any, Any, Any]):
    """One process an environment; AutoresetMode.DISABLED with masked, seeded resets.

    `send` and `receive` step some environments while others are reset, and let the caller work in
    between. `reset` and `step` are Gymnasium's; `step` leaves environments that wait for their
    reset as they are. Infos stay in the workers but for `side` and `world_lost`. Any error ends all
    workers.

    With `restarts`, a worker that dies or hangs is no error until it does so three times in a row:
    another is started in its place. The step that was lost gives the observation before it,
    truncated, with the reason as `info["world_lost"]`; a reset is done again, with the same seed.

    Args:
        make: makes one environment; it is sent to the workers.
        count: how many.
        timeout: seconds without an answer after which a worker counts as hung.
        restarts: whether a worker that dies is replaced.
        infos: whether whole infos are sent.

    Raises:
        ConfigError: if `make` cannot be sent to another process.
        WorkerError: if an environment cannot be made there.
    """

    sync_reset = False
    single_observation_space: gym.Space[Any]
    single_action_space: gym.Space[Any]
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]

    def __init__(
        self,
        make: Callable[[], Env],
        count: int,
        *,
        timeout: float = TIMEOUT_S,
        restarts: bool = False,
        infos: bool = False,
    ) -> None:
        self.num_envs, self.timeout, self._restarts = count, timeout, restarts
        self._asked: list[int] = list(range(count))
        self._workers: list[Worker] = []
        self._start = partial(Worker, make=_packed(make), infos=infos)
        self._deaths = [0] * count  # in a row
        try:
            for index in range(count):
                self._workers.append(self._start(index))
        except BaseException:
            self.close(kill=True)
            raise
        made = self._answers()
        self.spaces: Sequence[Spaces] = [made[i][:2] for i in range(count)]
        self.time_limit: int | None = shared_limit([made[i][3] for i in range(count)])
        self.single_observation_space, self.single_action_space = self.spaces[0]
        with self._ending_workers():
            self.observation_space = batch_space(self.single_observation_space, count)
            self.action_space = batch_space(self.single_action_space, count)
        self.metadata = {**made[0][2], "autoreset_mode": gym.vector.AutoresetMode.DISABLED}
        self._newest: list[Any] = [None] * count  # observations
        self._waiting = np.ones(count, np.bool_)  # for a reset

    def __len__(self) -> int:
        return self.num_envs

    @property
    def processes(self) -> Sequence[int]:
        """Ids of the workers' processes, by environment; none after `close`."""
        return [worker.process.pid for worker in self._workers]

    def send(
        self,
        actions: Mapping[int, Array],
        seeds: Mapping[int, int | None],
        options: dict[str, Any] | None = None,
    ) -> None:
        """Step some environments and reset others; `receive` fetches the results."""
        assert not self._asked, f"environments {self._asked} have not been fetched yet"
        self._asked = [*actions, *seeds]
        for index, action in actions.items():
            self._workers[index].ask("stepped", "step", action)
        for index, seed in seeds.items():
            self._workers[index].ask("reset", "reset", seed, options)

    def receive(self) -> dict[int, StepResult]:
        """The results of the last `send`, by index.

        Raises:
            WorkerError: naming the environments whose process raised, died or hangs.
        """
        found: dict[int, StepResult] = {}
        for index, answer in self._answers().items():
            found[index] = StepResult(*answer)
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
        if seed is None or isinstance(seed, int | np.integer):
            seed = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        seeds = dict(enumerate(seed))
        self.send({}, {i: seeds[i] for i in seeds if mask[i]}, rest or None)
        self.receive()
        return self._batch(), {}

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Step all environments but those that wait for their reset."""
        chosen = enumerate(iterate(self.action_space, actions))
        self.send({i: action for i, action in chosen if not self._waiting[i]}, {})
        found = self.receive()
        results = [found.get(i, StepResult(self._newest[i])) for i in range(self.num_envs)]
        rewards = np.array([self._reward(i, result.reward) for i, result in enumerate(results)])
        terminations = np.array([result.terminated for result in results], np.bool_)
        truncations = np.array([result.truncated for result in results], np.bool_)
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
                if not ready and not self._restarts:
                    raise self._hung(waiting.values())
                for connection in ready or list(waiting):
                    worker = waiting.pop(connection)  # type: ignore[arg-type]
                    answers[worker.index] = self._answer(worker, is_hung=not ready)
        except BaseException:  # a second Ctrl-C, too
            self.close(kill=True)
            raise
        self._asked = []
        return answers

    def _answer(self, worker: Worker, *, is_hung: bool) -> Any:
        """A worker's answer, or what stands for it if there is another worker in its place."""
        try:
            if is_hung:
                raise self._hung([worker])
            answer = worker.answer()
        except _GoneError as error:
            return self._replaced(worker, error)
        if worker.doing == "stepped":
            self._deaths[worker.index] = 0
        return answer

    def _replaced(self, worker: Worker, error: _GoneError) -> Any:
        """Start another worker where one is gone; what the lost request comes to.

        Raises:
            WorkerError: if it is not to be started again, or cannot be.
        """
        index, why = worker.index, str(error)
        self._deaths[index] += 1
        if not self._restarts or worker.doing not in ("stepped", "reset"):
            raise error
        if self._deaths[index] >= DEATHS:
            raise WorkerError(
                f"{error}, for the {self._deaths[index]}. time in a row; look at what it says on "
                "standard error, or at what the machine has left"
            ) from error
        worker.close(deadline=0.0)
        fresh = self._workers[index] = self._start(index)
        self._waited(fresh)
        if worker.doing == "stepped":
            return StepResult(self._newest[index], 0.0, False, True, {LOST: why})
        fresh.ask(worker.doing, *worker.request)
        outcome = StepResult(*self._waited(fresh))
        return outcome._replace(info={LOST: why, **outcome.info})

    def _waited(self, worker: Worker) -> Any:
        """A single worker's answer, within the time-out."""
        return self._answer(worker, is_hung=not worker.connection.poll(self.timeout))

    def _hung(self, workers: Collection[Worker]) -> _GoneError:
        names = " and ".join(f"{worker} while it was being {worker.doing}" for worker in workers)
        return _GoneError(
            f"{names}: no answer for {self.timeout:g} s; if it may take longer, set worker_timeout "
            "higher"
        )

    def _batch(self) -> Any:
        space = self.single_observation_space
        with self._ending_workers():
            try:
                return concatenate(space, self._newest, create_empty_array(space, self.num_envs))
            except (ValueError, TypeError, KeyError) as error:
                raise ObservationError(
                    f"the observations do not fit the environments' space ({error}); look at what "
                    "the environments give"
                ) from error

    def _reward(self, index: int, reward: object) -> float:
        array: Array = np.asarray(reward)
        with self._ending_workers():
            if array.size != 1 or array.dtype.kind not in "fiub":
                raise EpisodeError(
                    f"the reward of {self._workers[index]} is {reward!r}, expected one number; "
                    "look at what the environment computes there"
                )
        return float(array.item())

    @contextmanager
    def _ending_workers(self) -> Generator[None, None, None]:
        """End all workers where the block raises."""
        try:
            yield
        except BaseException:
            self.close(kill=True)
            raise


def _packed(make: Callable[[], Env]) -> bytes:
    try:
        return bytes(ForkingPickler.dumps(CloudpickleWrapper(make)))
    except Exception as error:  # whatever the objects it holds raise when they are copied
        raise ConfigError(
            f"the function that makes environments cannot be sent to another process ({error}); "
            "make what it holds inside it, or set parallel=False"
        ) from error


class WorkerEnv(gym.Env[Any, Any]):
    """One environment in a process of its own, with Gymnasium's interface.

    The process ends with this one, however this one ends. Should it die or hang, another takes its
    place, and the episode is truncated, with the reason as `info["world_lost"]`.
    """

    render_mode = "rgb_array"

    def __init__(self, make: Callable[[], Env], *, timeout: float = TIMEOUT_S) -> None:
        """Start the process and make the environment there.

        Raises:
            WorkerError: if it cannot be made.
        """
        self._source = ProcessVectorEnv(make, 1, timeout=timeout, restarts=True, infos=True)
        self.observation_space, self.action_space = self._source.spaces[0]
        metadata = dict(self._source.metadata)
        del metadata["autoreset_mode"]
        self.metadata = metadata
        self.max_episode_steps = self._source.time_limit
        self._info: Mapping[str, Any] = NOTHING

    @property
    def process(self) -> int:
        """The process's id; another process that takes its place has another.

        Raises:
            WorkerError: after `close`.
        """
        for process in self._source.processes:
            return process
        raise WorkerError("this environment was closed, and its process ended; make another")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        self._source.send({}, {0: seed}, options)
        observation, _, _, _, info = self._received()
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take an action."""
        self._source.send({0: action}, {})
        return self._received()

    def _received(self) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        outcome = self._source.receive()[0]
        # what is known of a lost step is what was known before it
        known = self._info if outcome.lost and outcome.truncated else NOTHING
        self._info = {**known, **outcome.info}
        return (*outcome[:4], dict(self._info))

    def render(self) -> Any:
        """The picture now."""
        return self._source.render(0)

    def close(self) -> None:
        """Close the environment and end its process."""
        self._source.close()
