"""The contract that every agent keeps, to run on an agent of your own; needs no pytest.

    from agentzoo.testing import Case, check

    check(Case(MyAgent, "gym:Pendulum-v1"), folder)

or `python -m agentzoo.testing my_package.my_agent:MyAgent gym:Pendulum-v1`. It learns the preset
`debug`, kills a second run in the middle and resumes it to the same bits, acts, saves, loads,
exports, and compares the exported policy with torch step by step. docs/own_agent.md tells how.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentzoo.runtime.bundle.golden_trace import difference
from agentzoo.runtime.bundle.load import load_policy, verify
from agentzoo.runtime.envs import make_env
from agentzoo.runtime.errors import AgentZooError, nearest
from agentzoo.runtime.policy.policy import PolicyState
from agentzoo.runtime.policy.spaces import encode
from agentzoo.runtime.spec import Arrays

from .agent import Agent
from .algorithm import module
from .config import parse_setting, setting
from .contract import ContractError
from .export import export
from .train import checkpoint
from .train.checkpoint import Counters
from .train.events import Callback, Run
from .train.logger import read_metrics

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # which ends a process on Windows as well
STEPS = 1200
KILL_AT = 1000  # after the checkpoint that is due at 800
EVERY = 400  # environment steps between checkpoints, of all environments together
GOLDEN = 20  # recorded steps
TOLERANCE = 1e-3  # between a step by torch and by ONNX Runtime, relative where numbers exceed 1


@dataclass(frozen=True)
class Case:
    """An agent, where it learns, and settings beyond those of its preset.

    Attributes:
        agent: the class; it stands in a module, so that another process can import it.
        env: the environment, as a string.
        fields: fields of its configuration.
        preset: whose runs take seconds.
        steps: environment steps of a run.
        kill_at: step at which a second run is killed; after a checkpoint, every 400 steps.
        seed: of the run.
    """

    agent: type[Agent]
    env: str
    fields: Mapping[str, object] = field(default_factory=dict[str, object])
    preset: str = "debug"
    steps: int = STEPS
    kill_at: int = KILL_AT
    seed: int = 3

    def make(self, **fields: object) -> Agent:
        """The agent, on the CPU."""
        given = {**self.fields, **fields}
        # counted in each environment
        every = {"checkpoint_every": max(EVERY // int(str(given.get("envs", 1))), 1)}
        given = {**every, **given}
        return self.agent(self.env, preset=self.preset, device="cpu", seed=self.seed, **given)


@dataclass(frozen=True)
class Learned:
    """The outcome of an uninterrupted run of a case.

    Attributes:
        case: what learned.
        agent: after the run.
        training: of the run, as callbacks see it.
        run: its folder.
    """

    case: Case
    agent: Agent
    training: Run
    run: Path


class _Keep(Callback):
    training: Run

    def on_start(self, training: Run) -> None:
        self.training = training


class KillAt(Callback):
    """Ends the process at an environment step as `kill -9` would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, training: Run) -> None:
        """See the class."""
        if training.counters.env_step >= self.step:
            os.kill(os.getpid(), KILL)


def check(case: Case, folder: str | Path, say: Callable[[str], None] = lambda line: None) -> None:
    """Run the whole contract.

    Args:
        case: an agent and where it learns.
        folder: for runs and bundles; new or empty.
        say: is told in a line what was checked, after each check.

    Raises:
        ContractError: naming the part that is not kept.
    """
    folder = Path(folder)
    _require(
        case.kill_at < case.steps,
        f"kill_at={case.kill_at} is no step before the end of a run of steps={case.steps}, "
        f"expected one behind its first checkpoint; the defaults are {KILL_AT:,} of {STEPS:,}",
    )
    learned = learn(case, folder / "run")
    check_schedule(learned)
    say(f"learned {case.steps:,} steps; updates follow the schedule, metrics are finite")
    check_resume(learned, folder / "killed")
    say(f"killed at step {case.kill_at:,} and resumed, it ends with the same files")
    check_acting(learned)
    say("acts in its space, repeats itself, and resets where an episode begins")
    check_saving(learned, folder / "saved")
    say("saved and loaded, it is the same")
    check_export(learned, folder / "bundle")
    say("exported, it steps as in torch")


