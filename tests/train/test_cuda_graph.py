"""Demands of CUDA graph capture on every agent's update, shown without a GPU.

The stand-in for a GPU is the device `meta` under fake tensors, which have shapes and no values:
reading a value, or a shape that depends on one, is an error there. A dispatch mode adds that no
tensor of the host takes part.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agentzoo import TDMPC2, Dreamer, DreamerV2, DreamerV3, PlaNet
from agentzoo.agent import Agent
from agentzoo.algorithm import Algorithm, Batch, NoiseSource, module
from agentzoo.runtime.errors import ConfigError, RunError
from agentzoo.runtime.spec import ActionSpec, ObsSpec
from agentzoo.train.cuda_graph import WARM_UPS, CapturedUpdate, EagerUpdate, cuda_graph, updater
from tests.agents.builders import (
    STATE,
    ShapesOfNoise,
    box,
    build,
    discrete,
    image,
    random_action,
    random_batch,
)

BOX, DISCRETE, PIXELS = box(2), discrete(3), image(64)
CASES: dict[str, tuple[type[Agent], Mapping[str, ObsSpec], ActionSpec, dict[str, object]]] = {
    "Dreamer": (Dreamer, PIXELS, BOX, {}),
    "Dreamer-all": (Dreamer, STATE, BOX, {"imagine_starts": None, "actor_entropy": 0.0}),
    "Dreamer-discrete": (Dreamer, STATE, DISCRETE, {"cont": True, "clip_rewards": "tanh"}),
    "DreamerV2": (DreamerV2, PIXELS, BOX, {}),
    "DreamerV2-discrete": (DreamerV2, STATE, DISCRETE, {"slow_every": 3, "norm": "layer"}),
    "DreamerV3": (DreamerV3, PIXELS, BOX, {}),
    "DreamerV3-discrete": (DreamerV3, STATE, DISCRETE, {"imag_last": None}),
    "PlaNet": (PlaNet, PIXELS, BOX, {}),
    "PlaNet-overshooting": (PlaNet, STATE, BOX, {"overshooting": 2}),
    "TDMPC2": (TDMPC2, PIXELS, BOX, {}),
    "TDMPC2-episodic": (TDMPC2, STATE, BOX, {"episodic": True, "members": 5}),
}
SHORT: dict[str, object] = {"batch_size": 2, "batch_length": 4, "horizon": 2}
UPDATES = WARM_UPS + 3


def build_case(name: str) -> Algorithm:
    agent, obs, action, fields = CASES[name]
    return build(agent, obs, action, **SHORT, **fields)


def two_episodes(algorithm: Algorithm, seed: int) -> Batch:
    """A random batch of windows that hold two episodes, the first of which terminates."""
    batch = random_batch(algorithm, STATE | PIXELS, seed)
    batch["is_first"][:, [0, 2]] = batch["is_last"][:, 1] = True
    batch["is_terminal"].zero_()[:, 1] = True
    return {**batch, "action": random_action(algorithm.action, *batch["reward"].shape)}


class OnDevice(TorchDispatchMode):
    """Fails where a tensor of the host takes part in an operation or comes out of one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
        devices = {x.device.type for x in tensors}
        assert devices <= {"meta"}, f"{func} on {sorted(devices)}"
        return out


def to_stand_in(algorithm: Algorithm) -> None:
    """Parameters and buffers without values, on the stand-in for a GPU."""
    moved: dict[int, Tensor] = {}
    for part in module(algorithm).modules():
        parameters = [*part.named_parameters(recurse=False)]
        for name, tensor in [*parameters, *part.named_buffers(recurse=False)]:
            new = torch.empty_strided(
                tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta"
            )
            is_buffer = not isinstance(tensor, nn.Parameter)
            moved[id(tensor)] = new if is_buffer else nn.Parameter(new, tensor.requires_grad)
            setattr(part, name, moved[id(tensor)])
    for optimizer in algorithm.optimizers().values():
        optimizer.params[:] = [moved[id(param)] for param in optimizer.params]


@pytest.mark.parametrize("name", list(CASES))
def test_an_update_reads_nothing_back_and_takes_nothing_from_the_host(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the stand-in has no autocast; in float32 it does nothing
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    algorithm = build_case(name)
    batch = two_episodes(algorithm, 0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        to_stand_in(algorithm)
        batch = {k: torch.empty(v.shape, dtype=v.dtype, device="meta") for k, v in batch.items()}
        algorithm.update(batch, ShapesOfNoise())  # the first one may allocate
        with OnDevice():
            metrics, back = algorithm.update(batch, ShapesOfNoise())
    assert all(x.device.type == "meta" for x in (*metrics.values(), *back.values()))
    assert all(metric.shape == () for metric in metrics.values())


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda x: x * float(x.sum()), DataDependentOutputException),
        (lambda x: x if x.sum() > 0 else -x, DataDependentOutputException),
        (lambda x: x[x > 0], DynamicOutputShapeException),
        (lambda x: x + torch.tensor([1.0, 2.0]), (AssertionError, RuntimeError)),
        (lambda x: x + torch.zeros(2), (AssertionError, RuntimeError)),
        (lambda x: x[torch.arange(2)], AssertionError),
        (lambda x: x.cpu(), AssertionError),
    ],
    ids=["float", "if", "mask", "data", "host zeros", "host index", "fetch"],
)
def test_the_check_finds_what_no_graph_can_hold(
    wrong: Callable[[Tensor], Tensor], error: type[Exception]
) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True), OnDevice(), pytest.raises(error):
        wrong(torch.empty(2, device="meta"))


