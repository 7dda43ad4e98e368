"""Mistakes of an algorithm's author: each ends in a sentence about that author's code."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

from agentzoo import DreamerV3, testing
from agentzoo.agent import Agent
from agentzoo.blocks.actions import to_env
from agentzoo.config import AgentConfig, configure, parse_setting
from agentzoo.contract import ContractError
from agentzoo.replay.samplers import StreamSampler
from agentzoo.runtime.errors import AgentZooError, BundleError
from agentzoo.runtime.spec import ColumnSpec, NoiseSpec, TensorSpec
from tests.agents.contract import CARTPOLE, PENDULUM, OneStep
from tests.agents.toys import (
    LatentStoreAlgorithm,
    PathIntegralAlgorithm,
    PlannerAlgorithm,
    Toy,
    ToyConfig,
    agent,
)
from tests.train.test_loop import counters


def refused(match: str) -> Any:
    return pytest.raises(ContractError, match=match)


QUICK = {"prefill": 20, "update_every": 10, "log_every": 10, "report_every": 0}
Learn = Callable[..., int]


@pytest.fixture
def learn(tmp_path: Path) -> Learn:
    """Learns with an algorithm whose parts are replaced, and gives the number of updates."""

    numbers = count()

    def learned(
        base: type[Toy] = Toy,
        env: Any = PENDULUM,
        fields: Mapping[str, object] = QUICK,
        **parts: object,
    ) -> int:
        mine: Any = type("Mine", (base,), {"sampler": StreamSampler(), **parts})
        made = agent("MyAgent", mine)(env, preset="debug", device="cpu", seed=1, **fields)
        steps = 200 if "envs" in fields else 60
        run = tmp_path / f"run{next(numbers)}"
        made.learn(steps, run=run, log="none", progress=False)
        return counters(run).updates

    return learned


def test_without_a_mistake_it_learns(learn: Learn) -> None:
    for base in (Toy, LatentStoreAlgorithm, PlannerAlgorithm, PathIntegralAlgorithm):
        # two at the end of prefill, and after every 10 of the 40 steps left
        assert learn(base) == 10


# -- acting --------------------------------------------------------------------------------------


def stepping(change: Callable[[dict[str, Tensor], Tensor], object]) -> Mapping[str, object]:
    """A step whose outcome is changed."""

    def step(self: Toy, carry: Any, obs: Any, noise: Any, deterministic: Tensor) -> object:
        return change(*Toy.step(self, carry, obs, noise, deterministic))

    return {"step": step}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c, a: None, r"Mine\.step gives None, expected two things: .*its return forg"),
        (lambda c, a: a, r"Mine\.step gives a tensor of torch\.float32 .*expected two things"),
        (lambda c, a: (c, a[0]), r"step gives an action of the shape \(1,\), expected \(2, 1\)"),
        (lambda c, a: (c, a[:, 0]), r"action of the shape \(2,\), expected \(2, 1\), for a batch"),
        (lambda c, a: (c, a.double()), r"of torch\.float64, expected torch\.float32; .*to_env"),
        (lambda c, a: (c, a.numpy()), r"as the ndarray .*expected a tensor of \(2, 1\)"),
        (lambda c, a: (list(c), a), r"Mine\.step gives a list of 2.*expected the carry as a dict"),
        (lambda c, a: ({**c, "h": a}, a), r'gives "h" as well in its carry; carry_spec declares'),
        (lambda c, a: ({"deter": c["deter"]}, a), r'Mine\.step lacks "prev_action" in its carry'),
        (
            lambda c, a: ({**c, "deter": c["deter"][0]}, a),
            r'carry "deter" of the shape \(8,\), expected \(2, 8\).*the batch comes first',
        ),
        (
            lambda c, a: ({**c, "deter": c["deter"].int()}, a),
            r'carry "deter" of torch\.int32, expected torch\.float32',
        ),
        (
            lambda c, a: ({**c, "prev_action": 0 * a}, a),
            r'an action that is not that of its carry\'s "prev_action", which replay stores',
        ),
    ],
    ids=range(12),
)  # fmt: skip
def test_a_step_gives_a_carry_and_an_action(learn: Learn, change: Any, match: str) -> None:
    with refused(match):
        learn(**stepping(change))


def test_a_discrete_action_is_a_one_hot(learn: Learn) -> None:
    def logits(self: Toy, units: Tensor) -> Tensor:
        return units

    with refused(r'no one-hots in "prev_action".*not logits or shares'):
        learn(env=CARTPOLE, units=logits)


@pytest.mark.parametrize(
    ("read", "match"),
    [
        (lambda s, c, o, n: o["image"], r'raised KeyError in line \d+ of .*: there is no "image"; '
         r".*obs holds observation \(2, 3\), is_first \(2,\)"),
        (lambda s, c, o, n: n["latent"], r'there is no "latent".*noise holds action \(2, 1\)'),
        (lambda s, c, o, n: n["explore"], r'noise_spec\["explore"\] has the role explore, which '
         r"only explore\(\) gets; declare a noise of the role action or latent for step"),
        (lambda s, c, o, n: c["prev_actions"], r'"prev_actions" \(did you mean "prev_action"\?\)'),
        (lambda s, c, o, n: s.core(o["observation"]), r"step raised RuntimeError in line \d+ .*"
         r"deter \(2, 8\)"),
        (lambda s, c, o, n: s.nothing, r"Mine\.step raised AttributeError .*'Mine' object has no"),
    ],
    ids=range(6),
)  # fmt: skip
def test_an_error_inside_a_step_says_what_it_was_given(learn: Learn, read: Any, match: str) -> None:
    def step(self: Toy, carry: Any, obs: Any, noise: Any, deterministic: Tensor) -> object:
        return read(self, carry, obs, noise)

    with refused(match):
        learn(step=step)


def test_an_error_in_a_notebooks_class_is_a_sentence_too(
    learn: Learn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its module has no file."""
    notebook = ModuleType("notebook_of_mine")
    monkeypatch.setitem(sys.modules, notebook.__name__, notebook)
    code = "def step(self, carry, obs, noise, deterministic):\n    return obs['image']\n"
    exec(compile(code, "<cell>", "exec"), vars(notebook))
    match = r'Mine\.step raised KeyError in line 2 of notebook_of_mine: there is no "image"'
    with refused(match):
        learn(step=vars(notebook)["step"], __module__=notebook.__name__)


