"""results.json: written where the user says, never over a better one, never into a store."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agentzoo.hub as publishing
from agentzoo.cli import main as cli
from agentzoo.hub import push
from agentzoo.runtime import evaluate, load_policy
from agentzoo.runtime.bundle.manifest import policy_digest, read_manifest
from agentzoo.runtime.errors import BundleError
from agentzoo.runtime.evaluation.results import read_results, write_results
from agentzoo.runtime.evaluation.rollout import bootstrap
from tests.unit_hub.standin import StandIn
from tests.unit_runtime.bundles import linear, score

REPO = "me/dreamer-gym-CartPole-v1"


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def rescore(folder: Path, **changes: object) -> None:
    path = folder / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# -- where ---------------------------------------------------------------------------------------


def test_nothing_is_written_that_nobody_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "results.json").read_bytes()
    code, out, _ = said(capsys, "evaluate", str(folder), "--episodes=1")
    assert (code, "results:" in out) == (0, False)
    assert (folder / "results.json").read_bytes() == before


def test_a_score_is_written_where_it_is_said_with_its_episodes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "results.json").unlink()
    code, out, _ = said(capsys, "evaluate", str(folder), "--episodes=2", f"--record={folder}")
    assert code == 0
    assert f"results: {folder / 'results.json'}, 2 episodes" in out
    assert len(read_results(folder).returns) == 2
    other = tmp_path / "scores" / "pole.json"
    assert said(capsys, "evaluate", str(folder), "--episodes=1", f"--record={other}")[0] == 0
    assert len(json.loads(other.read_text())["returns"]) == 1


def test_fewer_episodes_do_not_replace_more(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = said(capsys, "evaluate", str(folder), "--episodes=1", f"--record={folder}")
    assert code == 2
    assert "holds 10 episodes of this policy, and these are 1; evaluate as many" in err
    assert len(read_results(folder).returns) == 10


def test_a_score_of_another_policy_is_not_written_into_a_bundle(
    folder: Path, another: Callable[[int], Path]
) -> None:
    with pytest.raises(BundleError, match="is of another graph or plan"):
        write_results(evaluate(load_policy(another(1)), episodes=1), folder)
    elsewhere = evaluate(load_policy(folder), "gym:CartPole-v1?max_episode_steps=9", episodes=1,
                         override=True)  # fmt: skip
    with pytest.raises(BundleError, match="is of the environment"):
        write_results(elsewhere, folder)


def test_a_folder_hub_is_not_written_into(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = push(folder, f"file:{tmp_path}/agents")
    there = publishing.pull(address)
    before = (there / "results.json").read_bytes()
    for out in (there, there / "results.json", tmp_path / "agents" / "x.json"):
        code, _, err = said(capsys, "evaluate", str(there), "--episodes=20", f"--record={out}")
        assert code == 2
        assert "lies in a folder that is a hub" in err
        assert "agentzoo pull ADDRESS FOLDER" in err
    code, _, err = said(capsys, "evaluate", str(there), f"--video={there / 'replay.mp4'}")
    assert (code, "lies in a folder that is a hub" in err) == (2, True)
    assert (there / "results.json").read_bytes() == before
    assert publishing.pull(address) == there


def test_the_cache_is_not_written_into(
    hub: StandIn, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = push(folder, REPO)
    there = publishing.pull(address)
    before = (there / "results.json").read_bytes()
    code, _, err = said(capsys, "evaluate", str(there), "--episodes=20", f"--record={there}")
    assert code == 2
    assert "lies in the cache of the Hugging Face Hub" in err
    assert (publishing.pull(address) / "results.json").read_bytes() == before


def test_what_came_with_the_package_is_not_written_into(
    capsys: pytest.CaptureFixture[str],
) -> None:
    there = publishing.pull("zoo:dreamer-dmc-cartpole-swingup")
    code, _, err = said(capsys, "evaluate", str(there), f"--record={there}")
    assert (code, "lies in the zoo" in err) == (2, True)


# -- what ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"agent": "MuZero<b>"}, "is of the agent 'MuZero<b>', the policy's is 'Dreamer'"),
        ({"env": "dmc:humanoid-run"}, "is of the environment 'dmc:humanoid-run'"),
        ({"env": ""}, "is of the environment ''"),
        ({"repeat": 4}, "is of the action repeat 4, the policy's is 1"),
        ({"policy_sha256": ""}, r"is of another graph or plan, with sha256 .none."),
    ],
)
def test_push_takes_no_score_of_something_else(
    hub: StandIn, folder: Path, change: dict[str, object], match: str
) -> None:
    rescore(folder, **change)
    with pytest.raises(BundleError, match=rf"{match}.* anew: agentzoo evaluate"):
        push(folder, REPO)
    assert hub.requests == []


def test_push_asks_for_ten_episodes(folder: Path, tmp_path: Path) -> None:
    score(folder, 9)
    with pytest.raises(BundleError, match=r"holds 9 episodes, .* at least 10; .* --record "):
        push(folder, f"file:{tmp_path}/agents")
    score(folder, 10)
    push(folder, f"file:{tmp_path}/agents")


def test_a_planners_digest_is_of_every_graph_and_the_plan(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from agentzoo.export import export
    from tests.unit_runtime.toys import PlanningToy, seeded, toy_spec

    toy = seeded(PlanningToy)
    folder = export(toy, toy_spec(toy), tmp_path / "planner", golden_steps=2)
    manifest = read_manifest(folder)
    spec, files = manifest.policy, manifest.files
    digest = load_policy(folder).digest
    assert digest == policy_digest(spec, files)
    others: list[str] = [load_policy(folder, plan={"candidates": 9}).digest]
    for name in ("observe.onnx", "score.onnx"):
        others.append(policy_digest(spec, {**files, name: changed(files[name], sha256="0" * 64)}))
    assert spec.plan is not None
    for name in ("horizon", "elites", "iterations", "candidates"):
        plan = changed(spec.plan, **{name: getattr(spec.plan, name) + 1})
        others.append(policy_digest(changed(spec, plan=plan), files))
    assert len({digest, *others}) == 1 + len(others)


def test_one_graph_without_a_plan_is_its_own_digest(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert load_policy(folder).digest == manifest.files["policy.onnx"].sha256


# -- how sure ------------------------------------------------------------------------------------


@pytest.mark.parametrize("episodes", [1, 7, 10, 300, 2_001])
def test_the_bootstrap_in_parts_is_the_bootstrap(episodes: int) -> None:
    values = np.random.default_rng(episodes).normal(0, 1, episodes)
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, episodes, (10_000, episodes))].mean(1)
    assert bootstrap(values.tolist()) == tuple(np.quantile(means, [0.025, 0.975]).tolist())


def test_a_file_that_cannot_be_read_back_is_not_written(folder: Path, tmp_path: Path) -> None:
    found: Any = read_results(folder)
    with pytest.raises(BundleError, match=r"holds a return of 1\.00e.300"):
        write_results(changed(found, returns=(1e300,) * 10), tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


def test_a_copy_may_be_written_to(folder: Path, tmp_path: Path) -> None:
    address = push(folder, f"file:{tmp_path}/agents")
    copy = publishing.pull(address, folder=tmp_path / "copy")
    write_results(evaluate(load_policy(copy), episodes=11, seed=5), copy)
    assert read_results(copy).seeds == tuple(range(5, 16))
    assert read_results(publishing.pull(address)).seeds[0] == 1_000
    shutil.rmtree(copy)
    assert linear(copy, episodes=1).is_dir()
