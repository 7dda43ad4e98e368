"""Bundles of planners: all graphs go up, and the score without planning stands beside the other."""

import json
import shutil
from math import prod
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

from agentzoo import TDMPC2
from agentzoo.agents.tdmpc2 import TDMPC2Algorithm
from agentzoo.hub import load_policy, push
from agentzoo.hub.card import body
from agentzoo.hub.naming import parse
from agentzoo.hub.package import GRAPHS, Package, read_package
from agentzoo.publish import package
from agentzoo.runtime import evaluate
from agentzoo.runtime import load_policy as open_folder
from agentzoo.runtime.bundle.load import inspect
from agentzoo.runtime.bundle.manifest import UNPLANNED, read_manifest
from agentzoo.runtime.errors import BundleError
from agentzoo.runtime.evaluation.results import write_results
from agentzoo.runtime.policy.onnx_session import graph_specs
from agentzoo.runtime.spec import PLANNED

FLOAT = onnx.TensorProto.FLOAT
ENV = "gym:Pendulum-v1?max_episode_steps=8"
WITHOUT = ["replay.mp4", "learning_curve.png"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained planner with a policy network, as `package` leaves it."""
    folder = tmp_path_factory.mktemp("planner") / "bundle"
    agent = TDMPC2(ENV, preset="debug", device="cpu", seed=0, candidates=6, proposals=2)
    agent.save(folder)
    package(agent, folder, episodes=10, without=WITHOUT)
    return folder


def read(folder: Path) -> Package:
    return read_package(folder, WITHOUT)


def test_every_graph_is_one_that_goes_up(made: Path) -> None:
    assert set(read_manifest(made).graphs) == {
        "observe.onnx", "score.onnx", "value.onnx", "propose.onnx"}  # fmt: skip
    assert {*read_manifest(made).graphs} < {*GRAPHS}


def test_weights_stand_once_in_each_graph(made: Path) -> None:
    algorithm = TDMPC2.load(made, device="cpu").algorithm
    assert isinstance(algorithm, TDMPC2Algorithm)
    parts = {
        "observe": ["encoder"],
        "score": ["dynamics", "reward", "termination"],
        "value": ["pi", "q"],
        "propose": ["pi"],
    }
    constants = len(algorithm.bins) + 20  # bins, epsilons, bounds
    for name, networks in parts.items():
        graph = onnx.load(made / f"{name}.onnx").graph
        found = sum(prod(one.dims) for one in graph.initializer if one.data_type == FLOAT)
        held = sum(
            parameter.numel()
            for network in networks
            for parameter in algorithm.get_submodule(network).parameters()
        )
        assert found <= held + constants, name


def test_no_noise_of_the_planner_is_recorded(made: Path) -> None:
    policy, specs = read_manifest(made).policy, graph_specs(read_manifest(made).policy)
    with np.load(made / "golden.npz", allow_pickle=False) as golden:
        assert {name for name in golden if name.startswith("noise")} == set()
        assert {*specs["observe.onnx"].inputs} <= {*golden}
        assert golden["returns"].shape[1] == 6  # candidates, of which all four graphs have a part
    assert {one.role for one in policy.noise.values()} <= {*PLANNED}


def test_the_card_has_both_scores(made: Path) -> None:
    found = read(made)
    assert found.unplanned is not None
    assert found.unplanned.seeds == found.results.seeds
    text = body(found, parse("me/pole"))
    assert f"| mean return | {found.results.mean:.2f} ± " in text
    row = f'| without planning, `plan="off"` | {found.unplanned.mean:.2f} ± '
    assert row in text
    assert "score, plan=off" in inspect(made)


def test_both_scores_and_all_graphs_come_back(made: Path, tmp_path: Path) -> None:
    address = push(made, f"file:{tmp_path}/agents/pole", without=WITHOUT)
    found = read(made)
    assert found.unplanned is not None
    pairs = (
        (load_policy(address), found.results),
        (load_policy(address, plan="off"), found.unplanned),
    )
    for policy, score in pairs:
        assert evaluate(policy, episodes=2, seed=score.seed).returns == score.returns[:2]


def test_a_score_goes_where_it_belongs(folder_of: Path) -> None:
    (folder_of / UNPLANNED).unlink()
    before = (folder_of / "results.json").read_bytes()
    assert read(folder_of).unplanned is None
    alone = evaluate(open_folder(folder_of, plan="off"), episodes=10, seed=3)
    assert write_results(alone, folder_of) == folder_of / UNPLANNED
    assert read(folder_of).unplanned == alone
    assert (folder_of / "results.json").read_bytes() == before


def test_a_score_with_another_plan_is_neither(folder_of: Path) -> None:
    other = evaluate(open_folder(folder_of, plan={"iterations": 1}), episodes=10, seed=3)
    with pytest.raises(BundleError, match="is of another graph or plan"):
        write_results(other, folder_of)
    (folder_of / UNPLANNED).write_text(json.dumps(other.to_json()))
    with pytest.raises(BundleError, match=r"another graph or plan.*--plan off --record"):
        read(folder_of)


@pytest.fixture
def folder_of(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "copy")
