"""Learning in several environments: processes, vector environments, overlap, and what breaks."""

import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from agentzoo.agent import Agent
from agentzoo.runtime.envs import episode_seed
from agentzoo.runtime.errors import ConfigError, RunError, WorkerError
from agentzoo.train.callbacks import Callback
from agentzoo.train.checkpoint import newest, whole
from agentzoo.train.logger import read_metrics
from agentzoo.train.loop import Training
from agentzoo.train.schedule import ByBurst
from tests.agents.contract import CARTPOLE, Keep, all_transitions, assert_same_run
from tests.agents.toys import TOYS
from tests.train.test_loop import counters
from tests.unit_runtime.envs.fake_envs import Countdown, Marking, Mortal
from tests.unit_runtime.envs.test_subprocess_env import is_gone, wait_until

TOY = TOYS["LatentStore"]  # what it stores and trains on depends on the order of everything
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


@pytest.fixture(autouse=True)
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # bit for bit is promised on one CPU thread
    yield
    torch.set_num_threads(before)


def toy(env: object = CARTPOLE, **fields: object) -> Agent:
    return TOY(env, preset="debug", device="cpu", seed=3, **fields)


def learn(agent: Agent, steps: int, run: Path, *callbacks: Callback) -> Keep:
    keep = Keep()
    agent.learn(steps, run=run, callbacks=[keep, *callbacks], progress=False)
    return keep


