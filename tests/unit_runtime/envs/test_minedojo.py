"""MineDojo: the real package for all that needs no Java, a stand-in for what needs Minecraft."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from agentzoo.cli.doctor import minedojo as diagnosis
from agentzoo.runtime.envs import Adapter, for_evaluation, make_env, resolve, scores_of
from agentzoo.runtime.envs.minedojo import (
    ACTIONS,
    BRIDGE,
    HARVEST,
    PYTHON,
    Bridge,
    MineDojo,
    hud,
    without_hud,
)
from agentzoo.runtime.envs.suite import Outcome
from agentzoo.runtime.errors import (
    EnvironmentStringError,
    EpisodeError,
    ProviderError,
    WorkerError,
)
from tests.unit_runtime.envs.test_subprocess_env import is_gone, wait_until

STANDIN = Path(__file__).with_name("minedojo_standin.py")
ACTION = {name: index for index, name in enumerate(ACTIONS)}
LOG = "minedojo:harvest_log_in_plains"
REAL = os.environ.get(PYTHON)
WITHOUT = f"{PYTHON} names no interpreter; .ci/minedojo makes one; in CI this is a failure"


def real(test: Callable[..., None]) -> Callable[..., None]:
    """Needs the real package, whose import takes seconds."""
    return pytest.mark.slow(
        pytest.mark.skipif(not REAL and not os.environ.get("CI"), reason=WITHOUT)(test)
    )


@pytest.fixture
def fate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in as the interpreter; the file says what goes wrong."""
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STANDIN}" "$@"\n')
    script.chmod(0o700)
    monkeypatch.setenv(PYTHON, str(script))
    monkeypatch.setenv("STANDIN", str(tmp_path / "fate"))
    return tmp_path / "fate"


def opened(**settings: object) -> MineDojo:
    return MineDojo("harvest_log_in_plains", has_hud=True, **settings)


def pixel(info: dict) -> list[int]:
    return info["side"]["frame"][0, 0].tolist()


# -- strings -------------------------------------------------------------------------------------


def test_strings() -> None:
    rest = "hud=remove&max_episode_steps=1000&repeat=1&size=64&world_seed=7"
    assert resolve(LOG) == f"{LOG}?fast_resets=5&{rest}"
    assert for_evaluation(LOG) == f"{LOG}?fast_resets=0&{rest}"
    iron = resolve("minedojo:mine_iron_ore")
    assert "fast_resets=10" in iron
    assert "max_episode_steps=2000" in iron
    assert "fast_resets=0" in resolve("minedojo:harvest_milk")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("minedojo:harvest milk", "no name of a task; expected one of harvest_log_in_plains"),
        (f"{LOG}?repeat=2", "repeat=2, expected a whole number of at least 1 and at most 1"),
        (f"{LOG}?hud=off", "hud=off, expected one of keep, remove"),
    ],
)
def test_bad_strings(name: str, match: str) -> None:
    with pytest.raises(EnvironmentStringError, match=match):
        resolve(name)


@pytest.mark.parametrize(
    ("python", "match"),
    [(None, f"{PYTHON} is not set: MineDojo needs"), ("/no/such", "=/no/such cannot be run")],
)
def test_an_interpreter_has_to_be_named(
    python: str | None, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PYTHON, raising=False)
    if python:
        monkeypatch.setenv(PYTHON, python)
    with pytest.raises(ProviderError, match=match + ".*agentzoo doctor minedojo"):
        make_env(LOG)
    ((name, finding),) = diagnosis()
    assert (name, match.split(":")[0] in finding) == (PYTHON, True)


# -- an episode, with the stand-in ---------------------------------------------------------------


def test_frames_come_through_shared_memory(fate: Path) -> None:
    with opened() as env:
        observation, info = env.reset(seed=0)
        assert env.observation_space.contains(observation)
        assert env.metadata["side"].contains(info["side"])
        assert info["goal"] == "Cut a tree"
        assert pixel(info) == [0, 1, 0]
        for count in (1, 2, 3):
            observation, *_, info = env.step(ACTION["forward"])
            assert pixel(info) == [count, 1, 1]
            assert (observation["image"] == [count, 1, 1]).all()


def test_gymnasium_finds_nothing_wrong(fate: Path) -> None:
    with opened() as env:
        check_env(env, skip_render_check=True, skip_close_check=True)


