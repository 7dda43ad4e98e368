"""ViZDoom behind Gymnasium's interface: the real engine, our fields, and nothing that is left."""

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from agentzoo.runtime.envs import Adapter, Outcome, for_evaluation, make_env, resolve, scores_of
from agentzoo.runtime.envs import vizdoom_engine as engine
from agentzoo.runtime.envs import vizdoom_fields as fields
from agentzoo.runtime.envs.subprocess_env import WorkerEnv
from agentzoo.runtime.envs.vizdoom import ACTIONS, SCENARIOS, Field, shrunk
from agentzoo.runtime.errors import (
    EnvironmentStringError,
    EpisodeError,
    MissingExtraError,
    WorkerError,
)
from agentzoo.runtime.evaluation.rollout import evaluate_random
from tests.unit_runtime.envs.fake_envs import field_with_a_mistake
from tests.unit_runtime.envs.test_subprocess_env import is_gone, wait_until

pytest.importorskip("vizdoom")
ROOT = Path(__file__).parents[3]
ACTION = {name: index for index, name in enumerate(ACTIONS)}
PITCHED = ("turn_up", "turn_down")


def walk(info: dict[str, float], task: str) -> int:
    """The action of one who knows where the nearest target is."""
    if abs(info["bearing"]) > 8:
        return ACTION["turn_left" if info["bearing"] > 0 else "turn_right"]
    if task != "reach-water" and info["distance"] < 70:
        return ACTION["attack" if task == "harvest-tree" else "use"]
    return ACTION["forward"]


def play(env: gym.Env, seed: int, steps: int) -> str:
    """A digest of everything under fixed random actions, up to an episode's end."""
    rng, seen = np.random.default_rng(0), hashlib.sha256()
    actions = int(env.action_space.n)
    observation, info = env.reset(seed=seed)
    for _ in range(steps):
        for array in (*observation.values(), *info["side"].values()):
            seen.update(array.tobytes())
        observation, reward, terminated, truncated, info = env.step(int(rng.integers(actions)))
        seen.update(np.float64(reward).tobytes())
        if terminated or truncated:
            break
    return seen.hexdigest()


@pytest.fixture(scope="module")
def field() -> gym.Env:
    env = Field("harvest-tree", far="near", has_map=True)
    yield env
    env.close()


@pytest.fixture
def water() -> gym.Env:
    env = Field("reach-water", far="near", has_map=True)
    yield env
    env.close()


# -- strings -------------------------------------------------------------------------------------


def test_strings() -> None:
    name = "vizdoom:harvest-tree?far=mid&map=none&max_episode_steps=1200&repeat=4&size=64&split="
    assert resolve("vizdoom:harvest_tree", {"protocol": "dreamerv3"}) == name + "train"
    assert for_evaluation("vizdoom:harvest-tree") == name + "test"
    basic = "vizdoom:basic?max_episode_steps=300&repeat=4&size=64"
    assert resolve("vizdoom:basic", {"map": "oracle", "split": "test"}) == basic
    assert for_evaluation(basic) == basic


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("vizdoom:harvest-trees", 'neither one of our fields nor .* did you mean "harvest-tree"'),
        ("vizdoom:cig", "neither one of our fields nor a scenario that ViZDoom ships for one"),
        ("vizdoom:harvest-tree?far=further", "far=further, expected one of near, mid, far"),
        ("vizdoom:harvest-tree?map=yes", "map=yes, expected one of none, oracle"),
        ("vizdoom:basic?map=oracle", "map=oracle, which means nothing for the task basic"),
        ("vizdoom:basic?size=4", "size=4, expected a whole number of at least 8"),
        ("vizdom:basic", 'did you mean "vizdoom"'),
    ],
)
def test_bad_strings(name: str, match: str) -> None:
    with pytest.raises(EnvironmentStringError, match=match):
        resolve(name)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    for open_it in (make_env, Adapter.open):
        with pytest.raises(MissingExtraError, match=r'"vizdoom".*\[vizdoom\]'):
            open_it("vizdoom:basic")


