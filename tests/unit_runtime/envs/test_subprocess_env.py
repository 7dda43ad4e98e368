"""Environments in processes: transitions as in serial stepping, errors by name, no orphans."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from agentzoo.runtime.envs import Adapter, ProcessVectorEnv
from agentzoo.runtime.errors import ConfigError, EpisodeError, ObservationError, WorkerError
from tests.unit_runtime.envs.fake_envs import Breaking, Countdown, Named, Telling, Unmakeable


def is_gone(process: int) -> bool:
    """Whether a process ended, waited for or not."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Bounded by 20 s, of which it takes as little as it can."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def workers(adapter: Adapter) -> list[int]:
    assert len(adapter.processes) == len(adapter)
    return list(adapter.processes)


def rollout(adapter: Adapter, rounds: int) -> list[tuple[list[int], dict[str, list]]]:
    """Steps of the open episodes together with resets of the others."""
    n = len(adapter)
    inside, found = [], []
    for t in range(rounds):
        outside = [i for i in range(n) if i not in inside]
        actions = np.array([np.full(adapter.action.shape, (t + i) % 2) for i in inside])
        adapter.send(inside, actions, outside, [10 * t + i for i in outside])
        envs, transitions = adapter.receive()
        found.append((envs, {name: column.tolist() for name, column in transitions.items()}))
        inside = [i for i, last in zip(envs, transitions["is_last"], strict=True) if not last]
    return found


@pytest.mark.parametrize("env", ["gym:CartPole-v1", "gym:Pendulum-v1?max_episode_steps=7", Named])
def test_transitions_are_those_of_serial_stepping(env: object) -> None:
    found = []
    for parallel in (False, True):
        adapter = Adapter.open(env, 3, parallel=parallel)
        found.append(rollout(adapter, 40))
        adapter.close()
    assert found[0] == found[1]
    assert any(any(transitions["is_last"]) for _, transitions in found[0])


def test_it_is_a_vector_environment_of_gymnasiums() -> None:
    makers = [Countdown, Countdown]
    ours = ProcessVectorEnv(Countdown, 2)
    theirs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"]
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    for venv in (ours, theirs):
        assert venv.reset(seed=5)[0].tolist() == [[5, 0], [6, 0]]
        observations, rewards, terminated, truncated, _ = venv.step(np.array([0, 1]))
        assert observations.tolist() == [[5, 1], [6, 1]]
        assert rewards.tolist() == [10, 11]
        assert not (terminated | truncated).any()
        mask = np.array([True, False])
        observations, _ = venv.reset(seed=[9, None], options={"reset_mask": mask})
        assert observations.tolist() == [[9, 0], [6, 1]]
        venv.close()


def test_an_environment_that_waits_for_its_reset_is_left_alone() -> None:
    venv = ProcessVectorEnv(partial(Countdown, 1), 2)
    venv.reset(seed=[1, 2])
    venv.step(np.zeros(2, int))
    venv.reset(seed=[3, None], options={"reset_mask": np.array([True, False])})
    observations, rewards, terminated, _, _ = venv.step(np.zeros(2, int))
    assert observations.tolist() == [[3, 1], [2, 1]]
    assert (rewards.tolist(), terminated.tolist()) == ([10, 0], [True, False])
    venv.close()


def test_each_has_a_process_and_one_thread() -> None:
    adapter = Adapter.open(Telling, 2, parallel=True)
    observations = adapter.reset([0, 1], [0, 0])["observation"]
    assert observations[:, 0].tolist() == [float(pid) for pid in workers(adapter)]
    assert observations[:, 1].tolist() == [1, 1]
    adapter.close()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", "raised while it was being stepped: IndexError: list index out of range"),
        ("exit", "ended with exit status 3 while it was being stepped"),
        ("kill", "was killed by SIGKILL while it was being stepped"),
        ("hang", "while it was being stepped: no answer for 0.5 s"),
        ("stop", "while it was being stepped: no answer for 0.5 s"),
    ],
)
def test_one_that_breaks_is_named_and_none_is_left(how: str, said: str) -> None:
    envs = ProcessVectorEnv(partial(Breaking, how), 2)
    adapter = Adapter(envs)
    processes = workers(adapter)
    adapter.reset([0, 1], [0, 1])
    adapter.step([0, 1], [0, 0])
    envs.timeout = 0.5  # starting may take longer
    with pytest.raises(WorkerError, match=rf"^environment 1 \(process {processes[1]}\) {said}"):
        adapter.step([0, 1], [0, 0])
    assert all(is_gone(process) for process in processes)
    adapter.close()


def test_one_that_dies_while_nobody_asks_is_named_at_the_next_step() -> None:
    adapter = Adapter.open(Countdown, 2, parallel=True)
    processes = workers(adapter)
    adapter.reset([0, 1], [0, 1])
    os.kill(processes[0], signal.SIGKILL)
    wait_until(lambda: is_gone(processes[0]), "the worker was killed")
    with pytest.raises(WorkerError, match=r"environment 0 .* was killed by SIGKILL"):
        adapter.step([0, 1], [0, 0])
    assert is_gone(processes[1])


