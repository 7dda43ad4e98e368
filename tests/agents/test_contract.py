"""One contract for every agent: environment -> rows -> replay -> update -> checkpoint -> kill ->
resume -> export -> verify -> runtime."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from agentzoo.replay.buffer import ReplayBuffer
from agentzoo.runtime import evaluate, load_policy, verify
from agentzoo.runtime.envs import make_env
from agentzoo.train.callbacks import Callback
from agentzoo.train.checkpoint import Counters, newest
from agentzoo.train.logger import read_metrics
from agentzoo.train.loop import Training
from tests.agents.contract import CASES
from tests.agents.toys import TOYS

STEPS = 1200
KILL_AT = 1000  # after the checkpoint that is due at 800


class Keep(Callback):
    """Keeps the training object after the run."""

    training: Training

    def on_start(self, training: Training) -> None:
        self.training = training


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # bit for bit is promised on one CPU thread
    yield
    torch.set_num_threads(before)


def all_rows(replay: ReplayBuffer) -> list[dict[str, np.ndarray]]:
    """Every column of every stream, in order."""
    streams = []
    for stream in replay.streams:
        used = [min(replay.chunk_rows, stream.rows - i * replay.chunk_rows)
                for i in range(len(stream.chunks))]  # fmt: skip
        columns = {}
        for column in [*(replay.dtype.names or ()), *replay.mutable]:
            source = [c.mutable if column in replay.mutable else c.rows for c in stream.chunks]
            pieces = [s[column][:n] for s, n in zip(source, used, strict=True)]
            columns[column] = np.concatenate(pieces)
        streams.append(columns)
    return streams


def assert_same_run(a: Keep, b: Keep) -> None:
    """Transitions, weights, optimisers and counters, bit for bit."""
    for mine, theirs in zip(all_rows(a.training.replay), all_rows(b.training.replay), strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)
    weights = [t.training.learner.algorithm.state_dict() for t in (a, b)]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name
    for name, optimizer in a.training.learner.algorithm.optimizers().items():
        other = b.training.learner.algorithm.optimizers()[name].state_dict()
        assert all(torch.equal(t, other[k]) for k, t in optimizer.state_dict().items()), name
    assert a.training.counters == b.training.counters


# the toys are of use to who changes the contract; agents people train are in the fast tests
PARAMS = [pytest.param(n, marks=[pytest.mark.slow] if n in TOYS else []) for n in CASES]


@pytest.fixture(scope="module", params=PARAMS)
def learned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """An agent after an uninterrupted run, and what its run held."""
    name, keep = request.param, Keep()
    run = tmp_path_factory.mktemp(name) / "run"
    agent = CASES[name].make().learn(STEPS, run=run, callbacks=[keep], progress=False)
    return name, agent, keep, run


def test_learns_what_the_schedule_says(learned):
    _, _, keep, run = learned
    counters = keep.training.counters
    after_prefill = counters.episodes - counters.prefill_episodes
    assert counters.env_step >= STEPS
    assert counters.updates == keep.training.schedule.due(counters.env_step, after_prefill) > 0
    lines = read_metrics(run)
    logged = {name for line in lines for name in line}
    assert {"env_step", "time/fps", "time/updates", "replay/rows"} <= logged
    assert any(name.startswith("loss/") for name in logged)
    assert any("rollout/ep_rew_mean" in line for line in lines)
    assert all(np.isfinite(v) for line in lines for v in line.values())
    assert Counters.read(newest(run / "checkpoints") / "training") == counters


def test_killed_run_resumes_to_the_same_rows_and_weights(learned, tmp_path: Path):
    name, _, uninterrupted, _ = learned
    run = tmp_path / "run"
    command = [name, str(run), str(STEPS), str(KILL_AT)]
    process = subprocess.run(
        [sys.executable, "-m", "tests.agents.sigkill_worker", *command],
        capture_output=True,
        text=True,
    )
    assert process.returncode == -9, process.stderr
    checkpoint = Counters.read(newest(run / "checkpoints") / "training")
    assert 0 < checkpoint.env_step < KILL_AT
    keep = Keep()
    CASES[name].make().learn(STEPS, run=run, callbacks=[keep], progress=False)
    assert_same_run(uninterrupted, keep)


def test_acts_in_its_space_and_repeats_itself(learned):
    _, agent, _, _ = learned
    env = make_env(agent.env)
    obs, _ = env.reset(seed=1)
    one, other = agent.session(seed=5), agent.session(seed=5)
    for _ in range(5):
        action = one.act(obs)
        assert env.action_space.contains(action), action
        np.testing.assert_array_equal(action, other.act(obs))
        obs, *_ = env.step(action)
    env.close()


def test_saved_and_loaded_is_the_same_agent(learned, tmp_path: Path):
    name, agent, _, _ = learned
    loaded = CASES[name].agent.load(agent.save(tmp_path / "saved"), device="cpu")
    for key, tensor in agent.algorithm.state_dict().items():
        assert torch.equal(tensor, loaded.algorithm.state_dict()[key]), key
    assert loaded.config == agent.config
    assert loaded.spec == agent.spec


def test_exported_policy_acts_the_same(learned, tmp_path: Path):
    _, agent, _, _ = learned
    folder = agent.export(tmp_path / "bundle", golden_steps=20)
    assert verify(folder, provider="cpu").steps == 20
    policy = load_policy(folder, provider="cpu")
    assert policy.spec == agent.spec
    ours = agent.evaluate(episodes=2, seed=7)
    theirs = evaluate(policy, agent.env, episodes=2, seed=7)
    np.testing.assert_allclose(ours.returns, theirs.returns, rtol=1e-2, atol=1e-2)
    assert ours.lengths == theirs.lengths