# -- fields --------------------------------------------------------------------------------------


@pytest.mark.parametrize("far", fields.FAR)
@pytest.mark.parametrize("task", fields.TASKS)
def test_forty_fields_whose_targets_are_so_far(task: str, far: str) -> None:
    layouts = [fields.layout(task, far, number) for number in range(40)]
    assert len({fields.udmf(one) for one in layouts}) == 40
    size = fields.FAR[far]
    for one in layouts:
        targets = {"harvest-tree": one.trees, "shear-sheep": one.sheep, "reach-water": (one.pond,)}
        nearest = min(math.hypot(*at) for at in targets[task])
        assert size.least < nearest < size.side
        everything = (*one.trees, *one.sheep, *one.rocks, one.pond)
        assert max(abs(x) for at in everything for x in at) < size.side / 2 - 32
        assert min(math.hypot(*at) for at in everything) > fields.CLEAR_START


def test_a_split_is_twenty_of_them() -> None:
    train, test = (fields.wad("reach-water", "near", split) for split in fields.SPLITS)
    for number in range(40):
        text = fields.udmf(fields.layout("reach-water", "near", number)).encode()
        assert (text in train, text in test) == (number < 20, number >= 20)


def test_only_the_target_can_be_taken() -> None:
    assert fields.decorate("reach-water").count("+COUNTKILL") == 0
    assert fields.decorate("harvest-tree").count("+COUNTKILL") == 1
    assert "+USESPECIAL" not in fields.decorate("harvest-tree")
    assert "+USESPECIAL" in fields.decorate("shear-sheep")


# -- what is seen --------------------------------------------------------------------------------


def test_pictures_shrink_to_means_over_areas() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(4, 6, 1)
    assert shrunk(image, 2)[..., 0].tolist() == [[4, 7], [16, 19]]  # 4, 7, 16 and 19 on average
    assert (shrunk(np.full((160, 256, 3), 255, np.uint8), 64) == 255).all()
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (160, 256, 3), np.uint8)
    rows = np.repeat(frame, 2, 0).reshape(64, 5, 256, 3).astype(float).mean(1)
    means = rows.reshape(64, 64, 4, 3).mean(2)
    assert np.abs(shrunk(frame, 64) - means).max() < 0.5 + 1e-9


def test_spaces_and_side(field: gym.Env) -> None:
    observation, info = field.reset(seed=0)
    assert field.observation_space.contains(observation)
    assert {key: one.shape for key, one in observation.items()} == {
        "image": (64, 64, 3), "map": (64, 64, 1),
    }  # fmt: skip
    assert field.metadata["side"].contains(info["side"])
    assert {key: one.shape for key, one in info["side"].items()} == {
        "frame": (160, 256, 3), "mask": (160, 256, 1),
    }  # fmt: skip
    assert field.action_space == gym.spaces.Discrete(12)
    np.testing.assert_array_equal(observation["image"], shrunk(info["side"]["frame"], 64))
    np.testing.assert_array_equal(observation["map"], shrunk(info["side"]["mask"], 64))
    np.testing.assert_array_equal(field.render(), info["side"]["frame"])


def test_gymnasium_finds_nothing_wrong(field: gym.Env) -> None:
    check_env(field, skip_render_check=True, skip_close_check=True)


def test_a_seed_is_one_episode_whatever_came_before_and_in_every_process(field: gym.Env) -> None:
    first = play(field, 3, 30)
    assert play(field, 4, 30) != first
    assert play(field, 3, 30) == first
    with make_env("vizdoom:harvest-tree?far=near&map=oracle") as env:
        assert isinstance(env, WorkerEnv)
        assert play(env, 3, 30) == first