@pytest.mark.parametrize("name", list(CASES))
def test_an_update_on_fixed_memory_is_the_plain_update_bit_for_bit(name: str) -> None:
    cpu, results = torch.device("cpu"), []
    for make in (EagerUpdate, lambda *given: CapturedUpdate(*given, record=lambda step, _: step)):
        algorithm = build_case(name)
        update = make(algorithm, cpu)
        done = [update(two_episodes(algorithm, k), seed=100 + k) for k in range(UPDATES)]
        assert update.warm
        results.append((done, module(algorithm).state_dict()))
    (plain, weights), (fixed, others) = results
    for k, ((metrics, back), (same, again)) in enumerate(zip(plain, fixed, strict=True)):
        assert metrics.keys() == same.keys()
        for key, value in {**metrics, **back}.items():
            assert torch.equal(value.float(), {**same, **again}[key].float()), (k, key)
    assert all(torch.equal(tensor, others[key]) for key, tensor in weights.items())
    before = module(build_case(name)).state_dict()
    assert not all(torch.equal(tensor, before[key]) for key, tensor in weights.items())


def test_recording_begins_after_the_warm_ups_and_happens_once() -> None:
    algorithm, recorded = build_case("PlaNet-overshooting"), []

    def record(step: Callable[[], None], noise: NoiseSource) -> Callable[[], None]:
        recorded.append(noise)
        return step

    update = CapturedUpdate(algorithm, torch.device("cpu"), record)
    for k in range(UPDATES):
        assert update.warm == (k > WARM_UPS)
        update(two_episodes(algorithm, k), k)
        assert len(recorded) == (k >= WARM_UPS)


def test_a_batch_of_another_shape_is_refused() -> None:
    algorithm = build_case("PlaNet-overshooting")
    update = CapturedUpdate(algorithm, torch.device("cpu"), lambda step, _: step)
    for k in range(UPDATES):
        update(two_episodes(algorithm, k), k)
    shorter = {name: column[:, 1:] for name, column in two_episodes(algorithm, 0).items()}
    with pytest.raises(AssertionError, match=r"state.*\[2, 3, 5\]"):
        update(shorter, 0)


def test_noise_restarted_is_a_new_source_of_that_seed() -> None:
    noise = NoiseSource(1)
    noise.normal(3), noise.uniform(5)
    noise.restart(2)
    new = NoiseSource(2)
    assert torch.equal(noise.normal(7), new.normal(7))
    assert torch.equal(noise.uniform(7), new.uniform(7))


def test_capture_has_three_settings_and_on_needs_cuda() -> None:
    with pytest.raises(ConfigError, match=r"capture='graph' is not known.*auto"):
        Dreamer(capture="graph")
    with pytest.raises(ConfigError, match=r"CUDA graph, but the device is cpu; use capture='auto'"):
        Dreamer("gym:Pendulum-v1", preset="debug", device="cpu", capture="on")
    with pytest.raises(ConfigError, match="the device is cpu"):
        updater(build_case("PlaNet"), torch.device("cpu"), "on")
    for capture in ("auto", "off"):
        assert isinstance(updater(build_case("PlaNet"), torch.device("cpu"), capture), EagerUpdate)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_cuda
def test_a_launch_draws_the_numbers_of_the_seed_it_was_restarted_with() -> None:
    noise, drawn = NoiseSource(0, "cuda"), torch.zeros(2, 1000, device="cuda")

    def step() -> None:
        drawn.copy_(torch.stack([noise.normal(1000), noise.uniform(1000)]))

    launch = cuda_graph(step, noise)
    for seed in (5, 6, 5):
        noise.restart(seed)
        launch()
        new = NoiseSource(seed, "cuda")
        assert torch.equal(drawn, torch.stack([new.normal(1000), new.uniform(1000)]))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", list(CASES))
def test_recorded_updates_are_the_eager_ones_but_for_rounding(name: str) -> None:
    device, found = torch.device("cuda"), []
    for make in (EagerUpdate, CapturedUpdate):
        algorithm = build_case(name)
        module(algorithm).to(device)
        update = make(algorithm, device)
        for k in range(WARM_UPS + 2):
            batch = {key: x.to(device) for key, x in two_episodes(algorithm, k).items()}
            metrics, _ = update(batch, seed=100 + k)
        found.append({key: value.item() for key, value in metrics.items()})
    assert found[0] == pytest.approx(found[1], rel=0.05, abs=1e-2)


@pytest.mark.gpu
@needs_cuda
def test_what_reads_a_value_back_cannot_be_recorded() -> None:
    noise = NoiseSource(0, "cuda")
    with pytest.raises(RunError, match=r"cannot be recorded as a CUDA graph.*capture='off'"):
        cuda_graph(lambda: print(noise.normal(3).sum().item()), noise)