def test_a_step_takes_four_arguments(learn: Learn) -> None:
    with refused(r"Mine\.step raised TypeError: .*takes 3 positional"):
        learn(step=lambda self, carry, obs: None)


def test_exploring_gives_what_a_step_gives(learn: Learn) -> None:
    def bare(self: Toy, carry: Any, *rest: object) -> object:
        return carry

    def unchanged(self: Toy, carry: Any, *rest: object) -> object:
        return carry, carry["prev_action"] + 1

    with refused(r"Mine\.explore gives a dict of 2.*expected two things"):
        learn(explore=bare)
    with refused(r"Mine\.explore gives an action that is not that of its"):
        learn(explore=unchanged)
    with refused(r"Mine\.explore raised TypeError.*takes 3 positional"):
        learn(explore=lambda self, carry, noise: carry)


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (
            lambda s, d, n, m: torch.tanh(s.actor(d)[:, :1] + n["action"]),
            r"Mine\.step ignores `deterministic`: its action follows the noise of the role action",
        ),
        (
            lambda s, d, n, m: Toy.act(s, d, n, m) * torch.rand(1),
            r'Mine\.step gives two outcomes for the same inputs \("prev_action", the action differ',
        ),
        (
            lambda s, d, n, m: Toy.act(s, d - d.mean(0), n, m),
            r'Mine\.step mixes batch elements: "prev_action", the action of one element changes',
        ),
        (
            lambda s, d, n, m: Toy.act(s, d, {"action": n["action"].mul_(2)}, m),
            r'Mine\.step writes into "action" of the noise that it was given',
        ),
    ],
    ids=["deterministic", "random", "batch", "noise"],
)
def test_acting_is_a_function_of_its_inputs(learn: Learn, act: Any, match: str) -> None:
    with refused(match):
        learn(act=act)


def test_a_step_resets_elements_by_themselves_and_writes_into_nothing(learn: Learn) -> None:
    def together(self: Toy, carry: Any, obs: Any, noise: Any) -> object:
        if obs["is_first"].any():
            carry = {name: torch.zeros_like(one) for name, one in carry.items()}
        return Toy.observe(self, carry, obs, noise)

    def in_place(self: Toy, carry: Any, obs: Any, noise: Any) -> object:
        carry["deter"] *= ~obs["is_first"][:, None]
        return Toy.observe(self, carry, obs, noise)

    def scaled(self: Toy, carry: Any, obs: Any, noise: Any) -> object:
        obs["observation"] /= 8
        return Toy.observe(self, carry, obs, noise)

    for base, method in ((Toy, "step"), (PlannerAlgorithm, "observe")):
        with refused(rf'Mine\.{method} mixes batch elements: "deter"'):
            learn(base, observe=together)
        with refused(rf'Mine\.{method} writes into "deter" of the carry .* x = x \* keep for x'):
            learn(base, observe=in_place)
        with refused(rf'Mine\.{method} writes into "observation" of the obs'):
            learn(base, observe=scaled)


def test_an_imagined_step_draws_nothing_itself(learn: Learn) -> None:
    def imagine(self: Any, carry: Any, action: Tensor, noise: Any) -> object:
        carry, reward = PlannerAlgorithm.imagine(self, carry, action, noise)
        return carry, reward + torch.randn_like(reward)

    with refused(r"Mine\.imagine gives two outcomes for the same inputs \(the reward differ"):
        learn(PlannerAlgorithm, imagine=imagine)


def test_exploring_stays_in_a_box_and_draws_nothing_itself(learn: Learn) -> None:
    def beyond(self: Toy, carry: Any, noise: Any, *rest: object) -> object:
        action = carry["prev_action"] + 0.3 * noise["explore"]
        return {**carry, "prev_action": action}, to_env(action, self.action)

    def drawing(self: Toy, carry: Any, noise: Any, *rest: object) -> object:
        action = (carry["prev_action"] - 0.3 * torch.rand_like(noise["explore"])).clamp(-1, 1)
        return {**carry, "prev_action": action}, to_env(action, self.action)

    with refused(r'Mine\.explore gives a "prev_action" of 1\.\d+ where .*add \.clamp\(-1, 1\)'):
        learn(explore=beyond)
    with refused(r"Mine\.explore gives two outcomes for the same inputs .* of the role explore"):
        learn(explore=drawing)


