"""Evaluations during a run: how many there are, what they cost, and the best policy they keep."""

import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from agentzoo.agent import Agent
from agentzoo.config import configure
from agentzoo.publish import FIRST_SEED
from agentzoo.runtime.bundle.agent_config import read_settings
from agentzoo.runtime.errors import BundleError, ConfigError
from agentzoo.train.callbacks import Callback, EvaluationPlan, evaluation_plan
from agentzoo.train.checkpoint import newest, read_tensors
from agentzoo.train.logger import read_metrics
from agentzoo.train.loop import Training
from agentzoo.train.plots import learning_curve
from tests.agents.test_preset_behaviour import CASES, SLOW
from tests.agents.toys import TOYS, ToyConfig
from tests.train.test_loop import Short, counters

TOY = TOYS["TruncatedActor"]


class TestPlan:
    @pytest.mark.parametrize(
        ("total", "limit", "expected"),
        [
            (50_000, 1_000, EvaluationPlan((25_000,), 5, 20)),
            (100_000, 1_000, EvaluationPlan((33_333, 66_666), 5, 20)),
            (30_000, 1_000, EvaluationPlan((15_000,), 3, 20)),  # a tenth holds three
            (5_000, 1_000, EvaluationPlan((), 0, 20)),  # or none
            (200_000, None, EvaluationPlan((100_000,), 2, 20)),  # an unknown limit is 10,000
        ],
    )
    def test_a_tenth_is_shared_out(self, total: int, limit: int | None, expected: EvaluationPlan):
        assert (
            evaluation_plan(ToyConfig(eval_every=None, final_episodes=20), total, limit) == expected
        )

    def test_what_is_named_is_taken(self):
        named = ToyConfig(eval_every=200, eval_episodes=3, final_episodes=20)
        assert evaluation_plan(named, 600, 1_000) == EvaluationPlan((200, 400), 3, 20)
        # without a final evaluation there is one at the end
        alone = ToyConfig(eval_every=200, eval_episodes=3)
        assert evaluation_plan(alone, 600, 1_000) == EvaluationPlan((200, 400, 600), 3, 0)
        assert evaluation_plan(ToyConfig(eval_every=0), 600, 1_000).steps == ()

    @pytest.mark.parametrize(
        "case", [*CASES, *SLOW], ids=lambda c: f"{c.agent.__name__}-{c.preset}"
    )
    def test_every_preset_stays_within_a_tenth_and_scores_its_final_policy(self, case):
        if case.preset.startswith("debug"):
            return
        config = configure(case.agent.config_class, case.agent.presets[case.preset])
        for limit in (40, 500, 1_000, 10_000, 108_000):
            plan = evaluation_plan(config, config.total_steps, limit)
            assert len(plan.steps) * plan.episodes * limit <= config.total_steps / 10
            assert len(plan.steps) <= 50
            assert plan.final == 20
        # and what is compared has five episodes at least, where a tenth holds them
        plan = evaluation_plan(config, config.total_steps, 1_000)
        assert config.eval_every == 0 or plan.episodes >= 5


class Scored(Short):
    """Pays `now` a step; episodes of 20 steps. Each object keeps the seeds of its episodes."""

    now: ClassVar[float] = 0.0
    made: ClassVar[list["Scored"]] = []

    def __init__(self) -> None:
        super().__init__(length=20)
        self.seeds: list[int | None] = []
        Scored.made.append(self)

    def reset(self, *, seed: int | None = None, options: dict[str, object] | None = None):
        self.seeds.append(seed)
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.reward = Scored.now
        return super().step(action)


class Script(Callback):
    """The environment's reward by the steps of the run; keeps weights where they are best."""

    def __init__(self, pays: dict[int, float]) -> None:
        self.pays = pays

    def on_step(self, training: Training) -> None:
        step = training.counters.env_step
        Scored.now = next((v for k, v in reversed(self.pays.items()) if step >= k), 0.0)