def test_the_seed_chooses_the_field_and_where_one_looks(field: gym.Env) -> None:
    seen = []
    for seed in range(12):
        _, info = field.reset(seed=seed)
        seen.append((round(info["distance"]), round(info["bearing"])))
    assert len({distance for distance, _ in seen}) > 6
    assert len({bearing for _, bearing in seen}) > 9


def test_the_mask_shows_the_trees(field: gym.Env) -> None:
    for seed in range(20):
        _, info = field.reset(seed=seed)
        if abs(info["bearing"]) < 35:
            break
    columns = np.flatnonzero(info["side"]["mask"].any((0, 2)))
    expected = 128 - 128 / 1.2 * math.tan(math.radians(info["bearing"]))
    assert np.abs(columns - expected).min() < 2
    colors = info["side"]["frame"][info["side"]["mask"][..., 0] > 0].mean(0)
    assert colors[1] > colors[2], "trees are green and brown"


def test_the_mask_is_where_the_water_is(water: gym.Env) -> None:
    overlaps = []
    for seed in range(8):
        _, info = water.reset(seed=seed)
        for name in ("jump", "turn_down", "forward", "turn_left", "turn_up", "turn_up"):
            *_, info = water.step(ACTION[name])
            frame, mask = info["side"]["frame"].astype(int), info["side"]["mask"][..., 0] > 0
            blue = (frame[..., 2] > 150) & (frame[..., :2] < 80).all(-1)
            if blue.sum() > 50:
                overlaps.append((blue & mask).sum() / (blue | mask).sum())
            else:
                assert mask.sum() < 80
    assert len(overlaps) > 8
    assert np.mean(overlaps) > 0.93


# -- what happens --------------------------------------------------------------------------------


@pytest.mark.parametrize("task", fields.TASKS)
def test_who_knows_the_way_succeeds(task: str) -> None:
    rng = np.random.default_rng(0)
    with make_env(f"vizdoom:{task}", far="near", split="test") as env:
        for seed in range(3):
            _, info = env.reset(seed=seed)
            total, steps, is_over = 0.0, 0, False
            while not is_over:
                assert (info["is_success"], info["steps_to_success"]) == (False, 300)
                # now and then anything, since rocks stand in the way
                action = walk(info, task) if rng.random() < 0.8 else rng.integers(12)
                _, reward, terminated, truncated, info = env.step(action)
                total, steps, is_over = total + reward, steps + 1, terminated or truncated
            assert (terminated, total, info["is_success"]) == (True, 1.0, True)
            assert info["steps_to_success"] == steps < 300


def test_other_things_are_no_target() -> None:
    with make_env("vizdoom:shear-sheep?far=near") as env:
        _, info = env.reset(seed=0)
        for _ in range(200):  # sheep are shorn, not hit
            action = walk(info, "harvest-tree")
            _, reward, terminated, _, info = env.step(action)
            assert (reward, terminated) == (0.0, False)


def test_time_is_a_truncation_and_a_failure() -> None:
    adapter = Adapter.open("vizdoom:harvest-tree?max_episode_steps=10")
    transitions = [adapter.reset([0], [0]), *(adapter.step([0], [0]) for _ in range(3))]
    adapter.close()
    assert [bool(one["is_last"][0]) for one in transitions] == [False, False, False, True]
    assert not any(one["is_terminal"][0] for one in transitions)


def test_one_looks_up_and_down_by_thirty_degrees(field: gym.Env) -> None:
    field.reset(seed=0)
    for name, sign in zip(PITCHED, (-1, 1), strict=True):
        pitch = []
        for _ in range(8):
            field.step(ACTION[name])
            pitch.append(field.variable("PITCH"))
        assert pitch[-1] == pytest.approx(sign * 30, abs=0.5)


def test_a_step_outside_an_episode_is_an_error() -> None:
    with make_env("vizdoom:basic") as env, pytest.raises(WorkerError, match="call reset first"):
        env.step(0)