class Fail(Callback):
    """Ends the run without a word, as far as checkpoints go."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, training: Training) -> None:
        if training.counters.env_step >= self.step:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_processes_change_no_transition_and_no_weight(tmp_path: Path):
    fields = {"envs": 3, "checkpoint_every": 160}
    serial = learn(toy(parallel=False, **fields), 1_500, tmp_path / "a")
    parallel = learn(toy(**fields), 1_500, tmp_path / "b")
    assert len(all_transitions(serial.training.replay)) == 3
    assert serial.training.counters.updates > 10
    assert_same_run(serial, parallel)


@pytest.mark.slow
def test_a_run_may_go_on_without_its_processes(tmp_path: Path):
    whole_run = learn(toy(envs=2, checkpoint_every=200), 1_200, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        learn(toy(envs=2, checkpoint_every=200), 1_200, tmp_path / "b", Fail(1_000))
    assert 0 < counters(tmp_path / "b").env_step < 1_000
    assert_same_run(
        whole_run, learn(toy(envs=2, parallel=False, checkpoint_every=200), 1_200, tmp_path / "b")
    )


@pytest.mark.slow
def test_a_worker_that_dies_costs_no_checkpoint(tmp_path: Path):
    untouched = learn(
        toy(partial(Mortal, None), envs=2, checkpoint_every=200), 1_200, tmp_path / "a"
    )
    agent = toy(partial(Mortal, str(tmp_path / "dies once")), envs=2, checkpoint_every=200)
    (tmp_path / "dies once").touch()
    with pytest.raises(WorkerError, match=r"environment \d .* was killed by SIGKILL"):
        learn(agent, 1_200, tmp_path / "b")
    kept = whole(tmp_path / "b" / "checkpoints")
    assert len(kept) == 2
    assert 0 < counters(tmp_path / "b").env_step < 1_200
    again = toy(partial(Mortal, None), envs=2, checkpoint_every=200)
    assert_same_run(untouched, learn(again, 1_200, tmp_path / "b"))


def two(mode: AutoresetMode) -> SyncVectorEnv:
    return SyncVectorEnv([partial(Countdown, 20), partial(Countdown, 30)], autoreset_mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_transitions_of_a_vector_environment(mode: AutoresetMode, tmp_path: Path):
    keep = learn(toy(two(mode)), 1_000, tmp_path)
    for env, (found, length) in enumerate(zip(all_transitions(keep.training.replay), (20, 30),
                                             strict=True)):  # fmt: skip
        seed, step = found["observation"].T
        first, last = found["is_first"], found["is_last"]
        whole_episodes = np.flatnonzero(last & (step == length))
        assert len(whole_episodes) > 10
        for end in whole_episodes:
            begin = end - length
            assert step[begin : end + 1].tolist() == list(range(length + 1))
            assert len(set(seed[begin : end + 1])) == 1
            assert found["reward"][begin] == 0
            given = 10 * step[begin + 1 : end + 1] + found["action"][begin:end].argmax(-1)
            np.testing.assert_array_equal(found["reward"][begin + 1 : end + 1], given)
        assert (first[1:] == last[:-1]).all()
        assert seed[0] == np.float32(episode_seed(3, env, 0))
        assert keep.training.counters.transitions[env] == len(first)
    # what counts is what was stored, not what a waiting environment went through
    decisions = sum((~found["is_first"]).sum() for found in all_transitions(keep.training.replay))
    assert keep.training.counters.env_step == decisions


@pytest.mark.parametrize("mode", MODES)
def test_a_run_in_a_vector_environment_resumes_bit_for_bit(mode: AutoresetMode, tmp_path: Path):
    untouched = learn(toy(two(mode)), 1_200, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        learn(toy(two(mode)), 1_200, tmp_path / "b", Fail(1_000))
    assert 0 < counters(tmp_path / "b").env_step < 1_000
    assert_same_run(untouched, learn(toy(two(mode)), 1_200, tmp_path / "b"))


@pytest.mark.parametrize("mode", MODES)
def test_stopped_in_a_vector_environment_leaves_whole_episodes(mode: AutoresetMode, tmp_path: Path):
    class Stop(Callback):
        def on_update(self, training: Training, metrics: object) -> None:
            training.stop = training.counters.updates >= 5

    keep = learn(toy(two(mode)), 10**6, tmp_path, Stop())
    assert keep.training.counters.interrupted
    for found in all_transitions(keep.training.replay):
        assert found["is_last"][-1]
        assert (found["is_first"][1:] == found["is_last"][:-1]).all()


def test_a_vector_environment_brings_its_number_and_is_not_evaluated_in(tmp_path: Path):
    venv = two(AutoresetMode.DISABLED)
    agent = toy(venv, eval_every=200)
    learn(agent, 400, tmp_path)
    assert agent.config.envs == 2
    assert not any("eval/mean_reward" in line for line in read_metrics(tmp_path))
    assert venv.reset(seed=1)[0].shape == (2, 2), "it is the user's, and still open"
    with pytest.raises(ConfigError, match="learned on an environment object, which it cannot name"):
        agent.evaluate()
    with pytest.raises(ConfigError, match="evaluate was given a vector environment"):
        agent.evaluate(venv)
    assert agent.evaluate(Countdown(4), episodes=1).lengths == (4,)
    loaded = TOY.load(agent.save(tmp_path / "saved"), device="cpu")
    loaded.learn(400, two(AutoresetMode.SAME_STEP), run=tmp_path / "loaded", progress=False)
    assert min(counters(tmp_path / "loaded").transitions) > 150
    with pytest.raises(ConfigError, match="holds 2 environments, but 3 were asked for"):
        learn(toy(venv, envs=3), 400, tmp_path / "other")


def test_processes_step_while_updates_are_made(tmp_path: Path):
    seen: list[int] = []

    class Watch(Callback):
        def on_update(self, training: Training, metrics: object) -> None:
            if len(seen) < 5:
                stored = training.counters.transitions[0]
                file = tmp_path / str(training.adapter.processes[0])
                wait_until(lambda: len(file.read_text()) > stored, "it steps meanwhile")
                seen.append(stored)

    agent = toy(partial(Marking, str(tmp_path)), envs=2, checkpoint_every=0)  # none is held back
    learn(agent, 700, tmp_path / "run", Watch())
    assert len(seen) == 5


class TestOverlap:
    def test_as_many_updates_as_in_bursts_but_not_at_once(self):
        fields = {"prefill": 400, "pretrain": 7, "every": 1_000, "updates": 100}
        bursts, spread = ByBurst(**fields), ByBurst(**fields, spread=True)
        assert spread.due(399, 0) == 0
        for k in range(50):
            assert spread.due(400 + 1_000 * k, 0) == bursts.due(400 + 1_000 * k, 0) == 7 + 100 * k
        assert [spread.due(400 + 10 * k, 0) for k in range(4)] == [7, 8, 9, 10]

    def test_updates_come_between_the_decisions_and_are_exact(self, tmp_path: Path):
        met: list[tuple[int, int]] = []

        class Count(Callback):
            def on_step(self, training: Training) -> None:
                met.append((training.counters.env_step, training.counters.updates))

        agent = toy(overlap=True, envs=2, updates=10)  # 10 updates for 100 steps, 2 at first
        keep = learn(agent, 1_000, tmp_path, Count())
        assert keep.training.counters.updates == 2 + (keep.training.counters.env_step - 400) // 10
        late = [(step, updates) for step, updates in met if step > 420]
        # on_step hears of the step before its updates are made
        assert all((step - 400) // 10 + 2 - updates in (0, 1) for step, updates in late)

    @pytest.mark.slow
    def test_resumes_bit_for_bit_and_is_recorded(self, tmp_path: Path):
        untouched = learn(toy(overlap=True), 1_200, tmp_path / "a")
        with pytest.raises(KeyboardInterrupt):
            learn(toy(overlap=True), 1_200, tmp_path / "b", Fail(1_000))
        with pytest.raises(RunError, match="overlap was True, is False"):
            learn(toy(), 1_200, tmp_path / "b")
        assert_same_run(untouched, learn(toy(overlap=True), 1_200, tmp_path / "b"))

    def test_there_is_nothing_to_spread_over_for_bursts_at_each_episodes_end(self):
        with pytest.raises(ConfigError, match=r"update_every=0 asks for a burst at each episode's"):
            toy(overlap=True, update_every=0)


def test_runs_from_before_a_setting_existed_go_on(tmp_path: Path):
    learn(toy(), 600, tmp_path)
    path = newest(tmp_path / "checkpoints") / "config.json"
    text = path.read_text()
    assert '  "overlap": false,\n' in text
    path.write_text(text.replace('  "overlap": false,\n', ""))
    path.with_name("checksums.json").unlink()  # nor did checkpoints have these
    learn(toy(), 800, tmp_path)
    assert counters(tmp_path).env_step >= 800


def test_a_function_that_cannot_be_sent_says_what_to_do(tmp_path: Path):
    lock = threading.Lock()

    def holding() -> gym.Env:
        with lock:
            return Countdown(5)

    with pytest.raises(ConfigError, match=r"cannot be sent .* set parallel=False"):
        learn(toy(holding, envs=2), 500, tmp_path / "a")
    keep = learn(toy(holding, envs=2, parallel=False), 500, tmp_path / "b")
    assert len(all_transitions(keep.training.replay)) == 2


@pytest.mark.slow
def test_ctrl_c_with_processes_ends_in_a_checkpoint_and_leaves_none(tmp_path: Path):
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from tests.agents.contract import CASES\n"
        "from agentzoo.train.callbacks import Callback\n"
        "class Say(Callback):\n"
        "    def on_update(self, training, metrics):\n"
        "        if training.counters.updates == 3:\n"
        "            print(*training.adapter.processes, flush=True)\n"
        f"CASES['LatentStore'].make(envs=2).learn(10**7, run={str(tmp_path)!r}, callbacks=[Say()])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    found = [int(word) for word in process.stdout.readline().split()]
    assert len(found) == 2
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT, said
    assert "to go on: agent.learn" in said
    assert counters(tmp_path).interrupted
    assert all(is_gone(one) for one in found)
