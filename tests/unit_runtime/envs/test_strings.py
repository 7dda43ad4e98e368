"""Reading, resolving and merging environment strings."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import gymnasium as gym
import pytest

from agentzoo.runtime.envs import (
    Key,
    Repeat,
    Suite,
    check_downloaded,
    make_env,
    merge,
    resolve,
    settings_of,
    suites,
)
from agentzoo.runtime.envs import (
    suite as registry,
)
from agentzoo.runtime.errors import EnvironmentStringError, MissingExtraError, pip_line

WALKER = "dmc:walker-walk?camera=0&obs=pixels&render=default&repeat=2&size=64"


@pytest.mark.parametrize(
    ("name", "defaults", "expected"),
    [
        (
            "dmc:walker-walk",
            {},
            "dmc:walker-walk?camera=0&obs=pixels&render=default&repeat=1&size=64",
        ),
        ("dmc:walker-walk", {"repeat": 2}, WALKER),
        ("dmc:walker-walk", {"repeat": 2, "render": None, "batch_size": 16}, WALKER),
        ("dmc:walker-walk?repeat=2", {"repeat": 4}, WALKER),
        ("dmc:walker-walk?size=64&repeat=2&obs=pixels", {}, WALKER),
        (
            "dmc:quadruped-run?render=fast&obs=both",
            {"render": "default"},
            "dmc:quadruped-run?camera=2&obs=both&render=fast&repeat=1&size=64",
        ),
        (
            "dmc:walker-walk?size=8",
            {"frames": 3},
            "dmc:walker-walk?camera=0&frames=3&obs=pixels&render=default&repeat=1&size=8",
        ),
        (
            "dmc:walker-walk?frames=1&size=8",
            {"frames": 3},
            "dmc:walker-walk?camera=0&frames=1&obs=pixels&render=default&repeat=1&size=8",
        ),
        ("dmc:walker-walk?obs=state", {"frames": 3}, "dmc:walker-walk?obs=state&repeat=1"),
        ("dmc:walker-walk?obs=state", {"render": "fast"}, "dmc:walker-walk?obs=state&repeat=1"),
        ("dmc:walker-walk?obs=state&camera=1", {}, "dmc:walker-walk?obs=state&repeat=1"),
        ("dmc:cup-catch?obs=state", {}, "dmc:ball_in_cup-catch?obs=state&repeat=1"),
        ("dmc:cup_catch?obs=state", {}, "dmc:ball_in_cup-catch?obs=state&repeat=1"),
        ("dmc:ball_in_cup_catch?obs=state", {}, "dmc:ball_in_cup-catch?obs=state&repeat=1"),
        ("dmc:finger_turn_easy?obs=state", {}, "dmc:finger-turn_easy?obs=state&repeat=1"),
        (
            "dmc:cartpole-swingup_sparse?obs=state",
            {},
            "dmc:cartpole-swingup_sparse?obs=state&repeat=1",
        ),
        ("gym:CartPole-v1", {"render": "fast"}, "gym:CartPole-v1?repeat=1"),
        (
            "gym:CartPole-v1?max_episode_steps=50",
            {"repeat": 2},
            "gym:CartPole-v1?max_episode_steps=50&repeat=2",
        ),
        ("gym:some.module:Thing-v0", {}, "gym:some.module:Thing-v0?repeat=1"),
    ],
)
def test_resolve_writes_every_key_out(name: str, defaults: dict, expected: str) -> None:
    assert resolve(name, defaults) == expected
    other = {"repeat": 9, "render": "fast"}
    if not name.startswith("gym:"):  # which has a size only where somebody says one
        other["size"] = 32
    assert resolve(expected, other) == expected


@pytest.mark.parametrize(
    ("commas", "marks"),
    [
        ("dmc:walker-walk,obs=state,repeat=2", "dmc:walker-walk?obs=state&repeat=2"),
        ("dmc:walker-walk,obs=state", "dmc:walker-walk?obs=state"),
        ("gym:CartPole-v1,max_episode_steps=50", "gym:CartPole-v1?max_episode_steps=50"),
        ("atari:pong,protocol=dreamerv3", "atari:pong?protocol=dreamerv3"),
    ],
)
def test_commas_do_for_what_shells_take(commas: str, marks: str) -> None:
    assert resolve(commas) == resolve(marks) == resolve(commas, trusted=False)
    assert settings_of(commas) == settings_of(marks)
    assert merge(marks, commas) == merge(commas, marks) == resolve(marks)
    check_downloaded(commas)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("walker-walk", "not an environment string, expected suite:task"),
        ("CartPole-v1", 'not an environment string, .*did you mean "gym:CartPole-v1"'),
        ("CartPole-v1?repeat=2", 'did you mean "gym:CartPole-v1.repeat=2"'),
        ("dmc:walker-walk,", 'holds "", expected each key once as key=value'),
        ("dmc:walker-walk,obs", 'holds "obs", expected each key once'),
        ("dmc:walker-walk,obs=state,obs=both", 'holds "obs=both", expected each key once'),
        ("dmc:walker-walk,repet=2", 'sets "repet", which the suite dmc does not know'),
        ("dmc:", "not an environment string"),
        (":walker-walk", "not an environment string"),
        ("dmc:walker-walk?", "not an environment string"),
        ("dmcc:walker-walk", 'suite "dmcc", which is not registered; did you mean "dmc"'),
        ("dmc:walker-wolk", 'not a task .* did you mean "walker-walk"'),
        ("dmc:qqq", "tasks: acrobot-swingup, "),
        ("dmc:walker-walk?repet=2", 'sets "repet", which the suite dmc does not know; .*"repeat"'),
        ("dmc:walker-walk?repeat", 'holds "repeat", expected each key once as key=value'),
        ("dmc:walker-walk?repeat=", "expected each key once"),
        ("dmc:walker-walk?repeat=1&repeat=2", "expected each key once"),
        ("dmc:walker-walk?repeat=1&", "expected each key once"),
        ("dmc:walker-walk?repeat=two", "repeat=two, expected a whole number of at least 1"),
        ("dmc:walker-walk?repeat=1.5", "expected a whole number"),
        ("dmc:walker-walk?repeat=0", "expected a whole number of at least 1"),
        ("dmc:walker-walk?repeat=1001", "of at least 1 and at most 1000"),
        ("gym:CartPole-v1?repeat=1000000000", "of at least 1 and at most 1000"),
        (
            f"gym:CartPole-v1?max_episode_steps={'9' * 400}",
            "sets max_episode_steps=9{40}, expected",
        ),
        ("gym:CartPole-v1?max_episode_steps=100000000000000000000", r"and at most 9\.0"),
        ("dmc:walker-walk?size=100000", "of at least 1 and at most 2048"),
        ("dmc:walker-walk?size=100000000000000000000", "of at least 1 and at most 2048"),
        ("crafter:reward?size=100000", "of at least 9 and at most 2048"),
        ("dmc:walker-walk?camera=-1", "expected a whole number of at least 0"),
        ("dmc:walker-walk?obs=pixel", 'expected one of pixels, state, both; did you mean "pixels"'),
        ("dmc:walker-walk?render=slow", "expected one of default, fast"),
        ("gym:CartPoel-v1", 'not in Gymnasium.s registry .* did you mean "CartPole-v1"'),
        ("gym:CartPole-v99", 'did you mean "CartPole-v1"'),
        ("gym:CartPole-v1?obs=state", 'sets "obs", which the suite gym does not know'),
    ],
)
def test_ill_formed_strings(name: str, match: str) -> None:
    with pytest.raises(EnvironmentStringError, match=match):
        resolve(name)
    with pytest.raises(EnvironmentStringError, match=match):
        make_env(name)


def test_a_bad_default_is_refused_too() -> None:
    with pytest.raises(EnvironmentStringError, match="render=quick, expected one of default, fast"):
        resolve("dmc:walker-walk", {"render": "quick"})


@pytest.mark.parametrize(
    "name",
    [
        "gym:os:Thing-v0",
        "gym:a.b:Thing-v0",
        "gym:../../etc/passwd",
        "gym:/etc/passwd",
        "gym:a/b/c",
        "dmc:walker-walk:x?repeat=2",
        "gym:.hidden",
        "gym:C\\x",
    ],
)
def test_downloaded_strings_name_registered_tasks_only(name: str) -> None:
    with pytest.raises(EnvironmentStringError, match="comes from a download"):
        resolve(name, trusted=False)


def test_plain_downloaded_strings_resolve() -> None:
    assert resolve(WALKER, trusted=False) == WALKER
    assert resolve("gym:CartPole-v1", trusted=False) == "gym:CartPole-v1?repeat=1"


STATE = "dmc:walker-walk?obs=state&repeat=2"


@pytest.mark.parametrize(
    ("policy", "asked", "override", "expected"),
    [
        (WALKER, "dmc:walker-walk", False, WALKER),
        (WALKER, "dmc:walker_walk?repeat=2", False, WALKER),
        (WALKER, WALKER, False, WALKER),
        ("", "dmc:walker-walk?obs=state", False, "dmc:walker-walk?obs=state&repeat=1"),
        (WALKER, "dmc:walker-walk?repeat=4", True, WALKER.replace("repeat=2", "repeat=4")),
        (WALKER, "dmc:walker-walk?obs=state", True, STATE),
        (WALKER, "dmc:walker-run", True, WALKER.replace("-walk", "-run")),
        (WALKER, "gym:CartPole-v1", True, "gym:CartPole-v1?repeat=1"),
        (STATE, "dmc:walker-walk", False, STATE),
        (
            "gym:CartPole-v1?repeat=1",
            "gym:CartPole-v1?max_episode_steps=9",
            False,
            "gym:CartPole-v1?max_episode_steps=9&repeat=1",
        ),
    ],
)
def test_merge(policy: str, asked: str, override: bool, expected: str) -> None:
    assert merge(policy, asked, override) == expected


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        (
            "dmc:walker-walk?repeat=4",
            "repeat=2 and repeat=4; leave these out, or pass override=True",
        ),
        (
            "dmc:walker-walk?size=32&render=fast",
            "size=64 and size=32; render=default and render=fast",
        ),
        ("dmc:walker-run", "dmc:walker-walk and dmc:walker-run; .*override=True"),
        ("gym:CartPole-v1", "dmc:walker-walk and gym:CartPole-v1"),
    ],
)
def test_merge_refuses_contradictions(asked: str, match: str) -> None:
    with pytest.raises(EnvironmentStringError, match=match):
        merge(WALKER, asked)


def test_settings_of() -> None:
    assert settings_of(STATE) == {"obs": "state", "repeat": 2}


def test_make_env_takes_settings_as_arguments() -> None:
    env = make_env("gym:CartPole-v1", repeat=3, max_episode_steps=4)
    assert isinstance(env, Repeat)
    env.reset(seed=0)
    assert env.step(0)[1:4] == (3.0, False, False)
    assert env.step(1)[1:4] == (1.0, False, True)
    with pytest.raises(EnvironmentStringError, match="was given repeat=3 as well; say it once"):
        make_env("gym:CartPole-v1?repeat=2", repeat=3)
    with pytest.raises(EnvironmentStringError, match='sets "repet"'):
        make_env("gym:CartPole-v1", repet=3)
    with pytest.raises(EnvironmentStringError, match="expected a whole number"):
        make_env("gym:CartPole-v1", repeat="x")


def test_gym_imports_a_module_only_to_make_an_environment() -> None:
    with pytest.raises(EnvironmentStringError, match=r'needs the module "no\.such", which cannot'):
        make_env("gym:no.such:Thing-v0")
    with pytest.raises(EnvironmentStringError, match=r"not in Gymnasium.s registry"):
        make_env("gym:colorsys:Thing-v0")
    env = make_env("gym:gymnasium.envs:CartPole-v1")
    assert env.unwrapped.spec.id == "CartPole-v1"


def test_gym_draws_only_when_asked() -> None:
    assert make_env("gym:CartPole-v1").render_mode is None
    assert make_env("gym:CartPole-v1", render_mode="rgb_array").render_mode == "rgb_array"


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dm_control", None)
    monkeypatch.setitem(sys.modules, "dm_control.suite", None)
    assert resolve("dmc:walker-walk?obs=state") == "dmc:walker-walk?obs=state&repeat=1"
    with pytest.raises(MissingExtraError, match=r'pip install "agentzoo-rl\[dmc\]"'):
        make_env("dmc:walker-walk?obs=state")


TOY = Suite(
    name="toy",
    keys=(
        Key(name="gravity", kind=float, default=9.81, least=0),
        Key(name="note", default=None),
    ),
    canonical=lambda task: task.lower(),
    make=lambda task, settings, render_mode: gym.make("CartPole-v1", render_mode=render_mode),
)


def test_installed_packages_add_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        EntryPoint("toy", f"{__name__}:TOY", registry.GROUP),
        EntryPoint("odd", "math:pi", registry.GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    monkeypatch.setattr(EntryPoint, "load", lambda entry: TOY if entry.name == "toy" else 3.14)
    assert suites() == (
        "atari",
        "crafter",
        "dmc",
        "gym",
        "minedojo",
        "minigrid",
        "odd",
        "toy",
        "vizdoom",
    )
    assert resolve("toy:Swing") == "toy:swing?gravity=9.81"
    assert resolve("toy:Swing?gravity=1e1&note=hi") == "toy:swing?gravity=10.0&note=hi"
    assert make_env("toy:swing").unwrapped.spec.id == "CartPole-v1"
    with pytest.raises(
        EnvironmentStringError, match="gravity=nan, expected a number of at least 0"
    ):
        resolve("toy:swing?gravity=nan")
    with pytest.raises(
        EnvironmentStringError, match=r'"odd" is registered as math:pi, which is a f'
    ):
        resolve("odd:x")


def test_importing_environments_brings_no_simulator_and_no_torch() -> None:
    code = (
        "import sys, agentzoo.runtime.envs\n"
        "agentzoo.runtime.envs.resolve('dmc:walker-walk')\n"
        "heavy = {'torch', 'dm_control', 'mujoco', 'onnxruntime', 'agentzoo.agent', 'agentzoo.hub'}"
        "\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_where_labmaze_has_no_wheel_the_line_leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 12, 9))
    assert pip_line("train,dmc") == 'pip install "agentzoo-rl[train,dmc]"'
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    assert pip_line("train") == 'pip install "agentzoo-rl[train]"'
    rest = " && pip install --no-deps dm_control"
    assert pip_line("dmc") == f'pip install "agentzoo-rl[dmc]"{rest}'
    assert str(MissingExtraError("dm_control", "dmc")).endswith(rest)
