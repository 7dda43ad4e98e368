"""The loop around an agent: schedule, stopping, resuming, extending, refusing, two worlds."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from agentzoo import Dreamer, DreamerV2, DreamerV3, PlaNet, testing
from agentzoo.agent import Agent
from agentzoo.algorithm import module
from agentzoo.config import AgentConfig, parse_setting
from agentzoo.runtime.envs import Adapter
from agentzoo.runtime.errors import BundleError, ConfigError, EpisodeError, ProviderError, RunError
from agentzoo.train.callbacks import Callback, StopOnReturn
from agentzoo.train.checkpoint import Counters, newest, read_tensors, whole
from agentzoo.train.logger import read_metrics
from agentzoo.train.loop import Training, checkpoint_grace
from agentzoo.train.run_folder import locked
from agentzoo.train.schedule import ByBurst, ByDecision, ByEpisode, ByRatio
from tests.agents.contract import CASES, PENDULUM, Keep, all_transitions
from tests.agents.toys import TOYS

TOY = TOYS["TruncatedActor"]


def toy(env: object = PENDULUM, **fields: object) -> Agent:
    return TOY(env, preset="debug", device="cpu", seed=3, **fields)


def counters(run: Path) -> Counters:
    path = newest(run / "checkpoints")
    assert path is not None
    return Counters.read(path / "training")


class Short(gym.Env[np.ndarray, np.ndarray]):
    """Episodes of three steps, or of one; ends by termination."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, length: int = 3, reward: float = 1.0) -> None:
        self.length, self.reward = length, reward

    def reset(self, *, seed: int | None = None, options: dict[str, object] | None = None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: np.ndarray):
        self.t += 1
        obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return obs, self.reward, self.t >= self.length, False, {}


class TestSchedule:
    def test_dreamer_counts_of_the_paper(self):
        # 100 updates per 1,000 environment steps after 5,000 of prefill, and 100 at first
        schedule = ByBurst(prefill=5_000, pretrain=100, every=1_000, updates=100)
        assert schedule.due(4_999, 0) == 0
        assert schedule.due(5_000, 0) == 100
        assert schedule.due(5_999, 0) == 100
        assert schedule.due(6_000, 0) == 200
        assert schedule.due(1_000_000, 0) == 99_500 + 100

    def test_planet_counts_a_burst_for_each_episode(self):
        schedule = ByEpisode(prefill=5_000, pretrain=100, updates=100)
        assert [schedule.due(5_000 + 1_000 * n, n) for n in range(4)] == [100, 200, 300, 400]

    def test_an_update_for_each_decision(self):
        schedule = ByDecision(prefill=5_000, pretrain=2_500, updates=1, repeat=2)
        found = [schedule.due(step, 0) for step in (4_999, 5_000, 5_001, 5_002, 15_000)]
        assert found == [0, 2_500, 2_500, 2_501, 7_500]

    def test_a_configuration_says_its_own(self):
        fields = {"prefill": 10, "pretrain": 3, "updates": 2, "batch_size": 4, "batch_length": 5}
        bursts = AgentConfig(**fields, update_every=20)
        assert bursts.schedule(2) == ByBurst(prefill=10, pretrain=3, every=20, updates=2)
        assert AgentConfig(**fields, update_every=0).schedule(2) == ByEpisode(10, 3, 2)
        by_ratio = AgentConfig(**fields, train_ratio=8.0, envs=3).schedule(2)
        assert by_ratio == ByRatio(
            prefill=10, pretrain=3, ratio=8.0, batch=4, length=5, envs=3, repeat=2
        )
        assert [one.counts_steps for one in (bursts.schedule(2), by_ratio)] == [True, True]
        assert not AgentConfig(**fields, update_every=0).schedule(2).counts_steps

    def test_the_defaults_are_nobodys_paper(self):
        config = AgentConfig()
        assert (config.repeat, config.updates, config.train_ratio) == (1, 1, 0.0)

    def test_two_hundred_and_fifty_transitions_learned_from_for_each_environment_step(self):
        schedule = ByBurst(prefill=5_000, pretrain=0, every=1_000, updates=100)
        assert schedule.due(105_000, 0) * 50 * 50 / 100_000 == 250


