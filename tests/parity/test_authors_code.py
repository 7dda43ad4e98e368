"""Every loss, return, gradient, step and action beside what the authors' own code computed."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import pytest
import torch

from agentzoo.config import AgentConfig
from tests.parity.case import Arrays, Case, denormals_are_flushed, flushed_denormals
from tests.parity.recompute import recomputed

# largest relative difference by kind of term; README.md says why each is what it is
TOLERANCES = {
    "metric": 2e-5,
    "rows": 1e-5,
    "return": 1e-5,
    "grad": 1e-4,
    "after": 1e-3,
    "action": 1e-5,
    "carry": 1e-5,
    "write_back": 1e-3,
}
# hand-written kernels beside plain ones, as soon as a configuration can choose
HAS_KERNELS = "kernels" in {field.name for field in fields(AgentConfig)}
KERNELS = ("plain", "fast") if HAS_KERNELS else ("only",)


@dataclass(frozen=True)
class Promise:
    """The terms that README.md promises of a case, so that none can go missing."""

    metrics: tuple[str, ...]
    losses: tuple[str, ...]  # for each transition, stored as rows/
    actions: tuple[str, ...]
    after: tuple[int, ...]  # updates after which the weights are kept
    returns: int = 1
    write_back: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()  # prefixes of what moves without a gradient

    @property
    def groups(self) -> list[str]:
        """The kinds of terms that there are."""
        has = {"return": self.returns, "write_back": self.write_back}
        return [kind for kind in TOLERANCES if has.get(kind, True)]


def dreamer(*actions: str, cont: tuple[str, ...] = ()) -> Promise:
    losses = ("model", "actor", "value", "image", "reward", *cont)
    norms = tuple(f"opt/{name}_grad_norm" for name in ("model", "actor", "value"))
    return Promise(
        metrics=(*(f"loss/{name}" for name in losses), *norms, "model/kl", "imag/ret"),
        losses=("decoder.image", "reward", "kl", *cont),
        actions=actions,
        after=(1, 2),
    )


def dreamer_v2(*obs: str, cont: tuple[str, ...] = ()) -> Promise:
    plain = dreamer("sample", "greedy", cont=cont)
    metrics = [name for name in plain.metrics if name != "loss/image"]
    entropies = ("model/post_entropy", "model/prior_entropy", "actor/entropy")
    return Promise(
        metrics=(*metrics, "loss/kl", *entropies, *(f"loss/{name}" for name in obs)),
        losses=(*(f"decoder.{name}" for name in obs), "reward", "kl", *cont),
        actions=plain.actions,
        after=(1, 3),
        beside=("slow_value.",),
    )


def dreamer_v3(*obs: str) -> Promise:
    losses = ("total", "cont", "dyn", "rep", "policy", "value", "repval", "reward")
    return Promise(
        metrics=(*(f"loss/{n}" for n in losses), *(f"loss/rec_{n}" for n in obs), "opt/grad_norm"),
        losses=(*(f"decoder.{name}" for name in obs), "reward", "cont"),
        actions=("sample",),
        after=(1, 2, 5),
        returns=2,
        write_back=("deter", "stoch"),
        beside=("slow_value.", "return_scale."),
    )


CASES = {
    "dreamer_continuous": dreamer("sample", "explored", cont=("cont",)),
    "dreamer_discrete": dreamer("sample", "greedy", cont=("cont",)),
    "dreamer_floor": dreamer("sample", "explored"),
    "planet": Promise(
        metrics=("loss/kl", "loss/image", "loss/reward", "loss/model", "opt/model_grad_norm"),
        losses=("decoder.image", "reward"),
        actions=("planned", "explored"),
        after=(1, 2),
        returns=0,
    ),
    "dreamer_v2_atari": dreamer_v2("image", cont=("cont",)),
    "dreamer_v2_dmc": dreamer_v2("vector"),
    "dreamer_v2_crafter": dreamer_v2("image", "vector", cont=("cont",)),
    "dreamer_v3_vectors": dreamer_v3("state", "extra", "cls"),
    "dreamer_v3_image": dreamer_v3("state", "extra", "cls", "image"),
    "dreamer_v3_discrete": dreamer_v3("state", "extra", "image"),
    "dreamer_v3_grey96": dreamer_v3("image"),
}


class Difference(NamedTuple):
    """Distance of one array of ours from theirs, relative to theirs, and its limit."""

    term: str
    apart: float
    limit: float


@pytest.fixture(params=KERNELS)
def kernels(request: pytest.FixtureRequest) -> str:
    """Kernels that the agent computes with."""
    return request.param


@pytest.mark.parametrize(
    ("case", "kind"),
    [pytest.param(c, kind, id=f"{c}-{kind}") for c, p in CASES.items() for kind in p.groups],
)
def test_terms_agree(case: str, kind: str, kernels: str) -> None:
    table = differences(case, frozenset({("kernels", kernels)} if HAS_KERNELS else ()))
    found = [one for one in table if one.term.startswith(f"{kind}/")]
    assert found, f"nothing of {kind} was compared"
    # a NaN is not below any limit
    assert [one for one in found if not one.apart <= one.limit] == []


@pytest.mark.parametrize("case", CASES)
def test_case_holds_what_is_promised(case: str) -> None:
    stored, promise = Case.read(case), CASES[case]
    algorithm = stored.build({})
    learned = {name for one in algorithm.optimizers().values() for name in one.names}
    # everything that learns is learned: an optimiser cannot leave a parameter out
    moving = {n for n in algorithm.state_dict() if n.startswith(promise.beside or ("\0",))}
    assert learned == {n for n, p in algorithm.named_parameters() if p.requires_grad} - moving
    expected = {
        *(f"metric/{name}" for name in promise.metrics),
        *(f"rows/{name}" for name in promise.losses),
        *(f"return/{i}" for i in range(promise.returns)),
        *(f"grad/{name}" for name in learned),
        *(f"after/{update}/{name}" for update in promise.after for name in learned | moving),
        *(f"action/{name}" for name in promise.actions),
        *(f"carry/{name}" for name in ("deter", "stoch")),
        *(f"write_back/{name}" for name in promise.write_back),
    }
    assert {*stored.part("expected/"), *stored.part("digest/")} == expected
    assert {stored.arrays[f"expected/metric/{n}"].shape for n in promise.metrics} == {
        (stored.updates,)
    }
    assert max(promise.after) == stored.updates


# a constant that is off by little, and what shows it
@pytest.mark.parametrize(
    ("case", "field", "value", "term"),
    [
        pytest.param("dreamer_continuous", "lam", 0.951, "return/0", id="dreamer-lambda"),
        pytest.param("dreamer_discrete", "kl_scale", 0.101, "grad/rssm.prior", id="dreamer-kl"),
        pytest.param("planet", "free_nats", 2.9, "metric/loss/kl", id="planet-free-nats"),
        pytest.param("dreamer_v2_atari", "discount", 0.9985, "return/0", id="dreamer-v2-discount"),
        pytest.param("dreamer_v3_vectors", "unimix", 0.011, "metric/loss/dyn", id="dreamer-v3-mix"),
        pytest.param("dreamer_v3_vectors", "lam", 0.951, "return/1", id="dreamer-v3-lambda"),
    ],
)
def test_a_constant_that_is_off_is_noticed(case: str, field: str, value: float, term: str) -> None:
    table = differences(case, frozenset({(field, value)}))
    found = [one for one in table if one.term.startswith(term)]
    assert [one for one in found if one.apart > 2 * one.limit] != []


def test_denormals_are_as_before() -> None:
    with flushed_denormals(False):
        before = denormals_are_flushed()
    with flushed_denormals(True) as inside:
        assert inside or not torch.set_flush_denormal(True)
    assert denormals_are_flushed() == before


@functools.cache
def differences(name: str, overrides: frozenset[tuple[str, object]]) -> tuple[Difference, ...]:
    """Every term of a case beside ours; computed once for all kinds of terms."""
    case = Case.read(name)
    with flushed_denormals(case.flushes_denormals) as flushed:
        found = recomputed(case, dict(overrides))
    limits = {**TOLERANCES, **{k: float(v) for k, v in case.part("tolerance/").items()}}
    needs_flush = case.flushes_denormals and not flushed
    return tuple(
        Difference(term, apart, limit_of(term, limits))
        for term, apart in compared(case, found)
        if not (needs_flush and moved_by_denormals(term))
    )


def moved_by_denormals(term: str) -> bool:
    """Whether LaProp moves it by gradients that only some machines can flush to zero."""
    kind, _, rest = term.partition("/")
    name = rest.partition("/")[2]
    return kind == "after" and name.startswith(
        ("reward.net.out", "value.net.out", "slow_value.net.out")
    )


def limit_of(term: str, limits: Mapping[str, float]) -> float:
    """The tolerance of the term, of its module, or of its kind, whichever there is first."""
    module = term.partition(".")[0]
    kind = term.partition("/")[0]
    return next(limits[name] for name in (term, module, kind) if name in limits)


def compared(case: Case, found: Arrays) -> Iterator[tuple[str, float]]:
    """Each expected array's name and how far ours is from it, relative to it."""
    start = case.build({}).state_dict()

    def way(term: str, values: np.ndarray) -> np.ndarray:
        # of weights the way from where they began, so that a small step counts
        values = values.astype(np.float64)
        return values - start[term.split("/")[2]].numpy() if term.startswith("after/") else values

    for term, theirs in case.part("expected/").items():
        ours, theirs = way(term, found[term]), way(term, theirs)
        assert ours.shape == theirs.shape, (term, ours.shape, theirs.shape)
        size = np.linalg.norm if term.startswith("after/") else largest
        yield term, float(size((ours - theirs).ravel()) / max(size(theirs.ravel()), 1e-30))
    for term, theirs in case.part("digest/").items():
        yield term, digest_difference(way(term, found[term]), theirs)


def largest(values: np.ndarray) -> float:
    return float(np.abs(values).max())


def digest_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest of three relative differences: of sum, of squares, of a dot product.

    The sum's is relative to the largest that the sum could be.
    """
    flat = ours.ravel()
    other = np.random.default_rng(0).standard_normal(flat.size)
    norm = np.sqrt(theirs[1]) or 1e-30
    apart = np.abs(np.array([flat.sum(), flat @ flat, flat @ other]) - theirs)
    return float((apart / [norm * np.sqrt(flat.size), norm**2, norm]).max())