def test_a_branch_on_a_tensors_value_is_named_at_export(tmp_path: Path) -> None:
    def act(self: Toy, deter: Tensor, noise: Any, deterministic: Tensor) -> Tensor:
        if deter[0].sum() > 1e6:
            deter = -deter
        return Toy.act(self, deter, noise, deterministic)

    made: Any = agent("MyAgent", type("Mine", (Toy,), {"act": act}))(PENDULUM, device="cpu", seed=1)
    match = (
        r"Mine\.step cannot be exported: it branches .* in Python on a tensor's value.* \(if dete"
    )
    with pytest.raises(BundleError, match=match):
        made.export(tmp_path / "bundle")


# -- what is declared ----------------------------------------------------------------------------


def declaring(**specs: object) -> Mapping[str, object]:
    """A constructor that declares other things afterwards."""

    def made(self: Toy, obs: Any, action: Any, config: Any) -> None:
        Toy.__init__(self, obs, action, config)
        for name, spec in specs.items():
            declared = getattr(self, name, {})
            setattr(self, name, {**declared, **spec} if isinstance(spec, dict) else spec)

    return {"__init__": made}


@pytest.mark.parametrize(
    ("specs", "match"),
    [
        (
            {"carry_spec": {"deter": (8,)}},
            r"Mine\.carry_spec holds a tuple of 1: \(8,\), expected TensorSpec of .*by name",
        ),
        ({"carry_spec": [8]}, r"Mine\.carry_spec holds a list of 1: \[8\], expected TensorSpec"),
        (
            {"carry_spec": {"prev_action": TensorSpec(shape=(3,))}},
            r'Mine\.carry_spec has it in the shape \(3,\): every carry holds "prev_action"',
        ),
        (
            {"carry_spec": {"deter": TensorSpec(shape=8)}},  # pyright: ignore[reportArgumentType]
            r'carry_spec\["deter"\] has the shape 8, expected a tuple of whole numbers',
        ),
        (
            {"carry_spec": {"deter": TensorSpec(shape=(8,), dtype="float")}},
            r"declares \"deter\" with dtype='float', expected the name of one of torch's",
        ),
        (
            {"carry_spec": {"deter": TensorSpec(shape=(8,), dtype="f32")}},
            r"declares \"deter\" with dtype='f32', expected the name of one of torch's",
        ),
        (
            {"carry_spec": {"deter": TensorSpec(shape=(8,), dtype=torch.float32)}},  # pyright: ignore
            r'declares "deter" with dtype=torch\.float32, expected the name of one of torch',
        ),
        (
            {"carry_spec": {"deter": TensorSpec(shape=(8,), dtype="bfloat16")}},
            r"declares \"deter\" with dtype='bfloat16', expected .* that numpy has, too",
        ),
        (
            {"noise_spec": {"action": NoiseSpec(shape=(1,), role="act")}},  # pyright: ignore
            r"noise_spec\[\"action\"\] has the role 'act'; did you mean \"action\"",
        ),
        (
            {"noise_spec": {"x": NoiseSpec(shape=(1,), role="sample")}},  # pyright: ignore
            r"has the role 'sample'; roles: latent, action, dequantise, explore \(docs/own_agent",
        ),
        (
            {"noise_spec": {"x": NoiseSpec(shape=(1,), kind="gaussian")}},  # pyright: ignore
            r"is of the kind 'gaussian', expected \"normal\" or \"uniform\"",
        ),
        (
            {"noise_spec": {"x": NoiseSpec(shape=(1,), role="plan")}},
            r"has the role 'plan', which a planner draws, and there is no plan_spec",
        ),
        ({"noise_spec": {"prefill": NoiseSpec(shape=(1,))}}, "has the name of the random actions"),
        ({"columns": {"deter": ColumnSpec()}}, r"declares deter, and no method annotate gives"),
        ({"columns": {"reward": ColumnSpec()}}, r'declares "reward", which replay stores already'),
        ({"sampler": StreamSampler}, r"sampler is the class StreamSampler, expected a sampler"),
        ({"sampler": "uniform"}, r"Mine\.sampler is the str 'uniform', expected a sampler"),
        ({"plan_spec": {"horizon": 3}}, r"plan_spec is a dict of 1.*expected a CEMSpec or an MPPI"),
        ({"plan_spec": None}, r"plan_spec is None, .*leave it out where nothing is planned"),
    ],
    ids=range(19),
)  # fmt: skip
def test_what_is_declared_can_be_worked_with(learn: Learn, specs: Any, match: str) -> None:
    with refused(match):
        learn(**declaring(**specs))


def test_the_first_carry_is_of_a_batch(learn: Learn) -> None:
    def single(self: Toy, batch: int) -> object:
        return {name: torch.zeros(spec.shape) for name, spec in self.carry_spec.items()}

    def half(self: Toy, batch: int) -> object:
        return {"deter": torch.zeros(batch, 8)}

    with refused(r'Mine\.initial gives carry "deter" of the shape \(8,\)'):
        learn(initial=single)
    with refused(r'Mine\.initial lacks "prev_action" in its carry'):
        learn(initial=half)