def test_prefill_of_five_thousand_steps_stores_2505_transitions(tmp_path: Path):
    keep = Keep()
    agent = toy(Short(length=500), prefill=10**6, replay_rows=10_000)
    agent.learn(2_500, run=tmp_path, callbacks=[keep], progress=False)  # repeat 2 makes it 5,000
    assert (len(keep.training.replay), keep.training.replay.episodes) == (2_505, 5)


def test_learning_goes_on_in_the_same_run(tmp_path: Path):
    agent = toy().learn(600, run=tmp_path / "run", progress=False)
    assert counters(tmp_path / "run").env_step == 600
    agent.learn(400, progress=False)
    assert agent.run == tmp_path / "run"
    assert counters(tmp_path / "run").env_step == 1_000


def test_finished_run_says_so_and_a_larger_total_extends_it(tmp_path: Path, capsys):
    toy().learn(600, run=tmp_path, progress=False)
    before = counters(tmp_path)
    toy().learn(600, run=tmp_path, progress=False)
    assert "is finished: 600 of 600 environment steps" in capsys.readouterr().out
    assert counters(tmp_path) == before
    toy().learn(1_000, run=tmp_path)
    assert "resumed from step 600" in capsys.readouterr().err
    assert counters(tmp_path).env_step == 1_000
    steps = [line["env_step"] for line in read_metrics(tmp_path)]
    assert steps == sorted(steps)


START = """
import sys
from agentzoo.train.run_folder import new_run_folder
sys.stdin.readline()
print(new_run_folder("Toy", "gym:Pendulum-v1?repeat=1"))
"""


def test_runs_begun_in_the_same_moment_have_folders_of_their_own(tmp_path: Path):
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", START], cwd=tmp_path, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        for _ in range(3)
    ]  # fmt: skip
    for start in starts:
        assert start.stdin is not None
        start.stdin.write("go\n")
        start.stdin.flush()
    folders = {start.communicate(timeout=60)[0].strip() for start in starts}
    assert len(folders) == 3
    assert all(Path(one).name.startswith("toy-gym-pendulum-v1-") for one in folders)
    assert all((tmp_path / one).is_dir() for one in folders)


HOLD = """
import os, signal, sys
from agentzoo.train.run_folder import locked
from pathlib import Path
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_has_one_learner_and_a_killed_one_leaves_no_lock(tmp_path: Path):
    toy().learn(200, run=tmp_path, progress=False)
    before = listing(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    said = rf"{tmp_path} is being learned in by process {holder.pid} on .*; wait for its end, or"
    with pytest.raises(RunError, match=said):
        toy().learn(400, run=tmp_path, progress=False)
    lock = str(tmp_path / "lock")
    assert {k: v for k, v in listing(tmp_path).items() if k != lock} == {
        k: v for k, v in before.items() if k != lock
    }
    holder.communicate("die\n", timeout=60)
    assert holder.returncode == -signal.SIGKILL
    toy().learn(400, run=tmp_path, progress=False)
    assert counters(tmp_path).env_step == 400


def test_two_threads_are_two_learners(tmp_path: Path):
    with locked(tmp_path), pytest.raises(RunError, match=r"is being learned in by process"):
        toy().learn(200, run=tmp_path, progress=False)


def test_other_settings_are_listed(tmp_path: Path):
    toy().learn(400, run=tmp_path, progress=False)
    with pytest.raises(RunError, match=r"other settings: .*batch_size was 4, is 8"):
        toy(batch_size=8).learn(800, run=tmp_path, progress=False)
    with pytest.raises(RunError, match=r"seed was 3, is 4"):
        TOY(PENDULUM, preset="debug", device="cpu", seed=4).learn(800, run=tmp_path)


class Huge(gym.Env[np.ndarray, int]):
    """Observations of size 1e20 from a step on, so that squared they are beyond float32."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    steps = 0

    def __init__(self, huge_from: int = 0) -> None:
        self.huge_from = huge_from

    def observe(self) -> np.ndarray:
        size = 1e20 if self.steps >= self.huge_from else 1.0
        return (size * self.np_random.standard_normal(2)).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, object] | None = None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action: int):
        self.t, self.steps = self.t + 1, self.steps + 1
        return self.observe(), 1.0, self.t >= 10, False, {}


