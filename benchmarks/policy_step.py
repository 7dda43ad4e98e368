"""Time of one decision at batch 1: torch eager, the bare ONNX session, and `policy.act`.

    python benchmarks/policy_step.py [--rounds 30] [--calls 100] [--only state]

Untrained Dreamers are exported to a temporary folder. The contenders take turns in one process on
one thread each, a block of calls a turn; torch and the bare session get tensors prepared
beforehand, `policy.act` does all it does for a user. Ratios and differences are taken round by
round.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import torch
from models import (
    ACTION_SIZE,
    CARTPOLE_STATE,
    PIXELS,
    WALKER_STATE,
    box,
    policy_spec,
    seconds,
    setting,
    untrained,
)

from agentzoo.agents.dreamer import DreamerAlgorithm
from agentzoo.export import export, tensors
from agentzoo.runtime import Policy, load_policy
from agentzoo.runtime.policy.noise import draw
from agentzoo.runtime.policy.onnx_step import OnnxStep
from agentzoo.runtime.policy.spaces import encode
from agentzoo.runtime.spec import Array, Arrays

Call = Callable[[], object]
SUBJECTS = {
    "state, paper's sizes": ("dmc_state", WALKER_STATE, ACTION_SIZE),
    "state, `cpu`": ("cpu", CARTPOLE_STATE, 1),
    "pixels, paper's sizes": ("dmc_vision", PIXELS, ACTION_SIZE),
}
TORCH, BARE, ACT = "torch eager", "bare session", "policy.act"


def observation(policy: Policy) -> dict[str, Array]:
    """A random observation, raw."""
    rng = np.random.default_rng(0)
    return {
        key: rng.integers(0, 256, one.shape, np.uint8)
        if one.kind == "image"
        else rng.standard_normal(one.shape, np.float32)
        for key, one in policy.spec.obs.items()
    }


def inputs(policy: Policy, obs: dict[str, Array]) -> tuple[Arrays, Arrays, Arrays, Array]:
    """The inputs of one step: carry, observations, noise, deterministic."""
    state = policy.start(1)
    encoded = encode(policy.spec.obs, obs, batched=False) | {"is_first": np.array([False])}
    noise = draw(policy.spec.noise, state.address)
    return state.carry, encoded, noise, np.array([policy.deterministic])


def torch_step(algorithm: DreamerAlgorithm, policy: Policy, obs: dict[str, Array]) -> Call:
    """The algorithm's own step on prepared tensors."""
    carry, encoded, noise, mode = inputs(policy, obs)
    given = tensors(carry), tensors(encoded), tensors(noise), torch.from_numpy(mode)

    @torch.inference_mode()  # spares more than no_grad
    def step() -> object:
        return algorithm.step(*given)

    return step


def bare_session(policy: Policy, obs: dict[str, Array]) -> Call:
    """`session.run` on prepared feeds, and nothing else."""
    assert isinstance(policy.step, OnnxStep)
    graph, (carry, encoded, noise, mode) = policy.step.graph, inputs(policy, obs)
    single = {"is_first": encoded.pop("is_first"), "deterministic": mode}
    roles = {"carry": carry, "obs": encoded, "noise": noise}
    ports = graph.spec.inputs.items()
    feeds = {name: single[name] if name in single else roles[p.role][p.key] for name, p in ports}
    session, outputs = graph._session, list(graph.spec.outputs)
    return lambda: session.run(outputs, feeds)


def contenders(name: str, folder: Path) -> dict[str, Call]:
    """Three ways to decide with the same weights."""
    preset, specs, size = SUBJECTS[name]
    algorithm = untrained(preset, specs, box(size)).eval()
    export(algorithm, policy_spec(algorithm, specs), folder, golden_steps=10)
    policy = load_policy(folder, provider="cpu", threads=1)
    obs = observation(policy)
    return {
        TORCH: torch_step(algorithm, policy, obs),
        BARE: bare_session(policy, obs),
        ACT: lambda: policy.act(obs),
    }


def measure(calls: dict[str, Call], rounds: int, count: int) -> dict[str, list[list[float]]]:
    """Contender -> rounds of times in milliseconds."""
    times: dict[str, list[list[float]]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            block = [1e3 * seconds(call) for _ in range(count)]
            if turn:  # the first round warms up
                times[name].append(block)
    return times


def row(name: str, times: dict[str, list[list[float]]]) -> str:
    """One line of the table."""
    cells = [name]
    for blocks in times.values():
        every = [time for block in blocks for time in block]
        cells.append(f"{median(every):.3f} ({quantiles(every, n=100)[98]:.3f})")
    middle = {one: [median(block) for block in blocks] for one, blocks in times.items()}
    for other in (BARE, ACT):
        ratios = [a / b for a, b in zip(middle[TORCH], middle[other], strict=True)]
        cells.append(f"{median(ratios):.1f}")
    above = median(a - b for a, b in zip(middle[ACT], middle[BARE], strict=True))
    return f"| {' | '.join([*cells, f'{above:.3f}'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="How long one decision takes at batch 1.")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=100, help="in a block")
    parser.add_argument("--only", default="", help="subjects whose name starts so")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(setting(1, "torch", "onnxruntime", "numpy"), "\n")
    print("| ms: median (p99) | torch eager | bare session | policy.act | torch / bare |", end=" ")
    print("torch / act | act - bare, ms |\n|---|---:|---:|---:|---:|---:|---:|")
    for name in SUBJECTS:
        if name.startswith(given.only):
            with tempfile.TemporaryDirectory() as folder:
                times = measure(contenders(name, Path(folder)), given.rounds, given.calls)
            print(row(name, times), flush=True)


if __name__ == "__main__":
    main()