def test_the_first_carry_is_where_the_weights_are() -> None:
    from agentzoo.contract import check_declarations

    made: Any = OneStep(PENDULUM, preset="debug", device="cpu", seed=1)
    network: Any = type(made.algorithm)(made.spec.obs, made.spec.action, made.config).to("meta")
    network.initial = lambda batch: made.algorithm.initial(batch)
    with refused(r"on cpu, the weights are on meta; make it there: weight"):
        check_declarations(network, made.spec.action)


class Stateless:
    """No state at all."""


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda s: {"model": torch.optim.Adam(s.parameters())},
            r'optimizers gives "model", a torch\.optim\.Adam, .*take Adam or LaProp of agentzoo',
        ),
        (lambda s: {"model": Stateless()}, r"without state_dict and load_state_dict"),
        (
            lambda s: [s.optimizer],
            r"Mine\.optimizers gives a list of 1.*expected optimisers by name",
        ),
        (lambda s: s.optimiser, r"Mine\.optimizers raised AttributeError"),
        (
            lambda s: {},
            r'no optimiser of optimizers\(\) moves "core\.weight_ih".* and 5 more; give it',
        ),
    ],
    ids=["torch", "stateless", "list", "name", "none"],
)
def test_optimisers_have_a_state_that_is_saved(learn: Learn, make: Any, match: str) -> None:
    with refused(match):
        learn(optimizers=make)


def test_every_parameter_that_learns_has_an_optimiser(learn: Learn) -> None:
    def late(self: Any, obs: Any, action: Any, config: Any) -> None:
        Toy.__init__(self, obs, action, config)
        self.value = nn.Linear(8, 1)

    def listed(self: Any, obs: Any, action: Any, config: Any) -> None:
        Toy.__init__(self, obs, action, config)
        self.critics = [nn.Linear(8, 1)]
        self.optimizer.names.append("critic")
        self.optimizer.params.append(self.critics[0].weight)

    def kept(self: Any, obs: Any, action: Any, config: Any) -> None:
        Toy.__init__(self, obs, action, config)
        self.target = nn.Linear(8, 1).requires_grad_(False)

    with refused(r'moves "value\.weight", "value\.bias"; give it to one'):
        learn(__init__=late)
    with refused(r'moves "critic", which the module does not hold.*Module'):
        learn(__init__=listed)
    with refused(r"Mine\.__init__ raised AttributeError .*obs holds obs"):
        learn(__init__=lambda self, obs, action, config: setattr(self, "core", nn.Linear(1, 1)))
    with refused(r'Mine\.__init__ raised KeyError .*there is no "image"'):
        learn(__init__=lambda self, obs, action, config: obs["image"])
    agent("MyAgent", type("Mine", (Toy,), {"__init__": kept}))(PENDULUM, device="cpu")


# -- the update ----------------------------------------------------------------------------------


def updating(change: Callable[[dict[str, Tensor], dict[str, Tensor]], object]) -> Any:
    """An update whose outcome is changed."""

    def update(self: Any, batch: Any, noise: Any) -> object:
        return change(*LatentStoreAlgorithm.update(self, batch, noise))

    return {"base": LatentStoreAlgorithm, "update": update}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m, b: None, r"Mine\.update gives None, expected two things: metrics and columns"),
        (lambda m, b: m, r"Mine\.update gives a dict of 1.*expected two things: metrics"),
        (lambda m, b: (m["loss/toy"], b), r"gives a tensor .* for metrics, expected them by name"),
        (lambda m, b: (m, None), r"gives None for columns to write back, expected them by name"),
        (
            lambda m, b: ({"loss/toy": 0.5}, b),
            r'the metric "loss/toy" as the float 0\.5, expected a tensor of one number.*\.item\(\)',
        ),
        (
            lambda m, b: ({"loss/toy": m["loss/toy"].expand(4)}, b),
            r'"loss/toy" with the shape \(4,\), expected one number; take its \.mean\(\)',
        ),
        (
            lambda m, b: ({"loss/toy": m["loss/toy"].clone().requires_grad_()}, b),
            r'"loss/toy" with its graph, .*give its \.detach\(\)',
        ),
        (
            lambda m, b: (m, {"stoch": b["deter"]}),
            r'"stoch" back, .* no mutable .*: deter; to have it rewritten, declare ColumnSpec\(.*m',
        ),
        (
            lambda m, b: (m, {"deter": b["deter"].flatten(0, 1)}),
            r'"deter" back as a tensor .*, expected a tensor of the shape \(4, 8, 8\)',
        ),
        (
            lambda m, b: (m, {"deter": b["deter"][:, 0, 0]}),
            r'"deter" back as a tensor .*expected a te',
        ),
        (lambda m, b: ({}, b), r"Mine\.update gives no metrics, expected a loss at least"),
        (
            lambda m, b: ({"loss/toy": m["loss/toy"].to("meta")}, b),
            r'the metric "loss/toy" on meta, the weights are on cpu; .*new_tensor',
        ),
        (
            lambda m, b: (m, {"deter": b["deter"].clone().requires_grad_()}),
            r'writes "deter" back with its graph; give its \.detach\(\)',
        ),
        (
            lambda m, b: (m, {"deter": b["deter"].bfloat16()}),
            r'"deter" back as a tensor of torch\.bfloat16 .*expected float32, as the column is',
        ),
    ],
    ids=range(14),
)
def test_an_update_gives_metrics_and_columns(learn: Learn, change: Any, match: str) -> None:
    with refused(match):
        learn(**updating(change))