def learn(case: Case, run: str | Path) -> Learned:
    """Learn the case from beginning to end, in one run."""
    keep = _Keep()
    with one_thread():
        agent = case.make().learn(case.steps, run=run, callbacks=[keep], progress=False)
    return Learned(case, agent, keep.training, Path(run))


def check_schedule(learned: Learned) -> None:
    """Check that updates follow the schedule, and that metrics are finite and logged.

    Raises:
        ContractError: if not.
    """
    training, counters = learned.training, learned.training.counters
    after = counters.episodes - counters.prefill_episodes
    schedule = learned.agent.config.schedule(training.adapter.repeat)
    due = schedule.due(counters.env_step, after)
    _require(counters.env_step >= learned.case.steps, f"it stopped at step {counters.env_step}")
    prefill = learned.agent.config.prefill
    _require(
        due > 0,
        f"nothing was learned in {learned.case.steps:,} steps, of which prefill={prefill} are "
        "random actions; choose more steps (--steps) or a smaller prefill",
    )
    _require(counters.updates == due, f"{counters.updates} updates were made, {due} were due")
    lines = read_metrics(learned.run)
    names = {name for line in lines for name in line}
    missing = {"env_step", "time/fps", "time/updates", "replay/rows"} - names
    _require(not missing, f"the log lacks {sorted(missing)}")
    _require(any(n.startswith("loss/") for n in names), 'update() returns no metric "loss/..."')
    _require("rollout/ep_rew_mean" in names, "no episode was finished")
    wrong = [n for line in lines for n, value in line.items() if not np.isfinite(value)]
    _require(not wrong, f"metrics are not finite: {sorted(set(wrong))}")
    stored = Counters.read(newest(learned.run) / "training")
    _require(stored == counters, f"the last checkpoint says {stored}, the run {counters}")


def check_resume(learned: Learned, run: str | Path) -> None:
    """A run that is killed and gone on with ends with the same files, bit for bit.

    Args:
        learned: the uninterrupted run.
        run: folder of the killed one.

    Raises:
        ContractError: naming the files that differ.
    """
    case, run = learned.case, Path(run)
    process = subprocess.run(_killed(case, run), capture_output=True, text=True, env=_paths())
    _require(
        process.returncode in (-KILL, KILL),  # the second is Windows' way to say it
        f"the run to be killed ended by itself, with code {process.returncode}: "
        f"{process.stderr[-2000:]}",
    )
    step = Counters.read(newest(run) / "training").env_step
    _require(
        step > 0,
        f"no checkpoint was made before step {case.kill_at:,}, where the run is killed; choose a "
        f"later --kill-at, and more --steps; the defaults are {KILL_AT:,} and {STEPS:,}",
    )
    _require(step < case.kill_at, f"its newest checkpoint is of step {step}")
    with one_thread():
        case.make().learn(case.steps, run=run, progress=False)
    ours, theirs = (contents(newest(one)) for one in (learned.run, run))
    differing = sorted(name for name in ours.keys() | theirs if ours.get(name) != theirs.get(name))
    _require(
        not differing,
        f"after a kill and a resume these files of the last checkpoint differ: {differing}; all "
        "state that an update or a step changes has to be in buffers, parameters or optimizers(), "
        "and whatever is random has to come from `noise`",
    )


def check_acting(learned: Learned, steps: int = 5) -> None:
    """Actions lie in the space, sessions of one seed act the same, an episode's start resets.

    Raises:
        ContractError: if not.
    """
    env = make_env(learned.agent.env)
    where = f"{type(module(learned.agent.algorithm)).__name__}.step"
    one, other = learned.agent.session(seed=5), learned.agent.session(seed=5)
    obs, _ = env.reset(seed=1)
    for _ in range(steps):
        action = one.act(obs)
        _require(
            env.action_space.contains(action),
            f"{where} gives the action {action}, outside {env.action_space}; "
            "agentzoo.blocks.actions.to_env(action, self.action) makes it from model units",
        )
        _require(
            np.array_equal(action, other.act(obs)),
            f"{where} acts differently in two sessions of one seed; keep state in the carry, not "
            "in self, and draw what is random from `noise`",
        )
        obs, _, ended, cut, _ = env.step(action)
        if ended or cut:
            break
    env.close()
    kept = _kept(learned.agent)
    _require(
        not kept,
        f'{where} keeps {", ".join(kept)} of its carry where obs["is_first"]: an episode there '
        "begins from what the one before left; multiply the carry, prev_action included, by "
        "~is_first, or take torch.where(is_first, start, carry)",
    )