def test_a_jump_is_held_and_the_view_stays_within_its_limits(fate: Path) -> None:
    with opened() as env:
        env.reset(seed=0)
        env.step(ACTION["jump"])
        pressed = [pixel(env.step(ACTION["noop"])[4])[2] for _ in range(11)]
        assert pressed == [2] * 9 + [0] * 2  # jump and forward, ten steps in all
        for name, limit in (("turn_down", 70.0), ("turn_up", -70.0)):
            for _ in range(20):
                env.step(ACTION[name])
            assert env.pitch == limit


def test_new_worlds_are_followed_by_fast_resets(fate: Path) -> None:
    with opened(fast_resets=2) as env:
        hard = [pixel(env.reset(seed=k)[1])[1] for k in range(7)]
    assert hard == [1, 0, 0, 1, 0, 0, 1]
    with opened() as env:
        assert [pixel(env.reset(seed=k)[1])[1] for k in range(3)] == [1, 1, 1]


def test_success_and_time_are_truncations_death_is_a_termination(fate: Path) -> None:
    with opened(max_episode_steps=5) as env:
        ends = []
        for what in ("logs", "dead", ""):
            env.reset(seed=0)
            if what:
                fate.write_text(f"{what} 2")
            for _ in range(5):
                _, reward, terminated, truncated, info = env.step(0)
                if terminated or truncated:
                    break
            ends.append((reward, terminated, truncated, info["steps_to_success"]))
            with pytest.raises(EpisodeError, match="call reset first"):
                env.step(0)
    assert ends == [(1.0, False, True, 2), (0.0, True, False, 5), (0.0, False, True, 5)]
    infos = [{"is_success": k < 1, "steps_to_success": 2 if k < 1 else 5} for k in range(2)]
    episodes = [Outcome(total=0.0, length=1, info=info) for info in infos]
    assert scores_of(LOG, episodes) == {"success": 50.0, "steps_to_success": 3.5}


# -- what goes wrong, with the stand-in ----------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("die", "MineDojo's process ended while asked to step"),
        ("hang", "MineDojo gave no answer to step for 1 s"),
        ("lost", "Minecraft lost its connection"),
        ("raise", "EOFError: Minecraft process finished unexpectedly."),
    ],
)
def test_a_lost_game_ends_an_episode_and_another_begins(fate: Path, what: str, why: str) -> None:
    with opened(timeouts=(1.0, 60.0, 60.0)) as env:
        env.reset(seed=0)
        env.step(0)
        before = env.process
        fate.write_text(f"{what} 2")
        observation, reward, terminated, truncated, info = env.step(0)
        assert (reward, terminated, truncated) == (0.0, False, True)
        assert info["world_lost"] == why
        assert (observation["image"] == [1, 1, 0]).all(), "what was seen before"
        assert before.returncode is not None, "its process has ended"
        assert pixel(env.reset(seed=1)[1]) == [0, 1, 0]
        assert "world_lost" not in env.step(0)[4]


def test_a_reset_that_fails_is_done_again_in_a_fresh_game(fate: Path) -> None:
    with opened() as env:
        fate.write_text("die 0")
        assert pixel(env.reset(seed=0)[1]) == [0, 1, 0]
        assert not fate.exists()