def test_an_update_that_misses_a_column_is_told_which_there_are(learn: Learn) -> None:
    def update(self: Toy, batch: Any, noise: Any) -> object:
        return batch["done"]

    match = r'Mine\.update raised KeyError in line \d+.*no "done".*batch holds .*reward \(4, 8\)'
    with refused(match):
        learn(update=update)


def test_every_update_gives_the_same_metrics(learn: Learn) -> None:
    class Now:
        count = 0

    def update(self: Toy, batch: Any, noise: Any) -> object:
        Now.count += 1
        metrics, back = Toy.update(self, batch, noise)
        return {**metrics, f"toy/{min(Now.count, 2)}": metrics["loss/toy"]}, back

    with refused(r'gives "toy/1", "toy/2" in some updates and not in othe'):
        learn(update=update)


def test_annotations_are_the_columns_that_were_declared(learn: Learn) -> None:
    def nothing(self: Toy, transitions: Any, envs: Any, carry: Any, state: Any) -> object:
        return transitions, [], None

    def single(self: Toy, transitions: Any, envs: Any, carry: Any, state: Any) -> object:
        return {**transitions, "deter": carry["deter"][0].numpy()}, [], None

    with refused(r'Mine\.annotate leaves out the column "deter" that Mine'):
        learn(LatentStoreAlgorithm, annotate=nothing)
    with refused(r"with the shape \(8,\), expected \(1, 8\): a numpy array"):
        learn(LatentStoreAlgorithm, annotate=single)
    with refused(r"Mine\.annotate gives a dict .*expected three things"):
        learn(LatentStoreAlgorithm, annotate=lambda self, transitions, *rest: transitions)


def annotating(change: Callable[[dict[str, Any], Any], object]) -> Any:
    """Annotations that are changed; there are no late values before."""

    def annotate(self: Any, *given: Any) -> object:
        transitions, late, _ = LatentStoreAlgorithm.annotate(self, *given)
        return change(dict(transitions), late)

    return {"base": LatentStoreAlgorithm, "annotate": annotate}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t, late: (None, late, None), r"annotate gives None, expected transitions by name"),
        (lambda t, late: (t, None, None), r"annotate gives None, expected a list of DelayedValue"),
        (
            lambda t, late: ({k: x for k, x in t.items() if k != "reward"}, late, None),
            r'annotate leaves out "reward", which it was given',
        ),
        (
            lambda t, late: ({**t, "deter": torch.zeros(1, 8)}, late, None),
            r'the column "deter" as a tensor of .*expected a numpy array.*numpy\(force=True\)',
        ),
        (
            lambda t, late: ({**t, "deter": np.zeros((1, 8))}, late, None),
            r'the column "deter" of float64, expected float32, as declared',
        ),
        (lambda t, late: (t["image"], late, None), r'raised KeyError.* no "image"; transitions ho'),
        (
            lambda t, late: (t, [(0, 1)], None),
            r"a tuple of 2: \(0, 1\) among its late values, expected a DelayedValue",
        ),
        (
            lambda t, late: (t, [(0, 0, {"stoch": 1})], None),
            r'a late value of "stoch", and Mine\.columns declares no column .*there are: deter',
        ),
        (
            lambda t, late: (t, [(0, 1, {"reward": 1})], None),
            r'a late value of "reward", .* declares no mutable column of that name',
        ),
        (
            lambda t, late: (t, [(3, 0, {"deter": 1})], None),
            r"for this decision of environment 3; its environments are 0",
        ),
    ],
    ids=range(10),
)
def test_annotations_have_their_places(learn: Learn, change: Any, match: str) -> None:
    with refused(match):
        learn(**annotating(change))


def test_annotations_may_drop_what_replay_does_not_store(learn: Learn) -> None:
    """Side observations are for them alone; late values may be plain triples."""

    def changed(transitions: dict[str, Any], late: object) -> object:
        return transitions, [(0, 0, {"deter": np.ones(8, np.float32)})], None

    learn(**annotating(changed))


def test_measuring_is_called_with_what_says_whether_it_learns(learn: Learn) -> None:
    with refused(r"Mine\.measure raised TypeError.*unexpected keyword argument 'learning'"):
        learn(measure=lambda self, transitions: None)


# -- planning ------------------------------------------------------------------------------------


