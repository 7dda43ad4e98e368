"""The DeepMind Control Suite behind Gymnasium's interface."""

import os
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from agentzoo.runtime.envs import Adapter, make_env
from agentzoo.runtime.envs.dmc import TASKS
from agentzoo.runtime.envs.opengl import headless_backend
from agentzoo.runtime.errors import EnvironmentStringError, EpisodeError

pytest.importorskip("dm_control")
ALL = [f"{domain}-{task}" for domain in TASKS for task in TASKS[domain]]
draws = pytest.mark.skipif(
    "MUJOCO_GL" not in os.environ and headless_backend() == "disabled",
    reason="no OpenGL library here",
)


def rollout(env: gym.Env, seed: int, steps: int = 3) -> list:
    """Observations and rewards under fixed actions."""
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=seed)
    seen = [observation["state"], 0.0]
    low, high = np.clip([env.action_space.low, env.action_space.high], -1, 1)
    for _ in range(steps):
        observation, reward, *_ = env.step(rng.uniform(low, high).astype(np.float32))
        seen += [observation["state"], reward]
    return seen


def test_the_task_list_is_the_suites() -> None:
    from dm_control import suite

    assert sorted(ALL) == sorted(f"{domain}-{task}" for domain, task in suite.ALL_TASKS)
    assert len(ALL) == 51


@pytest.mark.parametrize("task", ALL)
def test_every_task_loads_steps_and_reseeds(task: str) -> None:
    one = make_env(f"dmc:{task}?obs=state")
    first = rollout(one, 1)
    assert one.observation_space.contains({"state": first[0]})
    assert first[0].ndim == 1
    assert isinstance(first[1], float)
    rollout(one, 2)  # what came before must not matter
    np.testing.assert_equal(rollout(one, 1), first)
    one.close()


@pytest.mark.parametrize("task", ["lqr-lqr_6_2", "stacker-stack_2", "quadruped-escape"])
def test_two_objects_give_the_same_episode(task: str) -> None:
    one, other = make_env(f"dmc:{task}?obs=state"), make_env(f"dmc:{task}?obs=state")
    np.testing.assert_equal(rollout(one, 1), rollout(other, 1))


def test_other_seeds_and_no_seed_give_other_episodes() -> None:
    env = make_env("dmc:walker-walk?obs=state")
    states = [env.reset(seed=seed)[0]["state"] for seed in (1, 2, None, None)]
    assert len({state.tobytes() for state in states}) == 4
    fresh = [make_env("dmc:walker-walk?obs=state").reset()[0]["state"] for _ in range(2)]
    assert not np.array_equal(*fresh)
    env.reset(seed=1)
    np.testing.assert_array_equal(env.reset(seed=1)[0]["state"], states[0])


def test_state_is_the_suites_own_order_with_scalars() -> None:
    env = make_env("dmc:walker-walk?obs=state")
    observation, _ = env.reset(seed=0)
    raw = env.unwrapped.dm_env.task.get_observation(env.unwrapped.dm_env.physics)
    assert list(raw) == ["orientations", "height", "velocity"]
    assert np.shape(raw["height"]) == ()
    expected = np.float32([*raw["orientations"], raw["height"], *raw["velocity"]])
    np.testing.assert_array_equal(observation["state"], expected)


def test_repeat_sums_rewards_and_ends_on_time() -> None:
    single = make_env("dmc:cartpole-balance?obs=state")
    triple = make_env("dmc:cartpole-balance?obs=state", repeat=3)
    single.reset(seed=5)
    triple.reset(seed=5)
    action = np.float32([0.3])
    for _ in range(4):
        rewards = [single.step(action)[1] for _ in range(3)]
        reward = triple.step(action)[1]
        assert reward == pytest.approx(sum(rewards), abs=1e-12)
    same = single.unwrapped.dm_env.physics.get_state()
    np.testing.assert_array_equal(triple.unwrapped.dm_env.physics.get_state(), same)


