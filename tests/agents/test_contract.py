"""One contract for every agent: environment -> replay -> update -> checkpoint -> kill -> resume ->
export -> verify -> runtime. It stands in `agentzoo.testing`, for agents of others too."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from agentzoo import testing
from agentzoo.agent import Agent
from agentzoo.testing import Case, ContractError, Learned
from tests.agents.contract import CASES, PENDULUM
from tests.agents.toys import TOYS, Toy, agent

# the toys are of use to who changes the contract; agents people train are in the fast tests
PARAMS = [pytest.param(n, marks=[pytest.mark.slow] if n in TOYS else []) for n in CASES]


@pytest.fixture(scope="module", params=PARAMS)
def learned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """An agent after an uninterrupted run, and what its run held."""
    name = request.param
    return testing.learn(CASES[name], tmp_path_factory.mktemp(name) / "run")


def test_learns_what_the_schedule_says(learned: Learned) -> None:
    testing.check_schedule(learned)


def test_killed_run_resumes_to_same_replay_and_weights(learned: Learned, tmp_path: Path) -> None:
    testing.check_resume(learned, tmp_path / "run")


def test_acts_in_its_space_and_repeats_itself(learned: Learned) -> None:
    testing.check_acting(learned)


def test_saved_and_loaded_is_the_same_agent(learned: Learned, tmp_path: Path) -> None:
    testing.check_saving(learned, tmp_path / "saved")


def test_exported_policy_steps_the_same(learned: Learned, tmp_path: Path) -> None:
    testing.check_export(learned, tmp_path / "bundle")


class ForgetfulAlgorithm(Toy):
    """Counts its updates where no checkpoint finds them, and lets them count."""

    count = 0

    def learn_from(self, states, batch, target, noise):
        self.count += 1
        return super().learn_from(states, batch, target + self.count, noise)


class JumpyAlgorithm(Toy):
    """Acts otherwise each time it is asked, once it has acted for a while."""

    calls = 0

    def act(self, deter, noise, deterministic):
        self.calls += 1
        sign = (-1) ** self.calls if self.calls > 100 else 1
        return super().act(deter, noise, deterministic) * sign


class KeepingAlgorithm(Toy):
    """Goes on from the state of the episode before."""

    def observe(self, carry, obs, noise):
        obs = {**obs, "is_first": torch.zeros_like(obs["is_first"])}
        return super().observe(carry, obs, noise)


class Forgetful(agent("Base", ForgetfulAlgorithm)):
    pass


class Keeping(agent("Base", KeepingAlgorithm)):
    pass


class Jumpy(agent("Base", JumpyAlgorithm)):
    pass


def test_state_that_no_checkpoint_finds_is_noticed(tmp_path: Path) -> None:
    learned = testing.learn(Case(Forgetful, PENDULUM), tmp_path / "run")
    with pytest.raises(ContractError, match=r"'model\.safetensors'.* has to be in buffers"):
        testing.check_resume(learned, tmp_path / "killed")


def test_a_step_that_is_not_pure_is_noticed(tmp_path: Path) -> None:
    learned = testing.learn(Case(Jumpy, PENDULUM), tmp_path / "run")
    with pytest.raises(
        ContractError, match=r"JumpyAlgorithm\.step acts differently in two sessions"
    ):
        testing.check_acting(learned)


def test_a_step_that_does_not_reset_is_noticed(tmp_path: Path) -> None:
    learned = testing.learn(Case(Keeping, PENDULUM), tmp_path / "run")
    match = r'KeepingAlgorithm\.step keeps deter, prev_action of its carry where obs\["is_first"\]'
    with pytest.raises(ContractError, match=match):
        testing.check_acting(learned)


def test_a_run_too_short_to_be_killed_says_which_steps_to_choose(tmp_path: Path) -> None:
    kind = TOYS["BestOfMany"]
    with pytest.raises(ContractError, match=r"kill_at=1000 is no step before the end .* steps=320"):
        testing.check(Case(kind, PENDULUM, steps=320), tmp_path / "none")
    learned = testing.learn(Case(kind, PENDULUM, steps=320, kill_at=200), tmp_path / "run")
    match = r"nothing was learned in 320 steps, of which prefill=400 are random.* smaller prefill"
    with pytest.raises(ContractError, match=match):
        testing.check_schedule(learned)
    match = r"no checkpoint was made before step 200, where the run is killed; choose a later --kil"
    with pytest.raises(ContractError, match=match):
        testing.check_resume(learned, tmp_path / "killed")


@pytest.mark.slow
def test_the_command_line_of_the_page_checks_its_agent() -> None:
    command = [sys.executable, "-m", "agentzoo.testing", "own_agent:OneStep", "gym:Pendulum-v1"]
    examples = Path(__file__).parents[2] / "examples"
    told = subprocess.run(command, cwd=examples, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-2000:]
    assert json.loads(told.stdout)["kept"] is True
    assert "killed at step 1,000 and resumed, it ends with the same files" in told.stderr


def test_an_agent_that_no_process_can_import_is_named(tmp_path: Path) -> None:
    class Local(TOYS["BestOfMany"]):
        pass

    kind: type[Agent] = Local
    learned = testing.learn(Case(kind, PENDULUM, steps=500), tmp_path / "run")
    with pytest.raises(ContractError, match=re.escape("<locals>.Local cannot be imported")):
        testing.check_resume(learned, tmp_path / "killed")