def test_a_planner_gets_one_number_for_each_candidate(learn: Learn) -> None:
    def imagine(self: Any, carry: Any, action: Tensor, noise: Any) -> object:
        carry, reward = PlannerAlgorithm.imagine(self, carry, action, noise)
        return carry, reward[:, None]

    def alone(self: Any, carry: Any, action: Tensor, noise: Any) -> object:
        return PlannerAlgorithm.imagine(self, carry, action, noise)[1]

    def forgetful(self: Any, carry: Any, action: Tensor, noise: Any) -> object:
        return {}, PlannerAlgorithm.imagine(self, carry, action, noise)[1]

    match = r"Mine\.imagine gives a reward of the shape \(2, 1\), expected \(2,\)"
    with refused(match):
        learn(PlannerAlgorithm, imagine=imagine)
    with refused(r"Mine\.imagine gives a tensor .*next carry and the rewa"):
        learn(PlannerAlgorithm, imagine=alone)
    with refused(r'Mine\.imagine raised KeyError .*no "deter"; .*nothing'):
        learn(PlannerAlgorithm, imagine=forgetful)
    with refused(r"Mine\.observe gives a tuple of 2"):
        learn(PlannerAlgorithm, observe=lambda self, carry, obs, noise: (carry, None))
    with refused(r"Mine\.step gives None, .*is its return forgotten"):
        learn(PlannerAlgorithm, step=lambda self, *given: None)


@pytest.mark.parametrize(
    ("head", "match"),
    [
        ("value", r"Mine\.value gives a value of the shape \(2, 8\), expected \(2,\)"),
        ("cont", r"Mine\.cont gives a probability of the shape \(2, 8\), expected \(2,\)"),
        ("policy", r"Mine\.policy gives actions of the shape \(2, 8\), expected \(2, 1\)"),
    ],
    ids=["value", "cont", "policy"],
)
def test_heads_give_one_number_for_each_state(learn: Learn, head: str, match: str) -> None:
    with refused(match):
        learn(PathIntegralAlgorithm, **{head: lambda self, carry, *rest: carry["deter"]})


def test_a_filter_may_give_a_part_of_the_carry(learn: Learn) -> None:
    def observe(self: Any, carry: Any, obs: Any, noise: Any) -> object:
        return {"deter": PathIntegralAlgorithm.observe(self, carry, obs, noise)["deter"]}

    lengths = cycle([30, 50])  # so that one environment begins while another one goes on

    def pendulum() -> gym.Env[Any, Any]:
        return gym.make("Pendulum-v1", max_episode_steps=next(lengths))

    fields = {**QUICK, "prefill": 150, "envs": 2, "parallel": False}
    learn(PathIntegralAlgorithm, pendulum, fields, observe=observe)


def test_a_planner_refuses_discrete_actions() -> None:
    from agentzoo.runtime.errors import SpaceError

    with pytest.raises(
        SpaceError, match="searches over a Box of actions and the environment's is di"
    ):
        OneStep(CARTPOLE, preset="debug", device="cpu")


def test_the_example_refuses_images() -> None:
    from agentzoo.runtime.errors import SpaceError

    with pytest.raises(SpaceError, match='"image" is an image, and OneStep reads numbers'):
        OneStep("dmc:cartpole-balance", preset="debug", device="cpu")


@pytest.mark.parametrize("ask", ["act", "predict", "session", "evaluate", "export"])
def test_acting_is_checked_before_an_agent_has_learned(ask: str, tmp_path: Path) -> None:
    mine: Any = type("Mine", (Toy,), stepping(lambda carry, action: (carry, action[0])))
    made: Any = agent("MyAgent", mine)(PENDULUM, device="cpu", seed=1)
    given = {"act": [[0.0] * 3], "predict": [[0.0] * 3], "export": [tmp_path / "bundle"]}
    with refused(r"Mine\.step gives an action of the shape \(1,\), expected \(2, 1\)"):
        getattr(made, ask)(*given.get(ask, []))


# -- the world model -----------------------------------------------------------------------------


class Dreaming(Toy):
    """A toy with a world model; each method is the one of a mistake where a test says so."""

    def dream(self, carry: Any, action: Tensor, noise: Any) -> Any:
        return {"deter": carry["deter"]}

    def decode(self, carry: Any) -> Any:
        return {"observation": carry["deter"][:, :3]}

    def judge(self, carry: Any) -> Any:
        return {"reward": carry["deter"][:, 0]}


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"dream": lambda s, c, a, n: c["deter"]}, r"Mine\.dream gives a tensor .*carry as a dict"),
        ({"dream": lambda s, c, a, n: {}}, r'Mine\.dream lacks "deter" in its carry'),
        (
            {"decode": lambda s, c: {}},
            r'decode lacks "observation" in its observations',
        ),
        (
            {"decode": lambda s, c: {"observation": c["deter"]}},
            r'decode gives observations "observation" of the shape \(2, 8\), expected \(2, 3\)',
        ),
        (
            {"judge": lambda s, c: {"rewards": c["deter"][:, 0]}},
            r"Mine\.judge gives a list of 1: \['rewards'\], expected by name those of reward, cont",
        ),
        (
            {"judge": lambda s, c: {"reward": c["deter"][:, :1]}},
            r'Mine\.judge gives "reward" of the shape \(2, 1\), expected \(2,\)',
        ),
    ],
    ids=range(6),
)
def test_a_world_model_is_checked_before_it_is_exported(
    tmp_path: Path, parts: Any, match: str
) -> None:
    mine: Any = type("Mine", (Dreaming,), parts)
    made = agent("MyAgent", mine)(PENDULUM, device="cpu", seed=1)
    with refused(match):
        made.export(tmp_path / "bundle", world=True)
    assert not (tmp_path / "bundle").exists()