def test_what_cannot_be_made_or_sent_is_said() -> None:
    with pytest.raises(WorkerError, match=r"environment 0 .* being made: OSError: no display"):
        Adapter.open(Unmakeable, 1, parallel=True)
    with pytest.raises(WorkerError, match=r"the function made a int, expected a gymnasium\.Env"):
        Adapter.open(int, 1, parallel=True)
    lock = threading.Lock()

    def holding() -> Countdown:
        with lock:
            return Countdown()

    with pytest.raises(ConfigError, match=r"cannot be sent to another process .*parallel=False"):
        Adapter.open(holding, 2, parallel=True)


def test_a_bad_transition_names_its_environment() -> None:
    class Bad(Countdown):
        def step(self, action: int) -> tuple:
            observation, _, *rest = super().step(action)
            return observation, "much" if self.seed == 1 else 0.0, *rest

    adapter = Adapter.open(Bad, 2, parallel=True)
    adapter.reset([0, 1], [0, 1])
    with pytest.raises(EpisodeError, match="reward of environment 1 at step 1 of its episode is"):
        adapter.step([0, 1], [0, 0])
    adapter.close()


def learner(body: str) -> "subprocess.Popen[str]":
    """A process that opens environments, says their processes, and goes on with `body`."""
    code = (
        "import os, signal, time\n"
        # a shell that starts jobs in the background lets them ignore it
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from functools import partial\n"
        "from agentzoo.runtime.envs import Adapter\n"
        "from tests.unit_runtime.envs.fake_envs import Breaking, Countdown\n"
        "adapter = Adapter.open(partial(Breaking, 'hang'), 2, parallel=True)\n"
        "print(*adapter.processes, flush=True)\n"
        "adapter.reset([0, 1], [0, 1])\n"
        f"{body}\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def processes_of(process: "subprocess.Popen[str]") -> list[int]:
    assert process.stdout is not None
    return [int(word) for word in process.stdout.readline().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal is Linux's")
def test_a_killed_learner_leaves_no_process_that_hangs_in_c() -> None:
    process = learner(
        "adapter.step([0, 1], [0, 0]); adapter.send([0, 1], [0, 0]); time.sleep(0.5)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    found = processes_of(process)
    assert process.wait(60) == -signal.SIGKILL
    assert len(found) == 2
    for one in found:
        wait_until(lambda one=one: is_gone(one), "the kernel ends what hangs")
    process.stdout.close()


def test_ctrl_c_reaches_the_learner_alone() -> None:
    process = learner(
        "try: print('ready', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt: print(adapter.step([0, 1], [0, 0])['observation'].tolist())\n"
        "adapter.close()"
    )
    found = processes_of(process)
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    said, _ = process.communicate(timeout=60)
    assert said == "[[0.0, 1.0], [1.0, 1.0]]\n"
    assert process.returncode == 0
    assert all(is_gone(one) for one in found)


def test_a_script_is_not_run_again_in_the_workers(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import gymnasium as gym\n"
        "from agentzoo.runtime.envs import Adapter\n"
        "print('run', flush=True)\n"
        "class Mine(gym.Env):\n"
        "    observation_space = gym.spaces.Discrete(3)\n"
        "    action_space = gym.spaces.Discrete(2)\n"
        "    def reset(self, seed=None, options=None): return 1, {}\n"
        "adapter = Adapter.open(Mine, 2, parallel=True)\n"  # without the guard by __name__
        "print(adapter.reset([0, 1], [0, 0])['observation'].tolist())\n"
        "adapter.close()\n"
    )
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    found = subprocess.run(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout == "run\n[[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]\n"


class Lying(Countdown):
    """Gives a reward that is a text, or an observation of another shape."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def step(self, action: int) -> tuple:
        observation, reward, *rest = super().step(action)
        lies = {"text": (observation, "much"), "shape": (np.zeros(5), reward)}
        return (*lies[self.how], *rest)


class FirstOrNot(Countdown):
    """The first one made in a folder has another space than all others; leaves its process's id."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        Path(folder, str(os.getpid())).touch()
        try:
            Path(folder, "first").touch(exist_ok=False)
        except FileExistsError:
            self.observation_space = gym.spaces.Box(-1, 1, (3,))


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ("text", EpisodeError, r"the reward of environment 0 .* is 'much', expected one number"),
        ("shape", ObservationError, r"observations do not fit the environments' space"),
    ],
)
def test_a_lie_ends_all_workers(how: str, error: type[Exception], said: str) -> None:
    envs = ProcessVectorEnv(partial(Lying, how), 2)
    processes = list(envs.processes)
    envs.reset(seed=1)
    with pytest.raises(error, match=said):
        envs.step(np.zeros(2, int))
    assert all(is_gone(process) for process in processes)


def test_spaces_that_differ_leave_no_workers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"environment \d has other spaces than environment 0"):
        Adapter.open(partial(FirstOrNot, str(tmp_path)), 2, parallel=True)
    processes = [int(path.name) for path in tmp_path.iterdir() if path.name != "first"]
    assert len(processes) == 2
    assert all(is_gone(process) for process in processes)
