"""Agents that learned with torch: published, found, loaded, run again."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

import agentzoo
from agentzoo import Dreamer, PlaNet
from agentzoo.agents.registry import agents
from agentzoo.algorithm import module
from agentzoo.cli import main as cli
from agentzoo.hub import load_policy, pull, push
from agentzoo.hub.card import write_card
from agentzoo.hub.naming import parse
from agentzoo.hub.package import read_package
from agentzoo.runtime.bundle.agent_config import read_settings
from agentzoo.runtime.errors import BundleError, ConfigError, EnvironmentStringError, RunError
from tests.unit_hub.standin import StandIn
from tests.unit_runtime.bundles import rename_env, replace

ENV = "gym:CartPole-v1"
WITHOUT = ["replay.mp4"]  # filming takes longer than the rest


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few seconds."""
    folder = tmp_path_factory.mktemp("run") / "run"
    Dreamer(ENV, preset="debug", device="cpu", seed=3, horizon=4).learn(
        400, run=folder, progress=False
    )
    return folder


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as `export` and `evaluate` of the command line leave it."""
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    for words in (
        ["export", str(run), str(folder)],
        ["evaluate", str(folder), "--record", str(folder)],
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        assert not end.value.code
    return folder


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_the_folder_says_how_the_agent_was_trained(bundle: Path) -> None:
    training = read_settings(bundle).training
    assert training is not None
    assert training.preset == "debug"
    assert training.overrides == ("horizon=4",)
    assert training.env_steps >= 400
    assert training.paper == "Hafner et al. 2020, arXiv:1912.01603"
    assert training.differs["deter"] == ("200", "16")
    assert training.differs["horizon"][1] == "4"
    assert "total_steps" not in training.differs


def test_a_loaded_agent_remembers(bundle: Path, run: Path, tmp_path: Path) -> None:
    expected = json.loads((bundle / "config.json").read_text())["training"]
    for number, folder in enumerate((bundle, run)):
        again = agentzoo.load(folder, device="cpu").save(tmp_path / str(number))
        assert json.loads((again / "config.json").read_text())["training"] == expected


def test_an_agent_goes_to_the_hub_and_comes_back(hub: StandIn, run: Path, tmp_path: Path) -> None:
    agent = agentzoo.load(run, device="cpu")
    address = agent.push_to_hub("me/pole", without=WITHOUT, folder=tmp_path / "out")
    back = agentzoo.load(address, device="cpu")
    assert isinstance(back, Dreamer)
    assert Dreamer.load("me/pole", device="cpu").env == agent.env
    policy = load_policy(address)
    agents = [agent.session(5), back.session(5), policy.session(5)]
    rng = np.random.default_rng(0)
    for _ in range(20):
        obs = rng.standard_normal(4, np.float32)
        actions = [int(one.act(obs)) for one in agents]
        assert len(set(actions)) == 1
    ours, theirs = (module(one.algorithm).state_dict() for one in (agent, back))
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_the_wrong_class_names_the_right_one(hub: StandIn, bundle: Path) -> None:
    push(bundle, "me/pole", without=WITHOUT)
    with pytest.raises(BundleError, match=r"me/pole holds a Dreamer, not a PlaNet; use Dreamer"):
        PlaNet.load("me/pole")


def test_an_agent_class_that_is_not_in_the_table(
    hub: StandIn, bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(bundle, tmp_path / "evil")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["policy"]["agent"] = "os.system"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    settings = json.loads((folder / "config.json").read_text())
    settings["agent"] = "os.system"
    replace(folder, "config.json", json.dumps(settings).encode())
    hub.put("stranger/evil", {path.name: path.read_bytes() for path in folder.iterdir()})
    with pytest.raises(BundleError, match=r"'os\.system', which no installed package registers"):
        agentzoo.load("stranger/evil")
    assert all(name.isidentifier() for name in agents())


def test_a_module_in_the_environment_string_is_not_imported(
    hub: StandIn, bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(bundle, tmp_path / "evil")
    rename_env(folder, "gym:antigravity:CartPole-v1?repeat=1")
    hub.put("stranger/evil", {path.name: path.read_bytes() for path in folder.iterdir()})
    with pytest.raises(EnvironmentStringError, match="comes from a download"):
        agentzoo.load("stranger/evil")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s["config"].update(deter="many"), "deter='many'"),
        (lambda s: s["config"].update(evil=1), "no configuration field 'evil'"),
        (lambda s: s["training"].update(overrides=["evil=1"]), "no configuration field 'evil'"),
        (lambda s: s["training"].update(preset="evil"), "no preset 'evil'"),
    ],
)
def test_settings_from_elsewhere_are_typed(
    hub: StandIn, bundle: Path, tmp_path: Path, change: Callable[[Any], object], match: str
) -> None:
    folder = shutil.copytree(bundle, tmp_path / "odd")
    settings = json.loads((folder / "config.json").read_text())
    change(settings)
    replace(folder, "config.json", json.dumps(settings).encode())
    hub.put("stranger/odd", {path.name: path.read_bytes() for path in folder.iterdir()})
    with pytest.raises(ConfigError, match=match):
        agentzoo.load("stranger/odd", device="cpu")


@pytest.mark.slow
def test_a_planner_is_loaded_with_another_plan(hub: StandIn, tmp_path: Path) -> None:
    agent = PlaNet("gym:Pendulum-v1", preset="debug", device="cpu", seed=0)
    folder = agent.export(tmp_path / "planner", golden_steps=2)
    hub.put("me/planner", {path.name: path.read_bytes() for path in folder.iterdir()})
    plan = load_policy("me/planner", plan={"candidates": 8, "elites": 2}).spec.plan
    assert plan is not None
    assert (plan.candidates, plan.elites) == (8, 2)
    assert load_policy("me/planner").spec == agent.spec


def test_a_folder_is_a_hub_for_agents(bundle: Path, tmp_path: Path) -> None:
    address = push(bundle, f"file:{tmp_path}/agents", without=WITHOUT)
    assert address.startswith(f"file:{tmp_path}/agents/dreamer-gym-CartPole-v1@")
    agent = agentzoo.load(address.partition("@")[0], device="cpu")
    assert agent.spec == Dreamer.load(bundle, device="cpu").spec


def test_without_a_run_there_is_no_curve(run: Path, tmp_path: Path) -> None:
    saved = agentzoo.load(run, device="cpu").save(tmp_path / "saved")
    with pytest.raises(RunError, match=r"no returns to draw a learning curve .*without="):
        agentzoo.load(saved, device="cpu").push_to_hub("me/pole", without=WITHOUT)


def test_the_command_line_publishes_fetches_and_checks(
    hub: StandIn, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capsys, "push", str(bundle), "me/pole")
    assert (code, out) == (2, "")
    assert "has no replay.mp4; make it with: agentzoo evaluate" in err
    code, out, _ = said(capsys, "push", str(bundle), "me/pole", "--without=replay.mp4")
    assert code == 0
    assert out.startswith("published: me/pole@")
    assert re.search(r"^score: +mean \d+\.\d\d over 10 episodes$", out, re.MULTILINE)
    code, out, _ = said(capsys, "pull", "me/pole", str(tmp_path / "copy"))
    assert (code, out.strip()) == (0, str(tmp_path / "copy"))
    code, out, _ = said(capsys, "search", "pole")
    assert out.startswith("me/pole  ")
    assert " +/- " in out
    assert said(capsys, "search", "walker")[0] == 1
    code, out, _ = said(capsys, "evaluate", "me/pole", "--check")
    assert code == 0
    assert "equal: no episode's return differs" in out
    assert "recorded steps agree" in said(capsys, "verify", "me/pole")[1]
    assert "Dreamer" in said(capsys, "inspect", "me/pole")[1]


def fenced(card: str, language: str = "") -> list[str]:
    """The card's blocks of code."""
    return re.findall(rf"^```{language}\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)


def test_the_cards_snippets_run_as_they_stand(
    hub: StandIn, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(bundle, "me/pole", without=WITHOUT)
    card = (pull("me/pole") / "README.md").read_text()
    snippets = fenced(card, "python")
    assert len(snippets) == 2
    for snippet in snippets:
        exec(compile(snippet, "card", "exec"), {})
    ours, theirs = capsys.readouterr().out.split()
    assert float(ours) == float(theirs) > 0
    (check,) = (block for block in fenced(card) if "--check" in block)
    for line in check.splitlines():
        program, *words = shlex.split(line)
        assert (program, said(capsys, *words)[0]) == ("agentzoo", 0)


@pytest.mark.slow
def test_the_cards_command_trains_the_agent_again(bundle: Path, tmp_path: Path) -> None:
    card = write_card(read_package(bundle, WITHOUT), parse("me/pole"), "mit").read_text()
    (command,) = (block for block in fenced(card) if block.startswith("agentzoo learn"))
    program, *words = shlex.split(command.replace("\\\n", " "))
    threads = f"import torch; torch.set_num_threads({torch.get_num_threads()})"
    code = f"{threads}; from agentzoo.cli.main import main; main()"
    more = ["--run", str(tmp_path / "run"), "--device", "cpu"]
    again = [sys.executable, "-c", code, *words, *more]
    subprocess.run(again, cwd=Path(cli.__file__).parents[1], check=True, capture_output=True)
    agent, first = (agentzoo.load(place, device="cpu") for place in (tmp_path / "run", bundle))
    ours, theirs = (module(one.algorithm).state_dict() for one in (agent, first))
    assert program == "agentzoo"
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_the_verbs_of_the_hub_run_without_torch(hub: StandIn, bundle: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from agentzoo.cli.main import main\n"
        f"for words in (['push', {str(bundle)!r}, 'me/pole', '--without=replay.mp4'],\n"
        "  ['pull', 'me/pole'], ['search'], ['evaluate', 'me/pole', '--check'],\n"
        "  ['verify', 'me/pole'], ['inspect', 'me/pole']):\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert not end.code, words\n"
    )
    root = Path(cli.__file__).parents[1]
    environment = {**os.environ, "HF_HUB_CACHE": str(hub.root.parent / "cache")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert "published: me/pole@" in done.stdout
    assert "equal: no episode's return differs" in done.stdout


def test_a_score_of_a_published_policy_is_not_written_into_the_cache(
    hub: StandIn, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(bundle, "me/pole", without=WITHOUT)
    before = (pull("me/pole") / "results.json").read_bytes()
    code, out, _ = said(capsys, "evaluate", "me/pole", "--episodes=1", "--seed=5")
    assert code == 0
    assert "results:" not in out
    assert (pull("me/pole") / "results.json").read_bytes() == before


def test_a_check_that_fails_is_exit_code_1(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(bundle, tmp_path / "boast")
    results = json.loads((folder / "results.json").read_text())
    results["returns"] = [500.0] * 10
    (folder / "results.json").write_text(json.dumps(results))
    code, out, _ = said(capsys, "evaluate", str(folder), "--check")
    assert code == 1
    assert "does not contain zero" in out