def test_a_world_model_is_checked_before_it_dreams() -> None:
    mine: Any = type("Mine", (Dreaming,), {"judge": lambda self, carry: {"rewards": 0}})
    with refused(r"Mine\.judge gives a list of 1: \['rewards'\], expected by name those of reward"):
        _ = agent("MyAgent", mine)(PENDULUM, device="cpu", seed=1).world


def test_an_agent_without_a_world_model_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    made = agent("MyAgent", Toy)(PENDULUM, device="cpu", seed=1)
    with pytest.raises(
        BundleError, match="Toy cannot be called as a world model: it needs the meth"
    ):
        made.export(tmp_path / "bundle", world=True)
    assert not (tmp_path / "bundle").exists()


# -- the classes ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NoDefault(AgentConfig):
    """A field that has to be given."""

    width: int


@dataclass(frozen=True, kw_only=True)
class Nested(AgentConfig):
    """A field that no shell can spell."""

    sizes: dict[str, int] = dataclasses.field(default_factory=dict[str, int])


@dataclass(frozen=True, kw_only=True)
class WrongDefault(AgentConfig):
    """A default of another type than its field's."""

    width: int = 0.5  # pyright: ignore[reportAssignmentType]


@dataclass(frozen=True, kw_only=True)
class Deep(AgentConfig):
    """A tuple of tuples, which no shell can spell."""

    sizes: tuple[tuple[int, ...], ...] = ((1, 2), (3,))


@dataclass(frozen=True, kw_only=True)
class Empty(AgentConfig):
    """A tuple of nothing."""

    sizes: tuple[()] = ()


@dataclass(frozen=True, kw_only=True)
class WrongMaker(AgentConfig):
    """A default that a file gives back as a tuple."""

    sizes: tuple[int, ...] = dataclasses.field(default_factory=lambda: [1, 2])  # pyright: ignore


@dataclass(frozen=True, kw_only=True)
class NotGiven(AgentConfig):
    """A field that nobody can set."""

    width: int = dataclasses.field(default=3, init=False)


@dataclass(frozen=True, kw_only=True)
class Unknown(AgentConfig):
    """A type that is not there when the class is used."""

    width: "Nowhere" = 3  # noqa: F821 # pyright: ignore


@dataclass(frozen=True)
class NoFields(AgentConfig):
    """Annotations that are no fields, and a field."""

    _: dataclasses.KW_ONLY
    shared: ClassVar = 3
    width: int = 3


class Undecorated(AgentConfig):
    """A field that the class does not have."""

    width: int = 3


class NoConfig:
    """Another class altogether."""


class NoModule:
    """Another class altogether."""


class TwoArguments(nn.Module):
    """A constructor without the configuration."""

    def __init__(self, obs: object, action: object) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"config_class": NoDefault}, r"NoDefault\.width has no default, .*write width: int = "),
        ({"config_class": Nested}, r"Nested\.sizes is of the type dict\[str, int\], expected bool"),
        ({"config_class": Undecorated}, r"Undecorated\.width is no field: .*@dataclass\(frozen"),
        ({"config_class": NoConfig}, r"Mine\.config_class is NoConfig, expected a subclass"),
        ({"config_class": ToyConfig()}, r"config_class is the ToyConfig .*without brackets"),
        ({"config_class": Deep}, r"Deep\.sizes is of the type tuple\[tuple\[int, \.\.\.\]"),
        ({"config_class": Empty}, r"Empty\.sizes is of the type tuple\[\(\)\], expected bool"),
        ({"config_class": WrongMaker}, r"WrongMaker\.sizes=\[1, 2\] is a list, expected a tuple"),
        ({"config_class": NotGiven}, r"NotGiven\.width has init=False"),
        ({"config_class": Unknown}, r"field of Unknown .* cannot be read: name 'Nowhere' is not"),
        ({"algorithm_class": nn.Linear(1, 1)}, r"algorithm_class is the Linear .*without brack"),
        ({"algorithm_class": NoModule}, r"algorithm_class is NoModule, expected a torch\.nn"),
        ({"algorithm_class": TwoArguments}, r"TwoArguments cannot be made: too many positional"),
        ({"presets": ["debug"]}, r"Mine\.presets is a list of 1.*expected field values by name"),
        ({"presets": {"debug": None}}, r"Mine\.presets is a dict of 1.*expected field values"),
    ],
    ids=range(15),
)  # fmt: skip
def test_the_classes_of_an_agent_fit(parts: Any, match: str) -> None:
    given = {"config_class": ToyConfig, "algorithm_class": Toy, "presets": {"debug": {}}}
    mine: Any = type("Mine", (Agent,), {**given, **parts})
    with refused(match):
        mine()