def diverging(env: gym.Env, run: Path, **fields: object) -> Path:
    """A run of Dreamer that has to be refused; the newest checkpoint it leaves."""
    agent = Dreamer(
        env, preset="debug", device="cpu", seed=0, standardize="none",
        prefill=60, update_every=20, **fields,
    )  # fmt: skip
    with pytest.raises(
        RunError, match=r"has diverged by step .* it stops here, and the checkpoint"
    ):
        agent.learn(240, run=run, progress=False)
    path = newest(run / "checkpoints")
    assert path is not None
    for kept in whole(run / "checkpoints"):
        state = read_tensors(kept / "model.safetensors")
        assert all(tensor.isfinite().all() for tensor in state.values()), kept
    return path


@pytest.mark.parametrize("when", ["log_every", "checkpoint_every"])
def test_a_diverged_run_stops_and_its_last_good_checkpoint_stands(when: str, tmp_path: Path):
    fields = {"log_every": 10**6, "checkpoint_every": 0} | {when: 20}
    path = diverging(Huge(huge_from=100), tmp_path, **fields)
    good = counters(tmp_path).env_step
    assert good == 0 if when == "log_every" else 40 <= good <= 120
    if when == "log_every":  # stopped long before its 240 steps
        assert read_metrics(tmp_path)[-1]["env_step"] < 200
    Dreamer.load(path, device="cpu").act(np.zeros(2))


def test_weights_are_looked_at_where_nothing_is_logged(tmp_path: Path):
    class Break(Callback):
        def on_episode(self, training: Training, episode: object) -> None:
            next(module(training.learner.algorithm).parameters()).data.fill_(float("inf"))

    with pytest.raises(
        RunError, match=r"diverged by step 200: .* holds NaN or infinity.*step 0 st"
    ):
        toy(prefill=10**6).learn(200, run=tmp_path, callbacks=[Break()], progress=False)
    assert len(whole(tmp_path / "checkpoints")) == 1


def test_a_text_of_a_configuration_is_read_back_as_it_was():
    for text in ("none", "true", "2"):
        assert parse_setting(Dreamer.config_class, f"standardize={text}") == ("standardize", text)
    assert parse_setting(Dreamer.config_class, "protocol=none") == ("protocol", None)


@pytest.mark.parametrize("agent", [Dreamer, DreamerV2, DreamerV3, PlaNet])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_rates_are_finite_and_not_negative(agent: type[Agent], value: float):
    rate = "lr" if agent is DreamerV3 else "model_lr"
    with pytest.raises(ConfigError, match=rf"{rate}={value} has to be (a finite number|0 or more)"):
        agent(preset="debug", device="cpu", **{rate: value})


@pytest.mark.parametrize("field", ["lr", "deter", "total_steps", "eval_every"])
def test_numbers_that_nothing_holds_are_refused(field: str):
    match = rf"{field}=10{{60,}} is beyond 2\*\*53, expected (float|int)"
    with pytest.raises(ConfigError, match=match):
        DreamerV3(preset="debug", device="cpu", **{field: 10**400})