@pytest.mark.parametrize("task", SCENARIOS)
def test_shipped_scenarios(task: str) -> None:
    with make_env(f"vizdoom:{task}", size=32) as env:
        digests = {play(env, 1, 12), play(env, 1, 12)}
        assert len(digests) == 1
        observation, info = env.reset(seed=1)
        assert observation["image"].shape == (32, 32, 3)
        assert np.ptp(observation["image"]) > 20
        assert info["side"]["frame"].shape == (160, 256, 3)
        assert env.action_space.n == {"deathmatch": 18, "deadly_corridor": 8, "my_way_home": 6,
                                      "take_cover": 3}.get(task, 4)  # fmt: skip


def test_a_scenario_has_its_own_rewards_and_ends() -> None:
    with make_env("vizdoom:basic?repeat=10") as env:
        env.reset(seed=1)
        steps = [env.step(0) for _ in range(30)]
    assert [reward for _, reward, *_ in steps] == [-10.0] * 30  # one a tic
    assert [truncated for _, _, _, truncated, _ in steps] == [False] * 29 + [True]
    with make_env("vizdoom:deadly_corridor?max_episode_steps=0") as env:
        env.reset(seed=1)
        for _ in range(200):
            _, _, terminated, truncated, _ = env.step(0)
            if terminated:
                break
        assert (terminated, truncated) == (True, False)  # nobody survives that corridor


# -- scores --------------------------------------------------------------------------------------


def test_a_failure_counts_the_limit() -> None:
    infos = [{"is_success": k == 0, "steps_to_success": 40 if k == 0 else 300} for k in range(4)]
    episodes = [Outcome(total=0.0, length=1, info=info) for info in infos]
    expected = {"success": 25.0, "steps_to_success": 235.0}
    assert scores_of("vizdoom:harvest-tree", episodes) == expected
    assert scores_of("vizdoom:basic", episodes) == {}


def test_evaluation_scores_fields_that_nobody_learned_on() -> None:
    result = evaluate_random("vizdoom:harvest-tree?far=near&max_episode_steps=40", episodes=3)
    assert "split=test" in result.env
    assert result.scores == {"success": 0.0, "steps_to_success": 10.0}
    assert result.lengths == (10, 10, 10)


# -- processes -----------------------------------------------------------------------------------


def shared_memory() -> set[str]:
    """Names of all engines' memory on this machine, other tests' and other programs' among them."""
    return {path.name for path in engine.SHARED_MEMORY.glob("ViZDoom*")}


def the_engine_in(home: Path) -> tuple[Path, str]:
    """The folder and the instance of the only engine with its folder in `home`."""
    (file,) = home.glob(f"*/{engine.ENGINE}")
    return file.parent, json.loads(file.read_text())["instance"]


def memory_of(instance: str) -> set[str]:
    return {name for name in shared_memory() if name.endswith(instance)}


