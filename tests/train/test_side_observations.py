"""Side observations, values for what is being stored, and worlds that are lost while learning."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest

from agentzoo.agent import Agent
from agentzoo.algorithm import Carry, DelayedValue, Transitions
from agentzoo.replay.buffer import ReplayBuffer
from agentzoo.runtime.envs import Adapter
from agentzoo.runtime.envs.subprocess_env import ProcessVectorEnv
from agentzoo.runtime.errors import ConfigError, ObservationError, WorkerError
from agentzoo.runtime.spec import ActionSpec, ColumnSpec, ObsSpec
from agentzoo.train.callbacks import Callback
from agentzoo.train.loop import Training
from tests.agents.contract import Keep, all_transitions
from tests.agents.toys import Toy, agent
from tests.unit_runtime.envs.fake_envs import Breaking, Countdown, Doomed, Mortal, Watched


class SeeingAlgorithm(Toy):
    """Stores what it saw beside its observations, at once and a step later."""

    columns: ClassVar[Mapping[str, ColumnSpec]] = {
        "seen": ColumnSpec(mutable=True), "before": ColumnSpec(mutable=True),
    }  # fmt: skip

    def annotate(
        self, transitions: Transitions, envs: Sequence[int], carry: Carry, state: object
    ) -> tuple[Transitions, Sequence[DelayedValue], object]:
        late = []
        for env, twice, first in zip(
            envs, transitions["twice"][:, 0], transitions["is_first"], strict=True
        ):
            late.append(DelayedValue(env, 0, {"seen": np.float32(twice)}))
            if not first:
                late.append(DelayedValue(env, 1, {"before": np.float32(twice)}))
        empty = np.broadcast_to(np.float32(-1), len(envs))  # read-only, as arrays may be
        return {**transitions, "seen": empty, "before": empty}, late, None


SEEING = agent("Seeing", SeeingAlgorithm)


def learn(
    env: object, run: Path, steps: int, *callbacks: Callback, **fields: object
) -> tuple[Agent, Keep]:
    keep = Keep()
    learner = SEEING(env, preset="debug", device="cpu", seed=3, **fields)
    learner.learn(steps, run=run, callbacks=[keep, *callbacks], progress=False)
    return learner, keep


@pytest.mark.parametrize("parallel", [False, True])
def test_annotate_sees_what_neither_replay_nor_policy_gets(tmp_path: Path, parallel: bool) -> None:
    # more than a chunk of 1,024 transitions, so that values are late for the first of one too
    steps = 1_100 * (1 + parallel)
    learner, keep = learn(Watched, tmp_path, steps, envs=1 + parallel, parallel=parallel)
    replay = keep.training.replay
    assert list(learner.spec.obs) == ["observation"]
    assert "twice" not in (replay.dtype.names or ())
    for found in all_transitions(replay):
        count = found["observation"][:, 1]
        np.testing.assert_array_equal(found["seen"], 2 * count)
        np.testing.assert_array_equal(
            found["before"], np.where(found["is_last"], -1, 2 * (count + 1))
        )
    assert len(all_transitions(replay)[0]["seen"]) > 1_024
    assert learner.evaluate(Watched(), episodes=1).lengths == (25,)


def test_side_observations_are_checked_like_observations() -> None:
    class Doubled(Watched):
        observation_space = gym.spaces.Dict({"twice": Countdown.observation_space})

    with pytest.raises(ConfigError, match='gives "twice" as an observation and as a side'):
        Adapter.open(Doubled)

    class Forgetful(Watched):
        def look(self) -> dict[str, np.ndarray]:
            return {}

    adapter = Adapter.open(Forgetful)
    assert adapter.side == {"twice": ObsSpec(kind="vector", shape=(1,), source=(1,))}
    with pytest.raises(ObservationError, match="add twice and leave out none"):
        adapter.reset([0], [0])


# -- worlds that are lost ------------------------------------------------------------------------


class Douse(Callback):
    """Has the world lost at a count of its episode, once."""

    def __init__(self, file: Path, count: int, step: int) -> None:
        self.file, self.count, self.step, self.warned = file, count, step, ""

    def on_step(self, training: Training) -> None:
        if training.counters.env_step == self.step:
            written = self.file.with_name("written")
            written.write_text(str(self.count))
            written.rename(self.file)  # environments in processes see it whole


@pytest.mark.parametrize(("count", "parallel"), [(1, False), (7, True), (25, False)])
def test_a_lost_world_ends_its_episode_at_the_last_stored_transition(
    tmp_path: Path, parallel: bool, count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "count"
    douse = Douse(file, count, 460)
    _, keep = learn(
        partial(Watched, str(file)), tmp_path / "run", 1_000, douse,
        envs=1 + parallel, parallel=parallel, checkpoint_every=300,
    )  # fmt: skip
    assert not file.exists(), "the world was lost"
    said = capfd.readouterr().err
    assert said.count("was lost, the next begins: the lights went out") == 1
    short = 0
    for found in all_transitions(keep.training.replay):
        step, last = found["observation"][:, 1], found["is_last"]
        assert (found["is_first"][1:] == last[:-1]).all()
        assert (np.diff(step)[~last[:-1]] == 1).all(), "no transition was made up"
        assert (found["action"][last] == 0).all()
        assert len(set(found["observation"][found["is_first"], 0])) == found["is_first"].sum()
        assert (found["is_terminal"] == (step == 25)).all(), "a lost world is no termination"
        short += int((last & (step == count - 1)).sum())
    assert short >= 1
    counters, stored = keep.training.counters, all_transitions(keep.training.replay)
    assert counters.transitions == [len(found["reward"]) for found in stored]
    assert counters.env_step == sum(int((~found["is_first"]).sum()) for found in stored)
    assert counters.episodes == sum(int(found["is_last"].sum()) for found in stored)
    assert keep.training.replay.episodes == counters.episodes


def test_the_end_of_an_episode_may_lie_in_a_sealed_chunk_that_a_checkpoint_holds(
    tmp_path: Path,
) -> None:
    obs = {"x": ObsSpec(kind="vector", shape=(1,), source=(1,))}
    action = ActionSpec(kind="discrete", size=2, shape=(), dtype="int64", nvec=(2,), start=(0,))
    replay = ReplayBuffer(tmp_path / "a", obs, action, capacity=64, chunk_size=8)
    for i in range(8):
        step = {"x": np.array([i]), "action": np.ones(2), "reward": 0.0}
        flags = {"is_first": i == 0, "is_last": False, "is_terminal": False}
        replay.add(0, {name: np.asarray(value) for name, value in {**step, **flags}.items()})
    replay.save(tmp_path / "b")
    replay.end(0)
    other = ReplayBuffer(tmp_path / "c", obs, action, capacity=64, chunk_size=8)
    other.restore(tmp_path / "b")
    ours, saved = (one.streams[0].chunks[0].all_records for one in (replay, other))
    assert ours["is_last"].tolist() == [False] * 7 + [True]
    assert ours["action"].sum(1).tolist() == [2.0] * 7 + [0.0]
    assert not saved["is_last"].any()
    assert (replay.episodes, other.episodes) == (1, 0)


# -- worlds that die with their process ----------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "exit", "hang", "stop"])
def test_a_process_that_dies_is_replaced_where_that_was_asked_for(how: str) -> None:
    source = ProcessVectorEnv(partial(Breaking, how), 2, restarts=True)
    adapter = Adapter(source)
    adapter.reset([0, 1], [0, 1])
    adapter.step([0, 1], [0, 0])
    source.timeout = 3.0
    adapter.send([0, 1], [0, 0])
    envs, found = adapter.receive()
    assert envs == [0]
    assert found["observation"].tolist() == [[0, 2]]
    ((index, why),) = adapter.lost.items()
    assert index == 1
    assert "while it was being stepped" in why
    adapter.send([0], [0], [1], [2])
    envs, found = adapter.receive()
    assert (envs, adapter.lost) == ([0, 1], {})
    assert found["observation"].tolist() == [[0, 3], [2, 0]]
    adapter.close()


def test_a_reset_that_dies_is_done_again(tmp_path: Path) -> None:
    file = tmp_path / "dies once"
    file.touch()
    source = ProcessVectorEnv(partial(Mortal, str(file)), 1, restarts=True)
    adapter = Adapter(source)
    for seed in range(19):
        adapter.reset([0], [seed])
    assert adapter.reset([0], [77])["observation"].tolist() == [[77, 0]]
    assert "was killed by SIGKILL while it was being reset" in adapter.lost[0]
    adapter.close()


def test_three_deaths_in_a_row_end_the_run() -> None:
    adapter = Adapter(ProcessVectorEnv(Doomed, 1, restarts=True))
    with pytest.raises(WorkerError, match=r"exit status 4 .* for the 3\. time in a row"):
        adapter.reset([0], [1])
