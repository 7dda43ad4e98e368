"""Arguments passed by mistake, or by another library's habit: taken, or a sentence."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from agentzoo import DreamerV3
from agentzoo.agent import Agent
from agentzoo.hub import locate
from agentzoo.runtime import inspect, load_policy, verify
from agentzoo.runtime.envs import Adapter
from agentzoo.runtime.errors import ConfigError, ProviderError, SpaceError
from agentzoo.runtime.evaluation.results import write_results
from agentzoo.runtime.evaluation.rollout import evaluate, random_policy
from agentzoo.runtime.files import at_home
from agentzoo.train.callbacks import Callback, StopOnReturn
from agentzoo.train.logger import read_metrics
from agentzoo.train.loop import Training
from agentzoo.train.plots import learning_curve
from agentzoo.train.progress import ProgressBar
from tests.agents.contract import PENDULUM
from tests.agents.toys import TOYS
from tests.train.test_loop import Short, counters

TOY = TOYS["TruncatedActor"]


def toy(env: Any = PENDULUM, **fields: Any) -> Agent:
    return TOY(env, **{"preset": "debug", "device": "cpu", "seed": 3, **fields})


def of_stable_baselines() -> object:
    return pytest.importorskip("stable_baselines3.common.vec_env").DummyVecEnv([Short])


def of_old_gym() -> object:
    kind = type("Env", (), {"__module__": "gym.core"})
    return type("Old", (kind,), {})()


NO_ENVIRONMENTS = [
    pytest.param(of_stable_baselines, "a DummyVecEnv was given .*makes one environment", id="sb3"),
    pytest.param(of_old_gym, r"a Old was given .*shimmy.GymV21CompatibilityV0", id="old"),
    pytest.param(lambda: gym.spec("CartPole-v1"), r'pass the string "gym:CartPole-v1"', id="spec"),
    pytest.param(lambda: {"env": "x"}, "a dict was given as environment, expected", id="dict"),
    pytest.param(lambda: [Short, Short], "a list was given .*pass one function", id="list"),
    pytest.param(lambda: Path("x"), "PosixPath was given as environment", id="path"),
]


@pytest.mark.parametrize(("make", "said"), NO_ENVIRONMENTS)
def test_what_is_no_environment_is_named(make: Callable[[], Any], said: str):
    with pytest.raises(ConfigError, match=said):
        toy(make())
    with pytest.raises(ConfigError, match=said):
        toy().learn(make())
    with pytest.raises(ConfigError, match=said):
        Adapter.open(make())
    with pytest.raises(ConfigError, match=said):
        evaluate(random_policy(Short()), make(), episodes=1)


def test_functions_that_make_none_or_stand_where_none_may():
    with pytest.raises(ConfigError, match="the function made a int as environment, expected"):
        toy(int)
    for count in (1, 2):
        with pytest.raises(ConfigError, match="the function made a int as environment, expected"):
            Adapter.open(int, count)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="was given a function as environment; give it the env"):
        evaluate(random_policy(Short()), Short, episodes=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [np.int64(3), np.uint32(3), np.arange(5)[3]])
def test_seeds_of_numpy_are_taken(seed: Any, tmp_path: Path):
    agent = toy(seed=seed).learn(60, run=tmp_path, progress=False)
    assert (agent.seed, type(agent.seed)) == (3, int)
    toy(seed=3).learn(80, run=tmp_path, progress=False)


@pytest.mark.parametrize("seed", [1.5, "1", [1]])
def test_other_seeds_are_refused(seed: Any):
    with pytest.raises(ConfigError, match=r"seed=.* is a (float|str|list), expected a whole numb"):
        toy(seed=seed)


@pytest.mark.parametrize("steps", [float("nan"), float("inf"), 0, -5, 0.4, np.float64("nan")])
def test_steps_are_at_least_one_and_finite(steps: float, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"expected a finite number of at least 1"):
        toy().learn(steps, run=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("mps", "device='mps' was asked for, but torch sees no Apple GPU"),
        ("xpu", "device='xpu' is none that agents learn on"),
        ("meta", "device='meta' is none that agents learn on"),
        (None, 'device=None is no device; use "auto", "cpu", "cuda", "cuda:N" or "mps"'),
        ("cuda:99", "torch sees"),
    ],
)
def test_devices_are_those_that_agents_learn_on(device: Any, said: str):
    with pytest.raises(ProviderError, match=said):
        toy(device=device)


class Count(Callback):
    steps = 0

    def on_step(self, training: Training) -> None:
        Count.steps += 1


def test_one_callback_needs_no_list_and_other_things_are_none(tmp_path: Path):
    toy().learn(60, run=tmp_path, callbacks=Count(), progress=False)
    assert Count.steps > 0
    for given in (Count, 7, None):
        with pytest.raises(ConfigError, match=r"callbacks holds .*, expected functions that are"):
            toy().learn(80, run=tmp_path, callbacks=[given], progress=False)  # type: ignore[list-item]
        with pytest.raises(ConfigError, match=r"or objects of classes derived from"):
            toy().learn(80, run=tmp_path, callbacks=given, progress=False)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"cannot be called with one line of the log, a dict"):
        toy().learn(80, run=tmp_path, callbacks=lambda a, b: None, progress=False)  # type: ignore[arg-type]


def test_a_function_is_told_each_line_of_the_log(tmp_path: Path):
    lines: list[dict[str, float]] = []
    toy(eval_every=300, log_every=200).learn(
        600, run=tmp_path, callbacks=lines.append, progress=False
    )
    written = read_metrics(tmp_path)
    assert [{k: v for k, v in line.items() if k != "time/wall_s"} for line in written] == lines
    assert any("eval/mean_reward" in line for line in lines)


def test_a_return_that_is_never_evaluated_stops_no_run(tmp_path: Path):
    for agent in (toy(Short()), toy(eval_every=0)):
        with pytest.raises(ConfigError, match=r"StopOnReturn waits for evaluations, and this run"):
            agent.learn(60, run=tmp_path / "run", callbacks=StopOnReturn(1), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_tilde_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    toy().learn(60, run="~/run", progress=False).save("~/saved")
    assert counters(tmp_path / "run").env_step == 60
    agent = TOY.load("~/saved", device="cpu")
    assert agent.env_steps == 60
    agent.export("~/policy", golden_steps=3)
    policy = load_policy("~/policy", provider="cpu")
    assert verify("~/policy").steps == 3
    assert "Pendulum" in inspect("~/policy")
    found = evaluate(policy, gym.make("Pendulum-v1", max_episode_steps=5), episodes=1)
    assert write_results(found, Path("~/found.json")) == tmp_path / "found.json"
    assert learning_curve("~/run", "~/curve.png") == tmp_path / "curve.png"
    assert locate("~/policy") == tmp_path / "policy"
    assert at_home("~nobody-is-called-so/x") == Path("~nobody-is-called-so/x")
    assert not Path("~").exists()


@pytest.mark.parametrize(
    ("fields", "env", "said"),
    [
        ({"repeat": 4}, Short(), r"repeat=4 has no effect on an environment object .*Repeat\(env"),
        ({"repeat": 4}, Short, r"repeat=4 has no effect"),
        ({"render": "fast"}, Short, r"render='fast' has no effect"),
        ({"repeat": 4}, f"{PENDULUM}?repeat=2", r'repeat=4 has no effect on "gym:Pendulum'),
        ({"render": "fast"}, PENDULUM, r"render='fast' has no effect on .*no such key"),
    ],
    ids=["object", "function", "render", "string", "suite"],
)
def test_settings_without_effect_are_refused(fields: dict[str, Any], env: Any, said: str):
    with pytest.raises(ConfigError, match=said):
        toy(env, **fields)
    toy(Short(), repeat=1)
    assert "repeat=2" in toy(repeat=2).env


class Named(Short):
    observation_space = gym.spaces.Dict({"deter": gym.spaces.Box(-1, 1, (2,))})


def test_an_observation_called_like_a_stored_column():
    with pytest.raises(SpaceError, match=r'"deter" is the name of a column that DreamerV3 stores'):
        DreamerV3(Named(), preset="debug", device="cpu")


def test_another_default_dtype_is_refused():
    agent = toy()
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ConfigError, match=r"default dtype is torch.float64, .*set_default_dt"):
            toy()
        with pytest.raises(ConfigError, match=r"agents learn in float32"):
            agent.learn(60)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_program_without_a_console_learns(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    bar = ProgressBar(10)
    bar.note("a note")
    bar.warn("a warning")
    bar.update(5)
    bar.close()
    assert capsys.readouterr().out == ""


def test_a_quickstart_without_torch_says_what_to_install(tmp_path: Path):
    code = (
        "import sys, importlib.util as util\n"
        "found = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name == 'torch' else found(name, *a)\n"
        "sys.modules['torch'] = None\n"
        "from agentzoo.cli.main import main\n"
        f"main(['quickstart', '--out', {str(tmp_path / 'demo')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert 'needs the package "torch"' in done.stderr
    assert 'pip install "agentzoo-rl[train,onnx,video,dmc]"' in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "demo").exists()
