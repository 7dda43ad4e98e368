"""Agents of others: found by their entry point, named where they are not, loaded and learned."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

import agentzoo
from agentzoo.agent import Agent
from agentzoo.agents.registry import OWN, agents, named
from agentzoo.runtime.errors import AgentZooError, BundleError, ConfigError
from tests.agents.contract import EXAMPLES, PENDULUM, OneStep

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes a distribution that registers agents, as pip would leave it."""

    def made(distribution: str, **entries: str) -> Path:
        site = tmp_path / distribution
        info = site / f"{distribution}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n")
        lines = [f"{name} = {target}" for name, target in entries.items()]
        (info / "entry_points.txt").write_text("[agentzoo.agents]\n" + "\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(site)
        return site

    return made


def test_the_package_offers_what_the_table_has() -> None:
    offered = {
        name for name in agentzoo.__all__ if name not in ("Agent", "DreamEnv", "ForeignPolicy")
    }
    classes = {n for n in offered if isinstance(getattr(agentzoo, n), type)}
    assert classes == set(OWN)
    for name, entry in OWN.items():
        assert entry.load() is getattr(agentzoo, name)
        assert entry.command == name.lower()


def test_a_registered_agent_is_found_in_any_spelling(install: Install) -> None:
    install("steps", OneStep="own_agent:OneStep")
    assert agents()["OneStep"].load() is OneStep
    for spelling in ("onestep", "one-step", "One_Step"):
        assert named(spelling).load() is OneStep


def test_a_registered_agents_run_is_loaded_by_its_name(install: Install, tmp_path: Path) -> None:
    saved = OneStep(PENDULUM, preset="debug", seed=1).save(tmp_path / "saved")
    with pytest.raises(
        BundleError, match=r"'OneStep', which no installed package registers.*Ones?"
    ):
        agentzoo.load(saved)
    install("steps", OneStep="own_agent:OneStep")
    assert isinstance(agentzoo.load(saved), OneStep)


def test_the_command_line_learns_a_registered_agent(install: Install, tmp_path: Path) -> None:
    site = install("steps", OneStep="own_agent:OneStep")
    command = [*("-m", "agentzoo.cli.main", "learn", "one-step", PENDULUM), "--steps", "600"]
    command += ["--preset", "debug", "--run", str(tmp_path / "run"), "--device", "cpu"]
    paths = ":".join([str(site), EXAMPLES, *sys.path])
    done = subprocess.run(
        [sys.executable, *command], env={"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "next: agentzoo export" in done.stdout
    shown = subprocess.run(
        [sys.executable, "-m", "agentzoo.cli.main", "learn", "--help"],
        env={"PYTHONPATH": paths, "COLUMNS": "200"}, capture_output=True, text=True,
    )  # fmt: skip
    assert "onestep" in shown.stdout


def test_an_unknown_agent_is_answered_with_where_agents_come_from() -> None:
    with pytest.raises(
        AgentZooError, match=r'called "dramer"; did you mean "dreamer".*entry point'
    ):
        named("dramer")


def test_two_packages_of_one_name_are_an_error_when_it_is_used(install: Install) -> None:
    install("steps", OneStep="own_agent:OneStep")
    install("other", Onestep="somewhere:Onestep", PlaNet="somewhere:PlaNet")
    assert agents()["Dreamer"].load() is agentzoo.Dreamer
    with pytest.raises(ConfigError, match=r"is registered by .*; which is meant cannot be told"):
        named("onestep").load()
    with pytest.raises(ConfigError, match="is registered by agentzoo, other"):
        named("planet").load()


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"Gadget": "own_agent:OneStepAlgorithm"}, "is no subclass of agentzoo.Agent"),
        ({"Gadget": "own_agent:OneStep"}, 'the class OneStep as "Gadget"; an entry point of'),
        ({"Gadget": "own_agent:Missing"}, "own_agent:Missing, and own_agent has no Missing; mend"),
    ],
)
def test_what_is_registered_has_to_be_an_agent(
    install: Install, entry: dict[str, str], match: str
) -> None:
    install("gadgets", **entry)
    with pytest.raises(ConfigError, match=match):
        named("gadget").load()


def test_what_is_registered_has_to_be_importable(install: Install) -> None:
    site = install("gadgets", Gadget="gadget_of_nobody:Gadget", Gizmo="gizmo_of_mine:Gizmo")
    (site / "gizmo_of_mine.py").write_text("import nothing_of_this_name\n")
    said = 'the package gadgets registers the agent "{}" as {}.*cannot be imported .No module named'
    with pytest.raises(ConfigError, match=said.format("Gadget", "gadget_of_nobody:Gadget")):
        named("gadget").load()
    with pytest.raises(ConfigError, match=said.format("Gizmo", "gizmo_of_mine:Gizmo")):
        named("gizmo").load()
    assert named("dreamer").load() is agentzoo.Dreamer


def test_a_class_without_presets_says_so() -> None:
    class Bare(Agent):
        config_class = OneStep.config_class

    with pytest.raises(ConfigError, match=r"Bare lacks algorithm_class \(.*\), presets \("):
        Bare()


def test_an_algorithm_that_lacks_parts_names_them() -> None:
    class Half(OneStep.algorithm_class):
        update = optimizers = property(lambda self: self.missing)

    class Broken(OneStep):
        algorithm_class = Half

    with pytest.raises(ConfigError, match="Half lacks optimizers of PlanningAlgorithm, update of"):
        Broken(PENDULUM, preset="debug")


def test_a_planner_without_its_heads_names_them() -> None:
    class Headless(OneStep.algorithm_class):
        def __init__(self, obs, action, config):
            super().__init__(obs, action, config)
            from agentzoo.runtime.spec import MPPISpec

            self.plan_spec = MPPISpec(heads=("value", "policy"))

    class Broken(OneStep):
        algorithm_class = Headless

    with pytest.raises(ConfigError, match="Headless lacks value of Valuing, policy of Proposing"):
        Broken(PENDULUM, preset="debug")


def test_the_recipe_is_told_of_the_world() -> None:
    seen = []

    class Curious(OneStep):
        @classmethod
        def env_overrides(cls, config, world):
            seen.append(world)
            return {}

    Curious("gym:Pendulum-v1?repeat=2", preset="debug")
    Curious("gym:Pendulum-v1", preset="debug", repeat=4)
    Curious("gym:Pendulum-v1", preset="debug")
    assert [(w.suite, w.time_limit, w.repeat) for w in seen] == [
        ("gym", 200, 2), ("gym", 200, 4), ("gym", 200, None),
    ]  # fmt: skip
    assert seen[0].obs["observation"].shape == (3,)