def is_mapped(name: str) -> bool:
    """Whether a living process has it in its memory."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # a process that has ended meanwhile
            if name in maps.read_text():
                return True
    return False


def engines_of(process: int) -> list[int]:
    """The engines that a process started, by whichever thread."""
    threads = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for file in threads for child in file.read_text().split()]


def test_nothing_is_left_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with make_env("vizdoom:harvest-tree?far=near") as env:
        env.reset(seed=0)
        env.step(0)
        (home,) = (tmp_path / "tmp").iterdir()
        _, instance = the_engine_in(home)
        assert len(memory_of(instance)) == 3
    assert not memory_of(instance)
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]
    left = [path.name for path in (tmp_path / "tmp").glob("*/*")]
    assert left == [engine.LOCK]


def test_an_engine_that_dies_ends_an_episode_and_is_started_again() -> None:
    env = Field("harvest-tree", far="near")
    env.reset(seed=0)
    observation, *_ = env.step(ACTION["forward"])
    process = engine.process_in(env.engine.folder)
    assert process is not None
    os.kill(process, signal.SIGKILL)
    wait_until(lambda: is_gone(process), "the engine was killed")
    last, reward, terminated, truncated, info = env.step(0)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["world_lost"].startswith("the engine stopped")
    assert (info["is_success"], info["steps_to_success"]) == (False, 300)
    np.testing.assert_array_equal(last["image"], observation["image"])
    with pytest.raises(EpisodeError, match="call reset first"):
        env.step(0)
    first, _ = env.reset(seed=0)
    other = Field("harvest-tree", far="near")
    np.testing.assert_array_equal(first["image"], other.reset(seed=0)[0]["image"])
    env.close()
    other.close()


def test_a_worker_that_dies_takes_its_engine_along_and_is_started_again() -> None:
    with make_env("vizdoom:harvest-tree?far=near") as env:
        env.reset(seed=0)
        observation, *_, before = env.step(ACTION["forward"])
        worker = env.process
        (process,) = engines_of(worker)
        os.kill(worker, signal.SIGKILL)
        last, reward, terminated, truncated, info = env.step(0)
        assert (reward, terminated, truncated) == (0.0, False, True)
        assert "was killed by SIGKILL while it was being stepped" in info["world_lost"]
        assert info["steps_to_success"] == before["steps_to_success"] == 300
        np.testing.assert_array_equal(last["image"], observation["image"])
        wait_until(lambda: is_gone(process), "the engine ends with its worker's group")
        assert "world_lost" not in env.reset(seed=0)[1]
        env.step(0)


def test_a_killed_parent_leaves_no_engine_and_the_next_start_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    code = (
        "import os, signal\n"
        "from agentzoo.runtime.envs import make_env\n"
        "env = make_env('vizdoom:harvest-tree?far=near')\n"
        "env.reset(seed=0)\n"
        "print(env.process, flush=True)\n"
        "input()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    worker = int(parent.stdout.readline())
    (process,) = engines_of(worker)
    _, instance = the_engine_in(engine.home())
    parent.kill()
    parent.communicate()
    for one in (worker, process):
        wait_until(lambda one=one: is_gone(one), "the kernel ends what the parent started")
    assert len(memory_of(instance)) == 3
    with make_env("vizdoom:basic") as env:
        env.reset(seed=0)
        assert not memory_of(instance)
        (folder,) = [path for path in engine.home().iterdir() if path.is_dir()]
        assert (folder / engine.ENGINE).exists(), "the living one's stays"


def test_an_orphaned_engine_is_ended_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    code = (
        "import os, signal\n"
        "from agentzoo.runtime.envs.vizdoom import Scenario\n"
        "env = Scenario('basic')\n"  # in the process itself, which no worker protects
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert found.returncode == -signal.SIGKILL
    folder, instance = the_engine_in(engine.home())
    orphan = engine.process_in(folder)
    assert orphan is not None
    engine.sweep()
    wait_until(lambda: is_gone(orphan), "the orphan is ended")
    assert not memory_of(instance)
    assert not folder.exists()


def test_a_mistake_in_an_actor_ends_a_worker_not_the_learner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = shared_memory()
    with pytest.raises(WorkerError, match="while it was being made"):
        WorkerEnv(partial(field_with_a_mistake))
    # living engines of other tests map theirs
    left = {name for name in shared_memory() - before if not is_mapped(name)}
    assert left
    with make_env("vizdoom:basic"):
        pass
    assert not left & shared_memory()


def test_agents_can_collect_with_a_map() -> None:
    adapter = Adapter.open("vizdoom:harvest-tree?far=near&map=oracle")
    assert list(adapter.side) == ["frame", "mask"]
    transitions = adapter.reset([0], [0])
    assert transitions["mask"].shape == (1, 160, 256, 1)
    assert transitions["mask"].dtype == np.uint8
    adapter.close()