def test_a_time_limit_truncates() -> None:
    adapter = Adapter.open("dmc:cartpole-balance?obs=state&repeat=300")
    assert adapter.repeat == 300
    transitions = [adapter.reset([0], [0])] + [adapter.step([0], [[0.0]]) for _ in range(4)]
    assert [one["is_last"][0] for one in transitions] == [False, False, False, False, True]
    assert [one["is_terminal"][0] for one in transitions] == [False] * 5
    # 1000 steps: the last decision holds 100 of them
    assert 0 < transitions[4]["reward"][0] <= 100 < transitions[1]["reward"][0] <= 300
    adapter.close()


def test_discount_zero_terminates() -> None:
    env = make_env("dmc:lqr-lqr_2_1?obs=state")
    env.reset(seed=0)
    env.unwrapped.dm_env.task.get_termination = lambda physics: 0.0
    assert env.step(np.zeros(1, np.float32))[2:4] == (True, False)
    with pytest.raises(EpisodeError, match="outside an episode; call reset"):
        env.step(np.zeros(1, np.float32))


def test_a_step_before_reset_is_refused() -> None:
    with pytest.raises(EpisodeError, match="call reset first"):
        make_env("dmc:walker-walk?obs=state").step(np.zeros(6, np.float32))


def test_state_only_never_makes_a_drawing_context() -> None:
    env = make_env("dmc:quadruped-escape?obs=state")
    env.reset(seed=0)
    assert env.unwrapped.dm_env.physics._contexts is None


@draws
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("dmc:walker-walk?obs=state", ["state"]),
        ("dmc:walker-walk?render=fast", ["image"]),
        ("dmc:cartpole-swingup?obs=both&render=fast&repeat=2", ["image", "state"]),
    ],
)
def test_gymnasium_approves(name: str, keys: list[str]) -> None:
    env = make_env(name)
    assert list(env.observation_space.keys()) == keys
    with warnings.catch_warnings():
        # advice, not faults: unbounded observations, no spec to make the environment again
        warnings.filterwarnings("ignore", message=".*(infinity|having a spec).*")
        check_env(env)
    env.close()


@draws
@pytest.mark.parametrize("render", ["default", "fast"])
def test_pixels(render: str) -> None:
    env = make_env("dmc:walker-walk", render=render, size=32, repeat=2)
    image = env.reset(seed=0)[0]["image"]
    kept = image.copy()
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8
    assert image.std() > 10  # there is something to see
    moved = env.step(np.ones(6, np.float32))[0]["image"]
    assert (moved != image).any()
    np.testing.assert_array_equal(image, kept)
    np.testing.assert_array_equal(env.reset(seed=0)[0]["image"], kept)
    env.close()


