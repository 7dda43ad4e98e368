"""Batch elements whose carry stays where the graph runs act as those whose carry is here."""

import numpy as np
import pytest

from agentzoo.runtime import load_batch, load_policy
from agentzoo.runtime.errors import ConfigError, ObservationError, ProviderError
from agentzoo.runtime.policy.device_batch import DeviceStep, prove
from agentzoo.runtime.policy.spaces import BARE

ELEMENTS, STEPS = 3, 12


def observations(spec, t, elements=ELEMENTS):
    rng = np.random.default_rng([t, elements])
    return {
        key: rng.integers(0, 256, (elements, *one.source), np.uint8)
        if one.kind == "image"
        else rng.standard_normal((elements, *one.source)).astype(np.float32)
        for key, one in spec.obs.items()
    }


def starts(t):
    """Element 0 begins once, element 1 again at step 4, element 2 at every fifth."""
    return np.array([t == 0, t in (0, 4), t % 5 == 0])


def play(batch, spec, **keys):
    return [batch.act(observations(spec, t), starts(t), **keys) for t in range(STEPS)]


@pytest.mark.parametrize("kind", ["box", "vector", "discrete"])
@pytest.mark.parametrize("deterministic", [None, True, False])
def test_bound_steps_are_predict_bit_for_bit(bundles, kind, deterministic):
    folder, _ = bundles(kind)
    policy = load_policy(folder, provider="cpu", seed=5)
    found = play(load_batch(folder, ELEMENTS, provider="cpu", seed=5), policy.spec,
                 deterministic=deterministic)  # fmt: skip
    state, mode = None, policy.deterministic if deterministic is None else deterministic
    for t in range(STEPS):  # all at the end: no later step wrote into an earlier answer
        obs = observations(policy.spec, t)
        expected, state = policy.predict(obs, state, starts(t), mode)
        assert np.array_equal(found[t], expected)
        assert found[t].dtype == expected.dtype


def test_the_carry_can_be_read_and_set(bundles):
    folder, _ = bundles("vector")
    one, other = (load_batch(folder, ELEMENTS, provider="cpu") for _ in range(2))
    for t in range(3):
        one.act(observations(one.policy.spec, t), starts(t))
    carry = one.step.carry
    other.step.carry = {key: array.copy() for key, array in carry.items()}
    other.address = one.address
    after = [batch.act(observations(one.policy.spec, 3), starts(3)) for batch in (one, other)]
    assert np.array_equal(*after)
    assert not np.array_equal(carry["deter"], one.step.carry["deter"])


def test_running_a_turn_again_does_not_advance_the_carry(bundles):
    """A CUDA graph is captured by running the step several times."""
    folder, _ = bundles("vector")
    again, once = (load_batch(folder, ELEMENTS, provider="cpu") for _ in range(2))
    run = again.step.graph.run_bound
    again.step.graph.run_bound = lambda bound: [run(bound) for _ in range(3)]
    spec = once.policy.spec
    assert np.array_equal(play(again, spec), play(once, spec))


class Stale(DeviceStep):
    """Reads its inputs the first times only, as a CUDA graph does whose inputs are elsewhere."""

    def __init__(self, graph, elements):
        super().__init__(graph, elements)
        self.taken = []

    def __call__(self, obs, noise, deterministic):
        if len(self.taken) < 2:
            self.taken.append((obs, noise, deterministic))
        return super().__call__(*self.taken[-1])


class Stuck(DeviceStep):
    """Goes on from the same carry, as one captured graph would that serves both turns."""

    def __init__(self, graph, elements):
        super().__init__(graph, elements)
        self.begun = self.carry

    def __call__(self, obs, noise, deterministic):
        self.carry = self.begun
        return super().__call__(obs, noise, deterministic)


def test_the_proof_passes_a_true_step_and_leaves_no_trace(bundles):
    folder, _ = bundles("box")
    policy = load_policy(folder, provider="cpu")
    step = DeviceStep(policy.step.graph, ELEMENTS)
    prove(step, policy.step, policy.spec)
    assert all(not array.any() for array in step.carry.values())


@pytest.mark.parametrize("kind", [Stale, Stuck])
def test_the_proof_refuses_a_step_that_repeats_itself(bundles, kind):
    folder, _ = bundles("vector")
    policy = load_policy(folder, provider="cpu")
    with pytest.raises(ProviderError, match=r"differs from a plain one by .*leave cuda_graph out"):
        prove(kind(policy.step.graph, ELEMENTS), policy.step, policy.spec)


def test_cuda_graphs_need_cuda(bundles):
    folder, _ = bundles("vector")
    with pytest.raises(ProviderError, match="CUDA graphs were asked for, but the policy runs on"):
        load_batch(folder, ELEMENTS, provider="cpu", cuda_graph=True)


def test_a_batch_without_elements_is_refused(bundles):
    folder, _ = bundles("vector")
    with pytest.raises(ConfigError, match="there are 0 batch elements, expected at least 1"):
        load_batch(folder, 0)
    with pytest.raises(ConfigError, match="plans: a decision is many calls"):
        load_batch(bundles("planning")[0], ELEMENTS, provider="cpu")
    batch = load_batch(folder, ELEMENTS, provider="cpu")
    with pytest.raises(ObservationError, match="2 observations came with 3 is_first, expected 3"):
        batch.act({BARE: np.zeros((2, 3))}, starts(0))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["box", "vector", "discrete"])
def test_captured_steps_are_plain_ones_on_a_gpu(bundles, kind):
    folder, _ = bundles(kind)
    plain = load_batch(folder, ELEMENTS, provider="cuda")
    captured = load_batch(folder, ELEMENTS, provider="cuda", cuda_graph=True)
    spec = plain.policy.spec
    for found, expected in zip(play(captured, spec), play(plain, spec), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)
