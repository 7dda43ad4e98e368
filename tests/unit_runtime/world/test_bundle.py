"""The world model in a bundle: checked like the policy, and without torch the same dreams."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from agentzoo import DreamEnv, Dreamer, DreamerV3
from agentzoo.agent import Agent
from agentzoo.hub.package import NAMES, SERVING
from agentzoo.runtime import load_policy, load_world, verify
from agentzoo.runtime.bundle.manifest import read_manifest
from agentzoo.runtime.errors import BundleError
from agentzoo.runtime.world import has_world
from tests.agents.toys import TOYS
from tests.unit_runtime.bundles import replace

WORLD = {"world_imagine.onnx", "world_decode.onnx", "world_golden.npz"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Agent, Path]:
    torch.set_num_threads(1)
    agent = DreamerV3("gym:CartPole-v1", preset="debug", seed=3)
    return agent, agent.export(tmp_path_factory.mktemp("made"), golden_steps=30, world=True)


@pytest.fixture
def folder(made: tuple[Agent, Path], tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    for path in made[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def first(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=4).astype(np.float32)


def test_it_adds_three_files_that_the_hub_knows(made) -> None:
    _, folder = made
    assert has_world(folder)
    assert {*WORLD} <= {path.name for path in folder.iterdir()} & {*NAMES} & {*SERVING}
    manifest = read_manifest(folder)
    assert manifest.world is not None
    assert manifest.world.judges == ("reward", "continue", "value")
    assert manifest.world.acts
    assert {*WORLD} <= manifest.files.keys()


def test_the_same_dreams_as_the_agents(made) -> None:
    agent, folder = made
    ours, theirs = agent.world, load_world(folder, provider="cpu")
    obs = first()
    a, b = (world.imagine(world.encode(obs), steps=5) for world in (ours, theirs))
    np.testing.assert_array_equal(a.actions, b.actions)
    for name in a.carry:
        np.testing.assert_allclose(a.carry[name], b.carry[name], atol=1e-5)
    for name in a.judgements:
        np.testing.assert_allclose(a.judgements[name], b.judgements[name], atol=1e-4)
    np.testing.assert_allclose(
        ours.decode(a)["observation"], theirs.decode(b)["observation"], atol=1e-4
    )


def test_verify_checks_the_dream_too(made) -> None:
    found = verify(made[1], provider="cpu")
    assert found.dream is not None
    assert found.dream.steps == 20
    assert found.dream.worst < 1e-4
    assert "its dream, DreamerV3: 20 recorded steps agree" in str(found)


def test_its_trace_was_played_in_the_environment(made) -> None:
    found = load_world(made[1], provider="cpu").starts()
    assert sum(len(one) for one in found) == 30
    for one in found:
        assert len(one) <= 17
        assert (np.abs(one.obs["observation"][0]) <= 0.05).all()  # where CartPole begins
    env = DreamEnv(load_world(made[1], provider="cpu"))
    obs, info = env.reset(seed=3)
    assert env.observation_space.contains(obs)
    assert info["start"] in range(len(found))


def test_without_torch(made) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from agentzoo.runtime import DreamEnv, load_world\n"
        f"env = DreamEnv(load_world({str(made[1])!r}, provider='cpu'))\n"
        "env.reset(seed=0)\n"
        "print(sum(env.step(1)[1] for _ in range(3)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    agent = DreamEnv(load_world(made[1], provider="cpu"))
    agent.reset(seed=0)
    assert float(done) == pytest.approx(sum(agent.step(1)[1] for _ in range(3)), abs=1e-6)


def test_a_bundle_without_a_world_says_how_to_make_one(folder: Path) -> None:
    agent = Dreamer("gym:CartPole-v1", preset="debug", seed=3)
    agent.export(folder, golden_steps=5)
    assert not has_world(folder)
    assert "world" not in json.loads((folder / "manifest.json").read_text())
    assert verify(folder, provider="cpu").dream is None
    with pytest.raises(BundleError, match=r"without its world model; .*export --world"):
        load_world(folder)


def test_what_was_tampered_with_is_refused_by_name(folder: Path) -> None:
    for name in sorted(WORLD):
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(BundleError, match=f"{name} is not the file that was exported"):
            load_world(folder)
        path.unlink()
        with pytest.raises(BundleError, match=f"lacks {name}"):
            load_policy(folder)
        path.write_bytes(content)
    assert load_policy(folder, provider="cpu").spec.agent == "DreamerV3"


def respell(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change the recorded dream, and make the manifest true of it."""
    trace = dict(np.load(folder / "world_golden.npz"))
    change(trace)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **trace)
    replace(folder, "world_golden.npz", file.getvalue())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t["imagine_reward"].__iadd__(1e5), "20 of 20 recorded steps differ"),
        (lambda t: t["decode_obs_00_observation"].__iadd__(0.1), "recorded steps differ"),
        (lambda t: t.pop("margin"), "world_golden.npz lacks or adds margin"),
        (lambda t: t.update(margin=t["margin"] - np.inf), "holds the margin nan|holds the margin"),
        (lambda t: t.update(decode_value=t["decode_value"][:3]), "holds decode_value of shape"),
    ],
)
def test_a_false_recording_is_found(folder: Path, change, match: str) -> None:
    respell(folder, change)
    with pytest.raises(BundleError, match=match):
        verify(folder, provider="cpu")


@pytest.mark.parametrize(
    ("world", "match"),
    [
        ({"judges": ["fear"], "acts": True}, 'judges "fear"'),
        ({"judges": ["reward", "reward"], "acts": True}, "at most once"),
        ({"judges": ["reward"], "acts": True}, "names the graphs' tensors otherwise"),
        ({"judges": ["reward"]}, 'lacks the field "acts"'),
        (7, "is 7, expected an object"),
    ],
)
def test_a_false_manifest_is_found(folder: Path, world: object, match: str) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "world": world}))
    with pytest.raises(BundleError, match=match):
        read_manifest(folder)


def test_an_agent_without_a_world_model_is_told_what_it_needs(tmp_path: Path) -> None:
    agent = TOYS["BestOfMany"]("gym:Pendulum-v1", preset="debug", seed=0, device="cpu")
    with pytest.raises(BundleError, match=r"needs the methods dream, decode and judge of"):
        agent.export(tmp_path / "bundle", world=True)
    assert not (tmp_path / "bundle").exists()
