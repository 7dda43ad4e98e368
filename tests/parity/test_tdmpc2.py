"""TD-MPC2 beside what its authors' code computed: losses, targets, gradients, weights, plans."""

import functools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from agentzoo.agents import tdmpc2
from tests.parity.case import Arrays, Case, Script
from tests.parity.recompute import Recorder, spied

CASES = ("tdmpc2_state", "tdmpc2_episodic", "tdmpc2_pixels")
TOLERANCES = {
    "metric": 2e-5,
    "return": 1e-5,
    "grad": 1e-4,
    "after": 1e-3,
    "action": 1e-5,
    "carry": 1e-5,
}
METRICS = {
    *(f"loss/{name}" for name in ("consistency", "reward", "value", "model", "policy")),
    *(f"opt/{name}_grad_norm" for name in ("model", "policy")),
    *(f"policy/{name}" for name in ("entropy", "scaled_entropy", "return_scale")),
}
# the softmax of a channel's pixels does not change where all of them grow: the gradient is rounding
NO_GRADIENT = "encoder.image.6.bias"


@pytest.mark.parametrize("kind", TOLERANCES)
@pytest.mark.parametrize("case", CASES)
def test_terms_agree(case: str, kind: str) -> None:
    found = {term: apart for term, apart in differences(case) if term.startswith(f"{kind}/")}
    assert found, f"nothing of {kind} was compared"
    assert {term: apart for term, apart in found.items() if not apart <= TOLERANCES[kind]} == {}


@pytest.mark.parametrize("case", CASES)
def test_terms_agree_without_kernels_too(case: str) -> None:
    plain = dict(differences(case, (("kernels", "plain"),)))
    assert {t: a for t, a in plain.items() if not a <= TOLERANCES[t.partition("/")[0]]} == {}
    assert plain != dict(differences(case)), "the kernels were not switched off"


@pytest.mark.parametrize("case", CASES)
def test_case_holds_what_is_promised(case: str) -> None:
    stored = Case.read(case)
    algorithm = stored.build({})
    learned = {name for name, p in algorithm.named_parameters() if p.requires_grad}
    metrics = METRICS | ({"loss/termination"} if algorithm.config.episodic else set())
    moved = {name for name in algorithm.state_dict()}
    assert set(stored.part("expected/")) == {
        *(f"metric/{name}" for name in metrics),
        "return/0",
        *(f"grad/{name}" for name in learned),
        *(f"after/{update}/{name}" for update in (1, 2) for name in moved),
        *(f"action/{name}" for name in ("greedy", "sample", "policy", "policy_mode")),
        *(f"carry/{name}" for name in ("latent", "plan")),
    }


@pytest.mark.parametrize(
    ("case", "field", "value", "term"),
    [
        pytest.param("tdmpc2_state", "rho", 0.501, "metric/loss/consistency", id="rho"),
        pytest.param("tdmpc2_state", "entropy_scale", 2e-3, "metric/loss/policy", id="entropy"),
        pytest.param("tdmpc2_episodic", "episode_length", 900, "return/0", id="discount"),
        pytest.param("tdmpc2_state", "temperature", 0.51, "carry/plan", id="temperature"),
        pytest.param("tdmpc2_episodic", "tau", 0.0101, "after/2/target_q", id="tau"),
        pytest.param(
            "tdmpc2_state", "encoder_lr_scale", 0.31, "after/1/encoder", id="encoder-rate"
        ),
    ],
)
def test_a_constant_that_is_off_is_noticed(case: str, field: str, value: float, term: str) -> None:
    found = [apart for name, apart in differences(case, ((field, value),)) if name.startswith(term)]
    assert max(found) > 2 * TOLERANCES[term.partition("/")[0]]


@functools.cache
def differences(
    name: str, overrides: tuple[tuple[str, object], ...] = ()
) -> tuple[tuple[str, float], ...]:
    """Every term of a case beside ours; computed once for all kinds of terms."""
    case = Case.read(name)
    found = {**learn(case, dict(overrides)), **act(case, dict(overrides))}
    return tuple(compared(case, found))


def compared(case: Case, found: Arrays) -> Iterator[tuple[str, float]]:
    """Each expected array's name and how far ours is from it, relative to it."""
    start = case.part("weight/")
    for term, theirs in case.part("expected/").items():
        ours = found[term]
        assert ours.shape == theirs.shape, (term, ours.shape, theirs.shape)
        apart, size = np.asarray(ours, np.float64) - theirs, np.asarray(theirs, np.float64)
        if term.endswith(NO_GRADIENT):
            if term.startswith("grad/"):
                assert max(np.abs(ours).max(), np.abs(theirs).max()) < 1e-7
            continue
        if term.startswith("after/"):
            # of weights the way from where they began, so that a small step counts
            way = size - start[term.split("/", 2)[2]]
            yield term, float(np.linalg.norm(apart) / max(float(np.linalg.norm(way)), 1e-30))
        else:
            yield term, float(np.abs(apart).max() / max(float(np.abs(size).max()), 1e-30))


def learn(case: Case, overrides: dict[str, object]) -> Arrays:
    """Update twice: metrics, the first targets and gradients, weights after each."""
    algorithm, recorder = case.build(overrides), Recorder()
    metrics: dict[str, list[float]] = {}
    optimizers = algorithm.optimizers()
    model = [*optimizers["encoder"].names, *optimizers["model"].names]

    def grads(names: list[str]) -> Any:
        return lambda args, _: recorder.keep("grad/", dict(zip(names, args[0], strict=True)))

    policy = optimizers["policy"]
    policy.step = spied(policy.step, grads(policy.names))
    clip = spied(tdmpc2.clip_by_global_norm, grads(model))
    target = spied(tdmpc2.td_target, lambda _, found: recorder.keep("return/", {"0": found}))
    with (
        mock.patch.object(tdmpc2, "clip_by_global_norm", clip),
        mock.patch.object(tdmpc2, "td_target", target),
    ):
        for update in (1, 2):
            script = Script(case)
            found, back = algorithm.update(case.tensors("batch/"), script)
            assert (back, script.left) == ({}, [])
            for name, value in found.items():
                metrics.setdefault(name, []).append(value.item())
            recorder.keep(f"after/{update}/", algorithm.state_dict())
    recorder.keep("metric/", {name: torch.tensor(one) for name, one in metrics.items()})
    return recorder.arrays


@torch.no_grad()
def act(case: Case, overrides: dict[str, object]) -> Arrays:
    """Decide with the first weights, by planning and by the policy alone."""
    algorithm, recorder = case.build(overrides), Recorder()
    given, obs, noise = (case.tensors(f"act/{kind}/") for kind in ("carry", "obs", "noise"))
    carry: dict[str, Tensor] = {**algorithm.initial(1), **given}
    alone = {"policy": noise["policy"][:, 0, 0]}
    after: dict[str, Tensor] = {}
    for planned, own, greedy in (("greedy", "policy_mode", True), ("sample", "policy", False)):
        mode = torch.tensor([greedy])
        after, _ = algorithm.step(carry, obs, noise, mode)
        recorder.keep("action/", {planned: after["prev_action"]})
        recorder.keep("action/", {own: algorithm.policy(after, alone, mode)})
    recorder.keep("carry/", {name: after[name] for name in ("latent", "plan")})
    return recorder.arrays