def learn(run: Path, total: int = 800, **fields: object) -> Agent:
    fields = {"eval_every": 200, "eval_episodes": 2, "final_episodes": 3, **fields}
    agent = TOY(Scored, preset="debug", device="cpu", seed=3, **fields)
    # told after Evaluate, so a change counts from the next step on: 150 for the one at 200
    script = Script({0: 1.0, 350: 5.0, 550: 2.0, 750: 3.0})
    return agent.learn(total, run=run, callbacks=[script], progress=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("best") / "run"
    Scored.made.clear()
    learn(folder)
    return folder


def test_the_best_weights_are_kept_beside_the_newest(run: Path):
    lines = [line for line in read_metrics(run) if "eval/mean_reward" in line]
    assert [line["eval/mean_reward"] for line in lines] == [20.0, 100.0, 40.0, 60.0]
    assert [line["eval/episodes"] for line in lines] == [2, 2, 2, 3]
    assert [line["eval/is_best"] for line in lines] == [1, 1, 0, 0]
    found = counters(run)
    assert (found.best_return, found.best_step) == (100.0, lines[1]["env_step"])
    assert found.evaluations == 4
    best, last = (TOY.load(run, which=which, device="cpu") for which in ("best", "newest"))
    assert (best.env_steps, last.env_steps) == (found.best_step, found.env_step)
    weights = [
        read_tensors(newest(run / name) / "model.safetensors") for name in ("best", "checkpoints")
    ]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    for agent, kept in zip((best, last), weights, strict=True):
        state = agent.algorithm.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in kept.items())
    assert len(list((run / "best").iterdir())) == 1


def test_seeds_that_choose_are_none_of_a_published_score(run: Path):
    # one shows its spaces, one is learned in, one is evaluated in: 2 + 2 + 2 + 3 episodes
    evaluated = next(env.seeds for env in Scored.made if len(env.seeds) == 9)
    assert min(evaluated) >= 2**30 > FIRST_SEED + 1_000
    assert [evaluated[i + 1] - evaluated[i] for i in (0, 2, 4, 6, 7)] == [1] * 5
    assert len(set(evaluated)) == 9


def test_which_policy_was_taken_is_said_and_recorded(run: Path, tmp_path: Path, capsys):
    TOY.load(run, which="best", device="cpu").export(tmp_path / "best", golden_steps=5)
    assert "exporting the best policy of" in capsys.readouterr().out
    TOY.load(run, device="cpu").export(tmp_path / "newest", golden_steps=5)
    said = capsys.readouterr().out
    step = counters(run).best_step
    assert "exporting the newest policy of" in said
    assert f"the best by evaluation is that of step {step:,} (mean 100.0)" in said
    assert [read_settings(tmp_path / name).took for name in ("best", "newest")] == [
        "best",
        "newest",
    ]
    loaded = TOY.load(tmp_path / "best", device="cpu")
    assert (loaded.origin, loaded.env_steps) == ("", step)


def test_learning_goes_on_from_the_newest(run: Path, tmp_path: Path):
    before = counters(run)
    learn(run, 1_000)
    after = counters(run)
    assert after.env_step >= 1_000 > before.env_step
    assert after.best_return == before.best_return  # 5 a step was paid once


def test_a_run_that_is_resumed_keeps_the_same_best(tmp_path: Path):
    class Fail(Callback):
        def on_step(self, training: Training) -> None:
            if training.counters.env_step >= 500:
                raise RuntimeError("no reason")

    agent = TOY(Scored, preset="debug", device="cpu", seed=3, eval_every=200, checkpoint_every=300)
    script = Script({0: 1.0, 350: 5.0, 550: 2.0})
    with pytest.raises(RuntimeError, match="no reason"):
        agent.learn(800, run=tmp_path, callbacks=[script, Fail()], progress=False)
    again = TOY(Scored, preset="debug", device="cpu", seed=3, eval_every=200, checkpoint_every=300)
    again.learn(800, run=tmp_path, callbacks=[script], progress=False)
    assert counters(tmp_path).best_return == 100.0
    assert TOY.load(tmp_path, which="best", device="cpu").env_steps == counters(tmp_path).best_step
    assert len(list((tmp_path / "best").iterdir())) == 1


class Stopped(Scored):
    """Ends the run at the third episode that is played once its steps are spent."""

    training: ClassVar[Training | None] = None
    played: ClassVar[int] = 0

    def reset(self, *, seed: int | None = None, options: dict[str, object] | None = None):
        if Stopped.training is not None:
            Stopped.played += 1
            Stopped.training.stop = Stopped.played == 3
        return super().reset(seed=seed, options=options)


class Tell(Callback):
    def on_step(self, training: Training) -> None:
        if training.counters.env_step >= 100:
            Stopped.training = training