def test_not_every_annotation_is_a_field() -> None:
    given = {"config_class": NoFields, "algorithm_class": Toy, "presets": {"debug": {}}}
    assert type("Mine", (Agent,), given)(width=4).config == NoFields(width=4)


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"env_overrides": lambda *_: None}, r"Mine\.env_overrides gives None, expected field val"),
        (
            {"default_preset": lambda *_: "tiny"},
            r"Mine\.default_preset gives 'tiny', which is none of its presets; choices: debug",
        ),
    ],
    ids=["fields", "preset"],
)
def test_what_an_agent_decides_by_its_environment_is_there(
    parts: dict[str, Any], match: str
) -> None:
    given = {"config_class": ToyConfig, "algorithm_class": Toy, "presets": {"debug": {}}}
    parts = {name: classmethod(one) for name, one in parts.items()}
    with pytest.raises(AgentZooError, match=match):
        type("Mine", (Agent,), {**given, **parts})(PENDULUM, device="cpu")


@dataclass(frozen=True, kw_only=True)
class Worded(ToyConfig):
    """Fields whose values look like others' in a shell."""

    words: tuple[str, ...] = ("a",)
    note: str | None = None
    sizes: tuple[int, ...] = (1,)
    pair: tuple[int, str] = (1, "a")


@pytest.mark.parametrize(
    "given",
    [
        {"words": ("64", "true")},
        {"words": ("a,b", "c")},
        {"note": "64"},
        {"note": "true"},
        {"note": "a,b"},
        {"sizes": ()},
        {"sizes": (2,)},
        {"pair": (2, "3")},
    ],
    ids=str,
)
def test_what_was_set_by_hand_is_loaded_as_it_was(given: dict[str, Any], tmp_path: Path) -> None:
    parts = {"config_class": Worded, "algorithm_class": Toy, "presets": {"debug": {}}}
    mine: Any = type("Mine", (Agent,), parts)
    made = mine(PENDULUM, device="cpu", seed=1, **given)
    loaded = mine.load(made.save(tmp_path / "one"), device="cpu")
    assert loaded.config == made.config
    assert [getattr(loaded.config, name) for name in given] == [*given.values()]
    again = mine.load(loaded.save(tmp_path / "two"), device="cpu")
    assert again.config == made.config


def test_a_tuple_of_two_has_two() -> None:
    from agentzoo.runtime.errors import ConfigError

    with pytest.raises(ConfigError, match=r"pair=\(1, 'a', 2\) is a tuple, expected tuple\[int, s"):
        configure(Worded, {"pair": (1, "a", 2)})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("words=64,true", ("64", "true")),
        ("note=64", "64"),
        ("note=none", None),
        ("sizes=", ()),
        ("sizes=2,", (2,)),
        ("pair=2,3", (2, "3")),
    ],
)
def test_a_setting_is_read_as_its_field_is(text: str, value: object) -> None:
    assert parse_setting(Worded, text) == (text.partition("=")[0], value)


def test_a_default_is_of_its_fields_type() -> None:
    from agentzoo.runtime.errors import ConfigError

    given = {"config_class": WrongDefault, "algorithm_class": Toy, "presets": {"debug": {}}}
    mine: Any = type("Mine", (Agent,), given)
    with pytest.raises(ConfigError, match=r"WrongDefault\.width=0\.5 is a float, expected int"):
        mine()


def test_a_schedule_is_given_back(tmp_path: Path) -> None:
    class Forgotten(ToyConfig):
        def schedule(self, repeat: int) -> Any:
            return None

    given = {"config_class": Forgotten, "algorithm_class": Toy, "presets": {"debug": {}}}
    mine: Any = type("Mine", (Agent,), given)
    with refused(r"Forgotten\.schedule gives None, expected an object with"):
        mine(PENDULUM, device="cpu").learn(20, run=tmp_path / "run", log="none", progress=False)


@pytest.mark.parametrize(
    ("where", "match"),
    [
        ("own_agent:OneSteps", "own_agent has no agent OneSteps; did you mean"),
        ("own_agnet:OneStep", "own_agnet cannot be imported"),
        ("own_agent", "write module:Class"),
        (
            "own_agent.py:OneStep",
            "own_agent.py:OneStep names a file; write own_agent:OneStep, with",
        ),
        ("own_agent:OneStepAlgorithm", "OneStepAlgorithm is no subclass of agentzoo.Agent"),
    ],
    ids=range(5),
)
def test_the_contract_says_which_class_it_cannot_find(
    where: str, match: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["agentzoo.testing", where, PENDULUM])
    with pytest.raises(SystemExit, match="2"):
        testing.main()
    assert match in capsys.readouterr().err


def test_samples_beyond_the_bounds_are_no_mistake(tmp_path: Path) -> None:
    """A normal policy's samples leave [-1, 1]; the environment gets them clipped."""
    agent = DreamerV3("gym:Pendulum-v1", preset="debug", device="cpu", seed=0)
    algorithm: Any = agent.algorithm
    with torch.no_grad():
        algorithm.actor.mean.bias.fill_(10)  # tanh of it is 1
        algorithm.actor.std.bias.fill_(10)
    obs = np.zeros(3, np.float32)
    acted = np.stack([agent.act(obs, deterministic=False) for _ in range(20)])
    assert (np.abs(acted) <= 2).all(), "Pendulum's bounds"
    assert (acted == 2).any(), "clipped"
    agent.export(tmp_path / "policy")