def _kept(agent: Agent) -> list[str]:
    """Names in the carry on which an episode's first step depends; there should be none."""
    obs = observations(agent, 1)
    yes = np.array([True])
    start = agent.policy.start(1)
    action, filled = agent.policy.advance(obs, yes, start, yes)

    def depends(*names: str) -> bool:
        carry = {**start.carry, **{name: filled.carry[name] for name in names}}
        again, state = agent.policy.advance(obs, yes, PolicyState(carry, start.address), yes)
        same = (np.array_equal(state.carry[name], array) for name, array in filled.carry.items())
        return not (np.array_equal(action, again) and all(same))

    if not depends(*filled.carry):
        return []
    return [name for name in filled.carry if depends(name)] or [*filled.carry]


def check_saving(learned: Learned, folder: str | Path) -> None:
    """A saved and loaded agent has the same weights, configuration and spec.

    Raises:
        ContractError: if not.
    """
    agent = learned.agent
    loaded = learned.case.agent.load(agent.save(folder), device="cpu")
    ours, theirs = (module(one.algorithm).state_dict() for one in (agent, loaded))
    differing = [n for n in ours.keys() | theirs if not _equal(ours.get(n), theirs.get(n))]
    _require(not differing, f"saved and loaded tensors differ: {sorted(differing)}")
    _require(loaded.config == agent.config, "the loaded configuration is another one")
    _require(loaded.spec == agent.spec, "the loaded spec is another one")


def check_export(learned: Learned, folder: str | Path) -> None:
    """The exported policy reproduces recorded steps, and steps as torch does from the same state.

    Steps are teacher-forced: each starts from torch's own state, since closed loops drift apart
    from the first near-tie. A planner's steps are compared by the returns in the recording.

    Raises:
        ContractError: if a step differs.
        BundleError: if the recording is not reproduced.
    """
    agent, folder = learned.agent, Path(folder)
    played = observations(agent, GOLDEN)
    agent.save(folder)
    export(agent.algorithm, agent.spec, folder, golden_steps=GOLDEN, observations=played)
    _require(verify(folder, provider="cpu").steps == GOLDEN, "the recording is short")
    policy = load_policy(folder, provider="cpu")
    _require(policy.spec == agent.spec, "the exported spec is another one")
    if agent.spec.plan is None:
        differing = [t for t, error in enumerate(step_errors(agent, policy, played)) if error]
        _require(
            len(differing) <= GOLDEN // 10,
            f"{len(differing)} of {GOLDEN} steps differ from torch's: {differing}",
        )


def step_errors(agent: Agent, policy: Any, played: Arrays) -> Iterator[bool]:
    """Whether each step of the exported policy differs from torch's, from torch's state."""
    state = None
    for t in range(GOLDEN):
        obs = {key: array[t : t + 1] for key, array in played.items()}
        first, mode = np.array([t == 0]), np.array([t % 2 == 1])
        start = agent.policy.start(1) if state is None else state
        expected, state = agent.policy.advance(obs, first, start, mode)
        found, _ = policy.advance(obs, first, start, mode)
        yield bool(difference(found, expected).max() > TOLERANCE)


def observations(agent: Agent, steps: int) -> Arrays:
    """The agent's observations while it acts, as its step takes them: key -> (steps, *shape)."""
    env, session = make_env(agent.env), agent.session(seed=7)
    seen: list[Arrays] = []
    obs, _ = env.reset(seed=7)
    while len(seen) < steps:
        seen.append(encode(agent.spec.obs, obs, batched=False))
        obs, _, ended, cut, _ = env.step(session.act(obs))
        if ended or cut:
            session.reset()
            obs, _ = env.reset()
    env.close()
    return {key: np.concatenate([one[key] for one in seen]) for key in seen[0]}