class Spaced(Short):
    """The same with other spaces."""

    def __init__(self, action: gym.Space | None = None, obs: gym.Space | None = None) -> None:
        super().__init__()
        self.action_space = action or self.action_space
        self.observation_space = obs or self.observation_space


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (
            gym.spaces.Box(-1, 1, (1,)),
            gym.spaces.Box(-10, 10, (1,)),
            r"the action had low \(-1.0,\), has \(-10.0,\); the action had high",
        ),
        (
            gym.spaces.Discrete(3),
            gym.spaces.Discrete(3, start=-1),
            r"the action had start \(0,\), has \(-1,\)",
        ),
    ],
    ids=["bounds", "start"],
)
@pytest.mark.parametrize("function", [True, False])
def test_a_run_goes_on_with_the_spaces_it_began_with(
    first: gym.Space, second: gym.Space, said: str, function: bool, tmp_path: Path
):
    def made(action: gym.Space):
        agent = DreamerV3(
            (lambda: Spaced(action)) if function else Spaced(action),
            preset="debug", device="cpu", seed=0, eval_every=0,
        )  # fmt: skip
        return agent.learn

    made(first)(40, run=tmp_path, progress=False)
    before = listing(tmp_path)
    with pytest.raises(RunError, match=rf"has other settings: {said}.*; resume it with its own"):
        made(second)(80, run=tmp_path, progress=False)
    assert listing(tmp_path) == before
    made(first)(80, run=tmp_path, progress=False)