def test_a_game_that_never_starts_is_an_error(fate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened() as env:
        fate.write_text("die 0")
        monkeypatch.setattr(Path, "unlink", lambda self: None)
        tries, ask = [], Bridge.ask

        def again(bridge: Bridge, timeout: float, **request: object) -> dict:
            if request["do"] == "reset":
                tries.append(1)
                fate.write_text("die 0")
            return ask(bridge, timeout, **request)

        monkeypatch.setattr(Bridge, "ask", again)
        with pytest.raises(WorkerError, match=r"for the 3\. time in a row; .*doctor minedojo"):
            env.reset(seed=0)
        assert len(tries) == 3


def test_a_lost_game_ends_with_its_last_transition(fate: Path) -> None:
    adapter = Adapter.open(LOG)
    assert list(adapter.side) == ["frame"]
    transitions = adapter.reset([0], [0])
    assert transitions["frame"].shape == (1, 160, 256, 3)
    fate.write_text("die 1")
    adapter.send([0], [0])
    assert adapter.receive() == ([], {})
    assert adapter.lost == {0: "MineDojo's process ended while asked to step"}
    adapter.send([], [], [0], [1])
    envs, transitions = adapter.receive()
    assert (envs, transitions["is_first"].tolist()) == ([0], [True])
    adapter.close()


def test_a_killed_learner_leaves_no_game(fate: Path) -> None:
    code = (
        "from agentzoo.runtime.envs.minedojo import MineDojo\n"
        "env = MineDojo('harvest_sand')\n"
        "print(env.process.pid, flush=True)\n"
        "input()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], text=True, cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    process = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    wait_until(lambda: is_gone(process), "the kernel ends the bridge")


# -- the HUD -------------------------------------------------------------------------------------


def test_the_hud_is_painted_over_with_what_stands_above() -> None:
    frame = np.repeat(np.arange(160, dtype=np.uint8)[:, None, None], 256, 1).repeat(3, 2)
    cleared, covered = without_hud(frame), hud()
    np.testing.assert_array_equal(cleared[~covered], frame[~covered])
    assert cleared[159, 128].tolist() == [117] * 3
    assert cleared[159, 0].tolist() == [159] * 3
    assert 0.2 < covered.mean() < 0.3  # LS-Imagine's own mask covers 26 %
    assert not covered[:81].any()
    assert not covered[:, :35].any()


# -- the real package, without Java --------------------------------------------------------------


@real
@pytest.mark.parametrize("task", HARVEST)
def test_the_papers_tasks_can_be_made(task: str) -> None:
    with MineDojo(task) as env:
        assert env.goal == HARVEST[task].prompt
        assert (env.versions["minedojo"], env.versions["gym"]) == ("0.1", "0.21.0")
        assert env.action_space == gym.spaces.Discrete(12)


@real
def test_minedojos_own_ids_and_what_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with make_env("minedojo:harvest_milk") as env:
        assert env.unwrapped.goal == "obtain milk from a cow"
    with pytest.raises(EnvironmentStringError, match='no task "harvest_milks"; did you mean "harv'):
        make_env("minedojo:harvest_milks")


@real
@pytest.mark.parametrize(
    ("version", "match"),
    [
        ("", "there is no Java: MineDojo's Minecraft 1.11.2 needs JDK 8"),
        ("17.0.15", "Java is 17.0.15, and MineDojo's Minecraft 1.11.2 needs JDK 8; set JAVA_HOME"),
    ],
)
def test_without_java_8_a_reset_says_so(
    version: str, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    if version:
        (tmp_path / "bin").mkdir()
        java = tmp_path / "bin" / "java"
        java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
        java.chmod(0o700)
    with make_env("minedojo:harvest_sand") as env, pytest.raises(WorkerError, match=match):
        env.reset(seed=0)
    assert dict(diagnosis())["Java"].startswith(version or "none")


@real
def test_doctor_says_what_is_there_and_what_is_missing() -> None:
    found = dict(diagnosis())
    assert found[PYTHON] == REAL
    assert found["MineDojo"] == "minedojo 0.1, gym 0.21.0, numpy 1.24.4"
    assert "not built" in found["Minecraft"]


@real
def test_actions_of_both_kinds_are_the_packages_own() -> None:
    code = (
        "import importlib.util, json, sys\n"
        f"spec = importlib.util.spec_from_file_location('bridge', {str(BRIDGE)!r})\n"
        "bridge = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(bridge)\n"
        "world, found = bridge.MineDojoWorld(), []\n"
        "for task in json.loads(sys.argv[1]):\n"
        "    world.make(task, 7)\n"
        "    for action in json.loads(sys.argv[2]):\n"
        "        whole = world.filled(action)\n"
        "        assert world.env.action_space.contains(whole), whole\n"
        "        found.append(len(whole))\n"
        "    if 'id' in task: found.append([int(one) for one in whole])\n"
        "print('FOUND', json.dumps(found))\n"
    )
    import json

    tasks = json.dumps([HARVEST["shear_sheep"].spec(), {"id": "harvest_milk"}])
    actions = json.dumps([*ACTIONS.values(), {"camera": [-10, 10], "use": 1}])
    said = subprocess.run(
        [REAL, "-I", "-c", code, tasks, actions], capture_output=True, text=True, check=True
    )
    found = json.loads(said.stdout.rpartition("FOUND")[2])
    assert found == [25] * 13 + [8] * 13 + [[0, 0, 0, 11, 13, 1, 0, 0]]
