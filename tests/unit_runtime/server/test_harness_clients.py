"""The harnesses' own clients, unmodified, get the actions of the policy in this process.

AGENTZOO_HARNESS_PYTHON names the interpreter that has them; `.ci/harness_clients VENV` makes one.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from agentzoo.runtime import load_policy
from soak.handmade_bundle import write_bundle
from tests.interpreters import interpreter_of
from tests.unit_runtime.server.live import serving

VARIABLE = "AGENTZOO_HARNESS_PYTHON"
DRIVER = Path(__file__).with_name("drive_harness_client.py")
EPISODES = np.random.default_rng(5).standard_normal((2, 6, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def interpreter():
    return interpreter_of("AGENTZOO_HARNESS_PYTHON", ".ci/harness_clients")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("handmade"))


@pytest.fixture
def drive(interpreter):
    def run(name, live, **task):
        done = subprocess.run(
            [interpreter, str(DRIVER), name, str(live.server.port)],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def expected(folder, seeds, restart):
    """Actions of each episode: of one session that is reset, or of one session each."""
    policy = load_policy(folder, provider="cpu", seed=seeds[0])
    actions = []
    for seed, episode in zip(seeds, EPISODES, strict=True):
        policy = policy.session(seed) if restart else policy
        policy.reset()
        actions += [policy.act(obs).tolist() for obs in episode]
    return actions


def test_openpi_client(drive, folder):
    with serving(folder) as live:
        found = drive("openpi", live, episodes=EPISODES.tolist())
    assert found["actions"] == expected(folder, [3, 3], restart=False)
    assert found["metadata"] == "a"
    assert "nonfinite: " in found["said"]
    assert "Traceback" not in found["said"]


def test_openpi_client_shows_its_key_and_chooses_a_model_by_path(drive, folder, tmp_path):
    other = write_bundle(tmp_path / "other", seed=1)
    with serving(other, folder, api_key="k") as live:
        address = f"ws://127.0.0.1:{live.server.port}/models/b"
        task = {"host": address, "key": "k", "episodes": EPISODES.tolist()}
        script = (
            "import json, sys; sys.path.insert(0, sys.argv[1]); import drive_harness_client as d\n"
            "print(json.dumps(d.openpi(None, json.load(sys.stdin))))"
        )
        interpreter = os.environ[VARIABLE]
        done = subprocess.run(
            [interpreter, "-c", script, str(DRIVER.parent)],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    found = json.loads(done.stdout)
    assert found["actions"] == expected(folder, [3, 3], restart=False)
    assert found["metadata"] == "b"


def test_the_example_of_openpi_client(interpreter, folder):
    policy = load_policy(folder, provider="cpu")
    last = [policy.act(np.zeros(4)) for _ in range(3)][-1]
    script = Path(__file__).parents[3] / "examples" / "act_with_openpi.py"
    with serving(folder) as live:
        command = [interpreter, str(script), str(live.server.port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == f"3 actions, the last is {last}"


def test_vla_eval(drive, folder):
    with serving(folder) as live:
        found = drive("vla_eval", live, episodes=EPISODES.tolist())
    assert found["actions"] == expected(folder, [3, 4], restart=True)
    assert found["server"] == "a"
    assert "nonfinite" in found["said"]
    third = load_policy(folder, provider="cpu", seed=5).act(np.zeros(4))
    assert found["again"] == third.tolist()  # the refused observation changed nothing


def test_vla_eval_stays_in_step_after_an_episode_that_could_not_start(drive, folder):
    episodes = np.random.default_rng(6).standard_normal((3, 4, 4)).astype(np.float32)
    with serving(folder, max_sessions=1) as live:
        found = drive("vla_eval_full", live, episodes=episodes.tolist())
    assert "sessions_full" in found["said"]
    first, _, third = episodes
    actions = []
    for seed, episode in ((0, first), (2, third)):
        policy = load_policy(folder, provider="cpu", seed=seed)
        actions += [policy.act(obs).tolist() for obs in episode]
    assert found["actions"] == actions


def test_tritonclient(drive, folder):
    with serving(folder) as live:
        found = drive("triton", live, episodes=EPISODES.tolist())
    assert found["actions"] == expected(folder, [3, 3], restart=True)
    assert "no such session" in found["said"]
    assert found["inputs"][0] == "observation"
    assert found["server"] == "agentzoo"
    assert found["index"] == [{"name": "a", "version": "1", "state": "READY"}]
    policy, state, stateless = load_policy(folder, provider="cpu"), None, []
    for t in range(0, 6, 2):
        actions, state = policy.predict(EPISODES[0][t : t + 2], state, None, None)
        stateless.append(actions.tolist())
    assert found["stateless"] == stateless


@pytest.mark.parametrize("client", ["openpi_image", "vla_eval_image"])
def test_images_arrive_exactly(drive, bundles, client):
    folder, _ = bundles("box")
    rng = np.random.default_rng(0)
    obs = {"image": rng.integers(0, 256, (6, 5, 3), np.uint8), "Zoom/v": rng.random((2, 2))}
    action = load_policy(folder, provider="cpu").act(obs)
    with serving(folder) as live:
        found = drive(client, live, obs={key: value.tolist() for key, value in obs.items()})
    assert found["actions"] == action.tolist()