def test_a_function_whose_environments_differ_writes_nothing(tmp_path: Path):
    sizes = iter([2, 3, 3])
    agent = toy(lambda: Spaced(obs=gym.spaces.Box(-1, 1, (next(sizes),), np.float32)))
    said = r'made for: the observation "observation" had shape \(2,\), has \(3,\)'
    with pytest.raises(RunError, match=said):
        agent.learn(100, run=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_what_is_read_as_what_is_said_when_learning_starts(tmp_path: Path, capsys):
    toy(Short()).learn(100, run=tmp_path)
    said = 'reads "observation" as a vector of 2; actions are a box of 1\n'
    assert said in capsys.readouterr().err


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from tests.agents.contract import CASES
agent = CASES["TruncatedActor"].make()
agent.learn(10**7, run=sys.argv[1], **eval(sys.argv[2]))
print("the next line", flush=True)
"""
CODES = {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: 143}  # 130 and 143, as shells say


def stopped_by(sent: signal.Signals, command: list[str], **options: object) -> tuple[int, str, str]:
    """Exit code, output and error of a process that is sent a signal once it learns."""
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1, **options,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:  # the estimate is told once updates have begun
        if "of updates ahead" in line:
            break
    process.send_signal(sent)
    out, said = process.communicate(timeout=120)
    return process.returncode, out, said


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_a_signal_saves_whole_episodes_and_ends_the_script(sent: signal.Signals, tmp_path: Path):
    run = tmp_path / "run"
    code, out, said = stopped_by(sent, ["-c", SCRIPT, str(run), "{}"])
    assert (code, out) == (CODES[sent], ""), said
    assert "stopping after this update" in said
    assert 'agent.learn(10000000, run="' in said
    stopped = counters(run)
    assert stopped.interrupted
    keep = Keep()
    toy(checkpoint_every=400).learn(
        stopped.env_step + 400, run=run, callbacks=[keep], progress=False
    )
    (found,) = all_transitions(keep.training.replay)
    assert found["is_last"][np.flatnonzero(found["is_first"])[1:] - 1].all()
    assert not found["is_terminal"].any()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_a_script_may_ask_to_go_on_after_a_signal(sent: signal.Signals, tmp_path: Path):
    command = ["-c", SCRIPT, str(tmp_path), "{'on_interrupt': 'return'}"]
    code, out, said = stopped_by(sent, command)
    assert (code, out) == (0, "the next line\n"), said
    assert counters(tmp_path).interrupted


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_the_command_line_ends_with_the_signals_code(sent: signal.Signals, tmp_path: Path):
    learn = ["learn", "dreamer", "gym:CartPole-v1", "--preset", "debug", "--steps", "1e7"]
    command = ["-m", "agentzoo.cli.main", *learn, "--device", "cpu", "--run", str(tmp_path)]
    code, out, said = stopped_by(sent, command)
    assert (code, out) == (128 + sent, ""), said
    assert f"stopped; to go on: agentzoo resume {tmp_path}" in said
    assert counters(tmp_path).interrupted


class Send(Callback):
    """Sends this process a signal at an environment step."""

    def __init__(self, step: int, sent: signal.Signals = signal.SIGINT) -> None:
        self.step, self.sent = step, sent

    def on_step(self, training: Training) -> None:
        if training.counters.env_step == self.step:
            os.kill(os.getpid(), self.sent)


def test_learn_raises_once_the_checkpoint_stands_and_the_handlers_are_as_before(tmp_path: Path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="stopped by Ctrl-C; the last checkpoint stands"):
        toy().learn(1_000, run=tmp_path, callbacks=Send(300), progress=False)
    assert counters(tmp_path).interrupted
    with pytest.raises(SystemExit, match="143"):
        toy().learn(1_000, run=tmp_path, callbacks=Send(500, signal.SIGTERM), progress=False)
    assert 500 <= counters(tmp_path).env_step < 1_000
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with pytest.raises(ConfigError, match=r"on_interrupt='stop' is not known; it is \"raise\" or"):
        toy().learn(1_000, run=tmp_path, on_interrupt="stop", progress=False)


def test_a_sigterm_that_the_script_handles_is_left_to_it(tmp_path: Path):
    caught: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
    try:
        agent = toy()
        agent.learn(400, run=tmp_path, callbacks=Send(300, signal.SIGTERM), progress=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught == [signal.SIGTERM]
    assert counters(tmp_path).env_step == 400


class Endless(Short):
    """An environment without an end, which says how far it was stepped."""

    steps = 0

    def __init__(self) -> None:
        super().__init__(length=10**9)

    def step(self, action: np.ndarray):
        Endless.steps += 1
        assert Endless.steps < 5_000, "nobody ended it"  # rather than to hang with it
        if Endless.steps == self.interrupted_at:
            os.kill(os.getpid(), signal.SIGINT)
        return super().step(action)

    interrupted_at = 0


def test_an_evaluation_without_an_end_is_cut_with_a_sentence(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("agentzoo.train.callbacks.UNLIMITED_STEPS", 50)
    toy(Endless, eval_every=200).learn(450, run=tmp_path, progress=False)
    said = capsys.readouterr().err
    assert said.count("an evaluation episode had no end after 50 decisions and was cut there") == 1
    means = [m["eval/mean_reward"] for m in read_metrics(tmp_path) if "eval/mean_reward" in m]
    assert means == [50.0, 50.0]


def test_ctrl_c_inside_an_evaluation_without_an_end(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Endless, "interrupted_at", Endless.steps + 230)  # 200 are the run's own
    with pytest.raises(KeyboardInterrupt):
        toy(Endless, eval_every=200).learn(10_000, run=tmp_path, progress=False)
    assert counters(tmp_path).env_step == 201  # the one that ends the open episode
    assert not any("eval/mean_reward" in line for line in read_metrics(tmp_path))


@pytest.mark.parametrize("parallel", [True, False])
def test_killed_between_two_environments_resumes_bit_for_bit(parallel: bool, tmp_path: Path):
    fields = {"envs": 2, "parallel": parallel}
    case = replace(CASES["LatentStore"], fields=fields, steps=1_600, kill_at=1_100)
    learned = testing.learn(case, tmp_path / "a")
    testing.check_resume(learned, tmp_path / "b")


def test_falling_learning_rates_resume_bit_for_bit(tmp_path: Path):
    fields = {"lr_decay": "cosine", "lr_decay_updates": 14, "lr_final": 0.1}
    case = replace(CASES["TruncatedActor"], fields=fields)
    learned = testing.learn(case, tmp_path / "a")
    testing.check_resume(learned, tmp_path / "b")
    constant = testing.learn(CASES["TruncatedActor"], tmp_path / "c")
    weights = [module(one.agent.algorithm).state_dict() for one in (learned, constant)]
    assert any(not torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_a_half_written_checkpoint_is_not_taken(tmp_path: Path):
    toy().learn(800, run=tmp_path, progress=False)
    good = newest(tmp_path / "checkpoints")
    partial = tmp_path / "checkpoints" / "partial-000009"
    partial.mkdir()
    (partial / "config.json").write_text("{")
    assert newest(tmp_path / "checkpoints") == good
    toy().learn(1_000, run=tmp_path, progress=False)
    assert not partial.exists()


def test_the_last_two_checkpoints_are_kept_and_share_chunks(tmp_path: Path):
    toy(replay_rows=4096, checkpoint_every=400).learn(4_400, run=tmp_path, progress=False)
    kept = whole(tmp_path / "checkpoints")
    assert len(kept) == 2
    chunks = [path / "training" / "replay" / "env00" / "00000000.rows" for path in kept]
    live = tmp_path / "replay" / "env00" / "00000000.rows"
    assert len({os.stat(path).st_ino for path in [*chunks, live]}) == 1


def test_an_unfinished_episode_is_cut_for_a_checkpoint_after_the_grace(tmp_path: Path):
    keep = Keep()
    agent = toy(Short(length=10**6), checkpoint_every=300, checkpoint_grace=50)
    agent.learn(1_000, run=tmp_path, callbacks=[keep], progress=False)
    (found,) = all_transitions(keep.training.replay)
    assert np.flatnonzero(found["is_last"]).tolist() == [350, 651, 952, 1003]
    assert not found["is_terminal"].any()


def lengths(folder: Path, agent: Agent, total: int) -> list[list[int]]:
    """Decisions of every finished episode, an environment a list."""
    keep = Keep()
    agent.learn(total, run=folder, callbacks=[keep], progress=False)
    found = []
    for stored in all_transitions(keep.training.replay):
        first, last = np.flatnonzero(stored["is_first"]), np.flatnonzero(stored["is_last"])
        found.append((last - first).tolist())
    return found


def test_checkpoints_are_counted_in_steps_of_each_environment(tmp_path: Path):
    # four pendulums of 200 steps; due at 300 of each, that is in their second episodes
    agent = toy(envs=4, parallel=False, checkpoint_every=300)
    assert lengths(tmp_path, agent, 4 * 850) == [[200, 200, 200, 200, 50]] * 4
    found = counters(tmp_path)
    # at 0, 400, 800 and the end; all end together, so none waits
    assert (found.checkpoints, found.waited) == (4, 0)


def test_environments_that_wait_for_a_checkpoint_are_counted(tmp_path: Path):
    made = iter([3, 20, 50])  # the first shows its spaces
    agent = toy(lambda: Short(next(made)), envs=2, parallel=False, checkpoint_every=60)
    # due at 120 steps of both: the short one has just ended its third episode and waits, while the
    # long one goes on from step 11 of its second to 50
    short, long = lengths(tmp_path, agent, 170)
    assert (short[:3], long[:2]) == ([20] * 3, [50] * 2)
    found = counters(tmp_path)
    assert (found.waited, found.checkpoints) == (39, 3)
    share = [line["time/checkpoint_wait"] for line in read_metrics(tmp_path)][-1]
    assert share == pytest.approx(39 / (39 + sum(found.transitions)))


def test_the_grace_is_the_tasks_own_limit(tmp_path: Path, capsys):
    # episodes of 700 steps, which the limit of 700 lets end, however soon a checkpoint is due
    env = gym.wrappers.TimeLimit(Short(length=10**6), 700)
    assert lengths(tmp_path, toy(env, checkpoint_every=100), 1_500) == [[700, 700, 100]]
    assert "no time limit" not in capsys.readouterr().err


def test_an_unknown_limit_is_said_and_has_a_grace_of_its_own(tmp_path: Path, capsys):
    def grace(env: gym.Env, **fields: object) -> int:
        return checkpoint_grace(toy(env, **fields).config, Adapter([env]))

    endless = Short(length=10**6)
    assert grace(endless) == 10_000
    assert grace(endless, checkpoint_grace=70) == 70
    assert grace(gym.wrappers.TimeLimit(Short(), 700)) == 701
    toy(endless).learn(200, run=tmp_path)
    said = capsys.readouterr().err
    assert "names no time limit: an episode still open 10,000 of its steps after" in said


def test_a_run_that_ends_while_environments_are_held_has_one_last_checkpoint(tmp_path: Path):
    # due at 300, at the end of the second episode of 170 steps; 330 is in between
    toy(Short(length=170), checkpoint_every=300).learn(330, run=tmp_path, progress=False)
    assert (counters(tmp_path).env_step, counters(tmp_path).checkpoints) == (330, 2)


def test_actions_are_stored_where_they_were_chosen(tmp_path: Path):
    keep = Keep()
    toy(Short()).learn(600, run=tmp_path, callbacks=[keep], progress=False)
    (found,) = all_transitions(keep.training.replay)
    assert (found["action"][found["is_last"]] == 0).all()
    assert (found["action"][~found["is_last"]] != 0).all()
    assert found["is_first"][:8].tolist() == [True, False, False, False] * 2
    assert (found["is_terminal"] == found["is_last"]).all()
    assert (found["reward"] == np.where(found["is_first"], 0, 1)).all()


def test_episodes_of_one_step_are_learned_from(tmp_path: Path):
    keep = Keep()
    toy(Short(length=1)).learn(800, run=tmp_path, callbacks=[keep], progress=False)
    assert keep.training.counters.updates > 0
    assert keep.training.returns[-1][1] == 1.0


def test_a_loaded_agent_keeps_its_settings_in_a_named_environment(tmp_path: Path):
    toy(batch_size=3).save(tmp_path / "saved")
    agent = TOY.load(tmp_path / "saved", device="cpu")
    agent.learn(400, PENDULUM, run=tmp_path / "run", progress=False)
    assert agent.config.batch_size == 3
    with pytest.raises(RunError, match=r"other spaces than this agent was made for: the observ"):
        agent.learn(400, "gym:CartPole-v1", run=tmp_path / "other")


@pytest.mark.slow
def test_a_function_that_makes_environments_has_evaluation_and_several(tmp_path: Path):
    agent = toy(lambda: Short(length=20), envs=2, eval_every=200)
    agent.learn(600, run=tmp_path, progress=False)
    means = [
        line["eval/mean_reward"] for line in read_metrics(tmp_path) if "eval/mean_reward" in line
    ]
    assert means == [20.0, 20.0, 20.0]
    assert agent.evaluate(episodes=2).mean == 20.0
    assert min(counters(tmp_path).transitions) > 200


def test_stop_on_return_ends_the_run_with_a_checkpoint(tmp_path: Path):
    agent = toy(eval_every=200)
    agent.learn(10**6, run=tmp_path, callbacks=[StopOnReturn(-1e9)], progress=False)
    assert 200 <= counters(tmp_path).env_step < 1_000
    assert any("eval/mean_reward" in line for line in read_metrics(tmp_path))


def test_callbacks_hear_of_every_event(tmp_path: Path):
    heard: dict[str, int] = {}

    class Count(Callback):
        def on_start(self, training: Training) -> None:
            self.count("start")

        def on_step(self, training: Training) -> None:
            self.count("step")

        def on_episode(self, training: Training, episode: object) -> None:
            self.count("episode")

        def on_update(self, training: Training, metrics: object) -> None:
            self.count("update")

        def on_checkpoint(self, training: Training, path: Path) -> None:
            self.count("checkpoint")

        def on_end(self, training: Training) -> None:
            self.count("end")

        def count(self, name: str) -> None:
            heard[name] = heard.get(name, 0) + 1

    toy(checkpoint_every=400).learn(1_000, run=tmp_path, callbacks=[Count()], progress=False)
    # 5 episodes of 200 steps and their 5 first observations; checkpoints at 0, 400, 800 and the end
    assert heard == {
        "start": 1, "step": 1_005, "episode": 5, "update": 14, "checkpoint": 4, "end": 1
    }  # fmt: skip


def test_a_run_leaves_a_curve(tmp_path: Path):
    toy().learn(600, run=tmp_path, progress=False)
    assert (tmp_path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_drawn_costs_no_run(tmp_path: Path, monkeypatch, capsys):
    def broken(*args: object, **options: object) -> None:
        raise ValueError("no such colour")

    monkeypatch.setattr("agentzoo.train.plots.learning_curve", broken)
    toy().learn(400, run=tmp_path, progress=False)
    assert "no picture of this step: ValueError: no such colour" in capsys.readouterr().err
    assert counters(tmp_path).env_step == 400


def test_pictures_can_be_left_out(tmp_path: Path):
    toy(report_every=0).learn(400, run=tmp_path, progress=False)
    assert not list(tmp_path.glob("*.png"))
    toy().learn(600, run=tmp_path, progress=False)  # it is no setting of the run's
    assert (tmp_path / "learning_curve.png").is_file()


class TestRefusals:
    def test_no_environment(self):
        with pytest.raises(RunError, match=r"no environment to learn in; give one"):
            TOY(preset="debug").learn(10)
        with pytest.raises(RunError, match=r"has no environment yet"):
            TOY(preset="debug").act(np.zeros(3))

    def test_unknown_preset_and_field_name_the_nearest(self):
        with pytest.raises(ConfigError, match=r"no preset 'debugg'; did you mean \"debug\""):
            TOY(PENDULUM, preset="debugg")
        with pytest.raises(ConfigError, match=r"no configuration field 'batchsize'.*batch_size"):
            TOY(PENDULUM, batchsize=3)

    def test_ill_typed_and_impossible_values(self):
        with pytest.raises(ConfigError, match=r"batch_size='big' is a str, expected int"):
            TOY(PENDULUM, batch_size="big")
        with pytest.raises(ConfigError, match=r"repeat=0 has to be at least 1"):
            TOY(PENDULUM, repeat=0)
        with pytest.raises(ConfigError, match=r"precision='fp8' is not known"):
            TOY(PENDULUM, precision="fp8")

    def test_a_device_that_is_not_there(self):
        with pytest.raises(ProviderError, match=r"device='tpu' is no device"):
            TOY(PENDULUM, device="tpu")
        if not torch.cuda.is_available():
            with pytest.raises(ProviderError, match=r"torch sees no CUDA device"):
                TOY(PENDULUM, device="cuda")

    def test_a_reward_that_is_not_finite(self, tmp_path: Path):
        with pytest.raises(EpisodeError, match=r"reward"):
            toy(Short(reward=float("nan"))).learn(100, run=tmp_path, progress=False)

    def test_one_environment_object_cannot_be_several(self, tmp_path: Path):
        with pytest.raises(ConfigError, match=r"cannot be 2 environments"):
            toy(Short(), envs=2).learn(100, run=tmp_path, progress=False)

    def test_a_folder_that_holds_no_agent_or_another_one(self, tmp_path: Path):
        with pytest.raises(BundleError, match=r"holds no saved agent"):
            TOY.load(tmp_path)
        toy().save(tmp_path)
        with pytest.raises(BundleError, match=r"holds a TruncatedActor, not a BestOfMany"):
            TOYS["BestOfMany"].load(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        with pytest.raises(BundleError, match=r"has no model.safetensors"):
            TOY.load(tmp_path)


def test_an_episode_longer_than_replay_is_told_of_and_the_run_can_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"replay_rows": 1_024, "eval_every": 0, "final_episodes": 0, "checkpoint_every": 0}
    fields |= {"checkpoint_grace": 10_000, "update_every": 1_000}
    toy(lambda: Short(length=2_500), **fields).learn(2_600, run=tmp_path, progress=False)
    said = " ".join(capsys.readouterr().err.split())
    assert "longer than the 1,024 transitions that replay holds of an environment: 1 in" in said
    assert "set replay_rows higher, or envs lower" in said
    toy(lambda: Short(length=2_500), **fields).learn(2_700, run=tmp_path, progress=False)
    assert counters(tmp_path).env_step == 2_700
