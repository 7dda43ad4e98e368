"""Learning on from a policy that can act: from a run, from a saved one, in another task."""

import hashlib
import json
from functools import partial
from pathlib import Path

import gymnasium as gym
import pytest
import torch

from agentzoo import Dreamer, PlaNet
from agentzoo.agent import Agent
from agentzoo.environment import EnvLike
from agentzoo.runtime.errors import ConfigError, RunError
from agentzoo.train.checkpoint import Counters, newest
from agentzoo.train.parent import WARMUP
from tests.agents.contract import Keep, all_transitions
from tests.agents.toys import TOYS
from tests.train.test_loop import counters

TOY = TOYS["TruncatedActor"]
PENDULUM, SLOWER = "gym:Pendulum-v1", "gym:Pendulum-v1?max_episode_steps=100"


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def parent_of(run: Path) -> dict[str, object]:
    return json.loads((run / "config.json").read_text())["parent"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("first") / "run"
    TOY(PENDULUM, preset="debug", device="cpu", seed=3).learn(800, run=run, progress=False)
    return run


class First(Keep):
    """Keeps the weights and the replay that a run begins with."""

    def on_start(self, training) -> None:
        super().on_start(training)
        self.held = len(training.replay)
        state = training.learner.algorithm.state_dict()
        self.weights = {name: tensor.clone() for name, tensor in state.items()}
        self.optimizer = training.learner.algorithm.optimizer.state_dict()


def go_on(agent: Agent, run: Path, steps: int = 600, env: EnvLike | None = None) -> First:
    keep = First()
    agent.learn(steps, env, run=run, callbacks=[keep], progress=False)
    return keep


def test_a_loaded_run_continues_with_its_optimiser_and_its_replay(first: Path, tmp_path: Path):
    last = newest(first / "checkpoints")
    agent = TOY.load(first, device="cpu")
    before = {name: tensor.clone() for name, tensor in agent.algorithm.state_dict().items()}
    keep = go_on(agent, tmp_path / "run")
    assert all(torch.equal(before[name], tensor) for name, tensor in keep.weights.items())
    assert keep.optimizer["step"] == counters(first).updates
    assert keep.held == sum(counters(first).transitions)
    assert parent_of(tmp_path / "run") == {
        "sha256": sha256(last), "env": agent.env, "env_steps": 800,
        "has_optimizer": True, "has_replay": True, "parts": [],
    }  # fmt: skip
    # updates from the first burst on, none of them at once
    assert counters(tmp_path / "run").updates == 2 * (600 // 100)
    assert (agent.env_steps, counters(tmp_path / "run").env_step) == (1_400, 600)
    assert TOY.load(tmp_path / "run", device="cpu").env_steps == 1_400
    assert counters(first).env_step == 800


def test_no_action_is_random_and_no_episode_is_played_twice(first: Path, tmp_path: Path):
    agent = TOY.load(first, device="cpu")
    keep = go_on(agent, tmp_path / "run", 200)
    assert agent.seed != 3
    (old,) = all_transitions(keep.training.replay)
    starts = old["observation"][old["is_first"]]
    assert len({tuple(one) for one in starts.tolist()}) == len(starts)
    assert keep.training.collector.prefill == 0


def test_a_saved_policy_starts_afresh_but_for_its_weights_and_warms_up(first: Path, tmp_path: Path):
    TOY.load(first, device="cpu").save(tmp_path / "saved")
    agent = TOY.load(tmp_path / "saved", device="cpu")
    keep = go_on(agent, tmp_path / "run")
    assert (keep.held, float(keep.optimizer["step"])) == (0, 0.0)
    parent = parent_of(tmp_path / "run")
    assert (parent["has_optimizer"], parent["has_replay"]) == (False, False)
    assert parent["sha256"] == sha256(tmp_path / "saved")
    assert keep.training.collector.prefill == 0
    # the first 400 steps are collected by the policy before anything is learned
    assert counters(tmp_path / "run").updates == 2 + 2 * (200 // 100)
    assert agent.algorithm.optimizer.warmup == WARMUP
    # and a run that is resumed warms up still
    again = TOY(PENDULUM, preset="debug", device="cpu")
    again.learn(800, run=tmp_path / "run", progress=False)
    assert again.algorithm.optimizer.warmup == WARMUP
    assert again.env_steps == 1_600


def test_a_warm_up_of_the_agent_s_own_is_not_cut_short(tmp_path: Path):
    Dreamer(PENDULUM, preset="debug", device="cpu", seed=3, warmup=500).save(tmp_path / "saved")
    agent = Dreamer.load(tmp_path / "saved", device="cpu")
    agent.learn(600, run=tmp_path / "run", progress=False)
    found = {name: one.warmup for name, one in agent.algorithm.optimizers().items()}
    assert found == {"model": WARMUP, "actor": 500, "value": 500}


def test_another_task_is_another_run_without_the_replay_of_the_first(first: Path, tmp_path: Path):
    agent = TOY.load(first, device="cpu")
    keep = go_on(agent, tmp_path / "other", env=SLOWER)
    assert keep.held == 0
    assert keep.optimizer["step"] == counters(first).updates
    parent = parent_of(tmp_path / "other")
    assert (parent["has_optimizer"], parent["has_replay"]) == (True, False)
    assert "max_episode_steps=100" not in str(parent["env"])
    assert "max_episode_steps=100" in agent.env == agent.spec.env


def test_the_same_agent_may_be_given_another_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    agent = TOY(PENDULUM, preset="debug", device="cpu", seed=3)
    agent.learn(600, progress=False)
    one = agent.run
    agent.learn(600, SLOWER, progress=False)
    two = agent.run
    assert one is not None
    assert two is not None
    assert one != two
    assert parent_of(two)["sha256"] == sha256(newest(one / "checkpoints"))
    assert agent.env_steps == 1_200
    found = Counters.read(newest(two / "checkpoints") / "training")
    assert found.env_step == 600


def test_a_function_is_another_task_than_a_string(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def slower() -> gym.Env:
        return gym.make("Pendulum-v1", max_episode_steps=100)

    agent = TOY(PENDULUM, preset="debug", device="cpu", seed=3)
    agent.learn(200, progress=False)
    one = agent.run
    keep = go_on(agent, tmp_path / "other", 200, slower)
    assert (agent.env, agent.spec.env) == ("", "")
    assert keep.training.counters.env_step == 200
    assert one is not None
    assert parent_of(tmp_path / "other")["sha256"] == sha256(newest(one / "checkpoints"))
    settings = json.loads((newest(tmp_path / "other/checkpoints") / "config.json").read_text())
    assert settings["env"] == settings["training"].get("env", "") == ""
    # the same function goes on, another one begins anew
    agent.learn(200, slower, progress=False)
    assert agent.run == tmp_path / "other"
    agent.learn(200, lambda: gym.make("Pendulum-v1"), progress=False)
    assert agent.run not in (one, tmp_path / "other")
    assert counters(one).env_step == 200


def test_a_run_from_a_policy_goes_on_by_the_same_lines(first: Path, tmp_path: Path):
    go_on(TOY.load(first, device="cpu"), tmp_path / "run", 200)
    begun = parent_of(tmp_path / "run")
    again = TOY.load(first, device="cpu")
    keep = go_on(again, tmp_path / "run", 400)
    assert parent_of(tmp_path / "run") == begun
    assert (counters(tmp_path / "run").env_step, keep.training.counters.env_step) == (400, 400)
    assert again.env_steps == 1_200


def test_a_loaded_policy_does_not_go_on_with_a_stranger_s_run(first: Path, tmp_path: Path):
    stranger = TOY(PENDULUM, preset="debug", device="cpu", seed=3)
    stranger.learn(200, run=tmp_path / "run", progress=False)
    agent = TOY.load(first, device="cpu")
    weights = {name: tensor.clone() for name, tensor in agent.algorithm.state_dict().items()}
    with pytest.raises(RunError, match=r"run did not begin with the policy .*agentzoo resume"):
        agent.learn(400, run=tmp_path / "run", progress=False)
    assert agent.run_dir == first
    assert all(torch.equal(weights[k], v) for k, v in agent.algorithm.state_dict().items())
    # a policy's own run is no stranger's, whichever of its policies it is
    TOY.load(first, device="cpu").learn(900, run=first, progress=False)
    assert counters(first).env_step == 900


def test_a_refused_run_leaves_the_agent_s_own(tmp_path: Path):
    one = TOY(PENDULUM, preset="debug", device="cpu", seed=3)
    one.learn(200, run=tmp_path / "one", progress=False)
    two = TOY(PENDULUM, preset="debug", device="cpu", seed=5)
    two.learn(200, run=tmp_path / "two", progress=False)
    with pytest.raises(RunError, match="seed was 5, is 3"):
        one.learn(400, run=tmp_path / "two", progress=False)
    assert (one.run, one.run_dir) == (tmp_path / "one", tmp_path / "one")


# -- parts of an agent ------------------------------------------------------------------------


PLANNER = partial(PlaNet, preset="debug", device="cpu", prefill=200)


@pytest.fixture(scope="module")
def planner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("planner") / "run"
    PLANNER(PENDULUM, seed=3).learn(400, run=run, progress=False)
    return run


def state(agent: Agent) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in agent.algorithm.state_dict().items()}


def changed(before: dict[str, torch.Tensor], agent: Agent) -> set[str]:
    after = agent.algorithm.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_planet_relearns_its_reward_on_kept_dynamics(planner: Path, tmp_path: Path):
    agent, run = PlaNet.load(planner, device="cpu"), tmp_path / "run"
    before = state(agent)
    agent.learn(400, SLOWER, parts=["reward"], run=run, progress=False)
    reward = {name for name in before if name.startswith("reward.")}
    learned = {n for n, p in agent.algorithm.named_parameters() if p.requires_grad}
    assert changed(before, agent) == reward == learned
    parent = parent_of(run)
    assert (parent["parts"], parent["has_optimizer"]) == (["reward"], False)
    assert counters(run).updates > 2
    # a resumed run keeps them as well, and says so where it is asked for others
    middle = state(agent)
    again = PLANNER(SLOWER)
    again.learn(600, run=run, progress=False)
    assert changed(middle, again) == reward
    with pytest.raises(RunError, match=r"reward learns, not decoder alone; .*agentzoo\.load"):
        again.learn(200, parts=["decoder"], progress=False)
    # and what learns on from there learns as a whole, with an optimiser of its own
    after = PlaNet.load(run, device="cpu")
    middle = state(after)
    after.learn(400, run=tmp_path / "whole", progress=False)
    assert {name.partition(".")[0] for name in changed(middle, after)} >= {"rssm", "decoder"}
    assert parent_of(tmp_path / "whole")["has_optimizer"] is False


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        (["actor"], r'PlaNet has no part "actor"; .* encoder, rssm, decoder, reward'),
        ("reward", r"parts='reward' is a text, expected a list: parts=\['reward'\]"),
    ],
)
def test_unknown_parts_are_refused(planner: Path, tmp_path: Path, parts: list[str], match: str):
    agent = PlaNet.load(planner, device="cpu")
    with pytest.raises(ConfigError, match=match):
        agent.learn(400, SLOWER, parts=parts, run=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_parts_are_of_a_policy_that_has_learned(first: Path, tmp_path: Path):
    with pytest.raises(RunError, match="learned nothing yet; load a policy that has"):
        PLANNER(PENDULUM).learn(400, parts=["reward"], run=tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match=r"a TruncatedActor learns as a whole; leave parts out"):
        TOY.load(first, device="cpu").learn(400, parts=["reward"], progress=False)