def test_a_stop_during_the_final_evaluation_ends_it_after_the_episode(tmp_path: Path):
    agent = TOY(Stopped, preset="debug", device="cpu", seed=3, eval_every=0, final_episodes=10**6)
    agent.learn(100, run=tmp_path, callbacks=[Tell()], progress=False)
    found = counters(tmp_path)
    assert Stopped.played == 3
    assert (found.interrupted, found.evaluations, found.best_return) == (False, 0, None)
    assert not any("eval/mean_reward" in line for line in read_metrics(tmp_path))


def test_a_final_evaluation_that_was_stopped_is_made_when_the_run_goes_on(tmp_path: Path):
    fields = {"preset": "debug", "device": "cpu", "seed": 3, "eval_every": 0, "final_episodes": 5}
    Stopped.training, Stopped.played = None, 0
    TOY(Stopped, **fields).learn(100, run=tmp_path, callbacks=[Tell()], progress=False)
    assert counters(tmp_path).final_due
    Stopped.training = None
    TOY(Stopped, **fields).learn(100, run=tmp_path, progress=False)
    found = counters(tmp_path)
    assert (found.final_due, found.evaluations, found.env_step) == (False, 1, 100)
    line = next(line for line in read_metrics(tmp_path) if "eval/mean_reward" in line)
    assert line["eval/episodes"] == 5
    assert newest(tmp_path / "best") is not None
    TOY(Stopped, **fields).learn(100, run=tmp_path, progress=False)
    assert counters(tmp_path).evaluations == 1  # now it is finished


class StopAtTheEnd(Callback):
    def on_step(self, training: Training) -> None:
        training.stop = training.counters.env_step >= 100


def test_a_callback_that_stops_at_the_last_step_leaves_the_final_evaluation(tmp_path: Path):
    fields = {"preset": "debug", "device": "cpu", "seed": 3, "eval_every": 0, "final_episodes": 2}
    TOY(Scored, **fields).learn(100, run=tmp_path, callbacks=[StopAtTheEnd()], progress=False)
    assert counters(tmp_path).evaluations == 1


def test_the_best_of_a_killed_sitting_gives_way(tmp_path: Path):
    class Fail(Callback):
        def on_step(self, training: Training) -> None:
            if training.counters.env_step >= 500:
                raise RuntimeError("no reason")

    fields = {"preset": "debug", "device": "cpu", "seed": 3, "eval_every": 50}
    fields |= {"checkpoint_every": 300, "eval_episodes": 1, "final_episodes": 1}
    rising = Script({0: 1.0, 320: 5.0})
    with pytest.raises(RuntimeError, match="no reason"):
        TOY(Scored, **fields).learn(800, run=tmp_path, callbacks=[rising, Fail()], progress=False)
    known = counters(tmp_path)
    kept = sorted(int(one.name) for one in (tmp_path / "best").iterdir())
    assert kept[-1] > known.evaluations >= kept[0], "both sides of the checkpoint are kept"
    # other evaluations than before: the run pays less, and the old best is no policy of it
    TOY(Scored, **fields | {"eval_every": 400}).learn(
        800, run=tmp_path, callbacks=[Script({0: 1.0})], progress=False
    )
    found, best = counters(tmp_path), TOY.load(tmp_path, which="best", device="cpu")
    assert found.best_return == 20.0
    assert best.env_steps == found.best_step
    assert len(list((tmp_path / "best").iterdir())) == 1


def test_only_an_evaluated_run_has_a_best_policy(tmp_path: Path):
    agent = TOY("gym:Pendulum-v1", preset="debug", device="cpu", seed=3)
    agent.learn(200, run=tmp_path / "run", progress=False)
    with pytest.raises(BundleError, match="nothing was evaluated in that run yet"):
        TOY.load(tmp_path / "run", which="best")
    agent.save(tmp_path / "saved")
    with pytest.raises(BundleError, match="it is no run's folder"):
        TOY.load(tmp_path / "saved", which="best")
    with pytest.raises(ConfigError, match="which='last' is not known"):
        TOY.load(tmp_path / "run", which="last")


def test_the_curve_marks_the_best(run: Path, tmp_path: Path):
    marked = learning_curve(run, tmp_path / "marked.png").read_bytes()
    plain = tmp_path / "plain"
    plain.mkdir()
    lines = [{k: v for k, v in line.items() if k != "eval/is_best"} for line in read_metrics(run)]
    (plain / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert learning_curve(plain, tmp_path / "plain.png").read_bytes() != marked