@contextmanager
def one_thread() -> Iterator[None]:
    """Bit for bit is promised on one CPU thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def newest(run: Path) -> Path:
    """A run's newest checkpoint.

    Raises:
        ContractError: if it has none.
    """
    found = checkpoint.newest(run / "checkpoints")
    _require(found is not None, f"{run} has no whole checkpoint")
    assert found is not None
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _require(kept: bool, found: str) -> None:
    if not kept:
        raise ContractError(found)


def _equal(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b)


# -- the run that is killed ------------------------------------------------------------------------


def _killed(case: Case, run: Path) -> list[str]:
    """The command of a process that learns the case and kills itself.

    Raises:
        ContractError: if no other process can import the class.
    """
    kind = case.agent
    where = f"{kind.__module__}:{kind.__qualname__}"
    if kind.__module__ == "__main__" or _imported(where) is not kind:
        raise ContractError(
            f"{where} cannot be imported by another process; put the agent's class at the top "
            "level of a module"
        )
    fields = [f"{name}={setting(value)}" for name, value in case.fields.items()]
    numbers = {"steps": case.steps, "kill-at": case.kill_at, "seed": case.seed}
    options = [f"--{name}={value}" for name, value in numbers.items()]
    paths = [f"--run={run}", f"--preset={case.preset}"]
    return [sys.executable, "-m", "agentzoo.testing", where, case.env, *fields, *options, *paths]


def _imported(where: str) -> Any:
    place, _, qualified = where.partition(":")
    found: Any = import_module(place)
    for part in qualified.split("."):
        found = getattr(found, part, None)
    return found


def _agent_class(where: str) -> type[Agent]:
    """The class that `module:Class` names.

    Raises:
        ContractError: if there is none, or it is no agent.
    """
    place, colon, name = where.partition(":")
    if place.endswith(".py"):
        raise ContractError(
            f"{where} names a file; write {Path(place).stem}:{name or 'MyAgent'}, without .py, in "
            "the folder of that file"
        )
    if not colon:
        raise ContractError(f"{where} names no class; write module:Class, such as {place}:MyAgent")
    try:
        found = _imported(where)
    except ModuleNotFoundError as error:
        raise ContractError(
            f"{place} cannot be imported ({error}); run this where {place}.py is, or install it"
        ) from error
    if found is None:
        known = [n for n, one in vars(import_module(place)).items() if _is_agent(one)]
        raise ContractError(f"{place} has no agent {name}; {nearest(name, known, 'agents')}")
    if not _is_agent(found):
        raise ContractError(f"{where} is no subclass of agentzoo.Agent; name the agent's class")
    return found


def _is_agent(one: object) -> bool:
    return isinstance(one, type) and issubclass(one, Agent) and one is not Agent


def _paths() -> dict[str, str]:
    """The environment of a process that imports from where this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def main() -> None:
    """Run the contract on an agent, or, given a run's folder, the run that is killed."""
    parser = argparse.ArgumentParser(description="Check that an agent keeps the contract.")
    parser.add_argument("agent", help="module:Class")
    parser.add_argument("env", help="such as gym:Pendulum-v1")
    parser.add_argument("fields", nargs="*", help="field=value")
    parser.add_argument("--preset", default="debug")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--kill-at", type=int, default=KILL_AT)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    try:
        _run(given)
    except AgentZooError as error:
        print(f"agentzoo.testing: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def _run(given: argparse.Namespace) -> None:
    kind = _agent_class(given.agent)
    fields = dict(parse_setting(kind.config_class, one) for one in given.fields)
    case = Case(kind, given.env, fields, given.preset, given.steps, given.kill_at, given.seed)
    if given.run is not None:
        with one_thread():
            kill = KillAt(given.kill_at)
            case.make().learn(given.steps, run=given.run, callbacks=[kill], progress=False)
        return
    with tempfile.TemporaryDirectory() as folder:
        check(case, folder, lambda line: print(line, file=sys.stderr))
    report = {"agent": given.agent, "env": given.env, "kept": True}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