CARTPOLE = "dmc:cartpole-swingup?render=fast&repeat=4"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every picture that dm_control draws."""
    from dm_control import mujoco

    found, render = [], mujoco.Camera.render
    monkeypatch.setattr(mujoco.Camera, "render", lambda camera: found.append(1) or render(camera))
    return found


@draws
def test_a_decision_is_drawn_once(drawn: list[int]) -> None:
    env = make_env(CARTPOLE)
    env.reset(seed=0)
    assert len(drawn) == 1
    for _ in range(3):
        env.step(env.action_space.sample())
    assert len(drawn) == 1 + 3
    env.close()


@draws
@pytest.mark.slow  # for the video of the end
def test_learning_draws_a_decision_once(drawn: list[int], tmp_path: Path) -> None:
    from agentzoo import Dreamer

    agent = Dreamer(
        CARTPOLE, preset="debug_pixels", device="cpu", prefill=1_300, eval_every=0, final_episodes=0
    )
    agent.learn(1_200, run=tmp_path, progress=False)
    assert agent.env_steps == 1_200
    assert len(drawn) == (1 + 250) + (1 + 50)  # each episode begins with a picture


@draws
def test_earlier_pictures_stand_beside_the_newest() -> None:
    env = make_env("dmc:pendulum-swingup?frames=3&size=16&render=fast")
    keys = ["image", "image_1", "image_2"]
    assert list(env.observation_space.spaces) == keys
    seen, _ = env.reset(seed=0)
    assert np.array_equal(seen["image"], seen["image_1"])
    assert np.array_equal(seen["image"], seen["image_2"])
    pictures = [seen["image"]] * 3
    for _ in range(3):
        seen, *_ = env.step(env.action_space.high)
        pictures = [seen["image"], *pictures[:2]]
        for key, picture in zip(keys, pictures, strict=True):
            assert np.array_equal(seen[key], picture), key
    assert not np.array_equal(seen["image"], seen["image_2"])
    again, _ = env.reset(seed=0)
    assert np.array_equal(again["image_2"], again["image"]), "nothing of the episode before"
    env.close()


@draws
def test_default_pixels_are_dm_controls_own() -> None:
    env = make_env("dmc:cheetah-run")
    image = env.reset(seed=0)[0]["image"]
    own = env.unwrapped.dm_env.physics.render(64, 64, camera_id=0)
    np.testing.assert_array_equal(image, own)
    env.close()


@draws
def test_fast_pixels_lose_the_shadow_only() -> None:
    def picture(render: str) -> np.ndarray:
        env = make_env("dmc:walker-walk", render=render)
        image = env.reset(seed=0)[0]["image"].astype(float)
        env.close()
        return image

    default, fast = picture("default"), picture("fast")
    changed = (np.abs(default - fast).max(-1) > 60).mean()
    assert 0 < changed < 0.15


@draws
def test_the_quadruped_is_seen_by_camera_2() -> None:
    env = make_env("dmc:quadruped-walk")
    image = env.reset(seed=0)[0]["image"]
    physics = env.unwrapped.dm_env.physics
    np.testing.assert_array_equal(image, physics.render(64, 64, camera_id=2))
    assert (image != physics.render(64, 64, camera_id=0)).any()
    env.close()


@draws
@pytest.mark.slow
@draws
def test_each_process_draws_for_itself() -> None:
    pictures = []
    for parallel in (False, True):
        adapter = Adapter.open("dmc:cartpole-balance?render=fast", 2, parallel=parallel)
        adapter.reset([0, 1], [0, 1])
        pictures.append(adapter.step([0, 1], np.ones((2, 1)))["image"])
        adapter.close()
    np.testing.assert_array_equal(*pictures)
    assert (pictures[0][0] != pictures[0][1]).any()


@draws
@pytest.mark.parametrize("obs", ["state", "pixels"])
def test_render_draws_a_large_frame_whatever_is_observed(obs: str) -> None:
    env = make_env("dmc:walker-walk", obs=obs, render="fast")
    before = env.reset(seed=0)[0]
    assert env.render().shape == (256, 256, 3)
    env.unwrapped.render_size = 720  # larger than the model's own buffer
    frame = env.render()
    assert frame.shape == (720, 720, 3)
    assert frame.std() > 10
    again = env.reset(seed=0)[0]
    np.testing.assert_array_equal(again[next(iter(again))], before[next(iter(before))])
    env.close()
    env.close()


@draws
def test_an_unknown_camera_is_refused() -> None:
    with pytest.raises(EnvironmentStringError, match="has no camera 7, expected 0 to 1"):
        make_env("dmc:walker-walk", camera=7)


def fresh_process(code: str, **environ: str) -> str:
    """The output of `code` in a process without a screen that chooses its own OpenGL."""
    hidden = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY")
    clean = {key: value for key, value in os.environ.items() if key not in hidden}
    warnings = ["-W", "error", "-W", "ignore:Setting the shape on a NumPy array:DeprecationWarning"]
    command = [sys.executable, *warnings, "-c", code]  # the second: see pyproject.toml
    done = subprocess.run(command, capture_output=True, text=True, env=clean | environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_state_works_in_a_process_that_set_nothing() -> None:
    code = (
        "from agentzoo.runtime.envs import make_env\n"
        "print(make_env('dmc:cartpole-balance?obs=state').reset(seed=0)[0]['state'].shape)"
    )
    assert fresh_process(code) == "(5,)"


@draws
def test_the_package_imported_before_still_draws() -> None:
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"  # GLFW's, which finds no screen
        "import dm_control\n"  # by itself it loads no OpenGL
        "from agentzoo.runtime.envs import make_env\n"
        "print(make_env('dmc:cartpole-balance').reset(seed=0)[0]['image'].shape)"
    )
    assert fresh_process(code) == "(64, 64, 3)"


def test_without_opengl_states_work_and_pictures_say_what_to_install() -> None:
    code = (
        "from agentzoo.runtime.envs import make_env, opengl\n"
        "opengl.headless_backend = lambda: 'disabled'\n"
        "from agentzoo.runtime.envs import dmc; dmc.choose_backend = opengl.choose_backend\n"
        "from agentzoo.runtime.errors import ProviderError\n"
        "env = make_env('dmc:quadruped-escape?obs=state')\n"
        "print(env.reset(seed=0)[0]['state'].shape)\n"
        "for draw in (env.render, lambda: make_env('dmc:walker-walk')):\n"
        "    try:\n"
        "        draw()\n"
        "    except ProviderError as error:\n"
        "        print(error)"
    )
    shape, *sentences = fresh_process(code).splitlines()
    assert shape == "(101,)"
    assert len(sentences) == 2
    assert all("apt-get install libegl1" in each and "libosmesa6" in each for each in sentences)


def test_a_backend_the_user_chose_but_lacks_is_named() -> None:
    code = (
        "from agentzoo.runtime.envs import make_env\n"
        "from agentzoo.runtime.errors import ProviderError\n"
        "try:\n"
        "    make_env('dmc:walker-walk')\n"
        "except ProviderError as error:\n"
        "    print(error)"
    )
    said = fresh_process(code, MUJOCO_GL="egl", __EGL_VENDOR_LIBRARY_FILENAMES="/nonexistent")
    assert "unset MUJOCO_GL" in said
    assert "libegl1" in said


def test_a_driverless_egl_is_not_chosen() -> None:
    code = "from agentzoo.runtime.envs.opengl import headless_backend; print(headless_backend())"
    assert fresh_process(code, __EGL_VENDOR_LIBRARY_FILENAMES="/nonexistent") != "egl"


@draws
@pytest.mark.parametrize("first", ["agent", "picture"])
def test_a_network_is_built_beside_mesa(first: str, tmp_path: Path) -> None:
    """Triton's library dies where Mesa's LLVM was loaded before it."""
    pytest.importorskip("torch")
    loaded = tmp_path / "loaded"
    if find_spec("triton") is None:  # as beside PyTorch for the CPU: something stands in for it
        (tmp_path / "triton.py").write_text(
            "import os, sys\n"
            "mesa = 'libLLVM' in open('/proc/self/maps').read()\n"
            "deep = bool(sys.getdlopenflags() & os.RTLD_DEEPBIND)\n"
            f"open({str(loaded)!r}, 'a').write(f'{{mesa and not deep}}\\n')\n"
            "raise ImportError('PyTorch is to do without')\n"
        )
    else:
        loaded.write_text("False\n")
    picture = "from agentzoo import make_env; env = make_env('dmc:walker-walk'); env.reset(seed=0)"
    agent = "from agentzoo import Agent"
    code = (
        f"import sys; sys.path.append({str(tmp_path)!r}); flags = sys.getdlopenflags()\n"
        + "\n".join([agent, picture] if first == "agent" else [picture, agent])
        + "\nimport torch; torch.compiler.reset()  # loads it, as building an agent does\n"
        "assert sys.getdlopenflags() == flags\n"
        "print(env.render().std() > 10)"
    )
    assert fresh_process(code) == "True"
    assert loaded.read_text().startswith("False\n"), "in time, or bound to itself"
