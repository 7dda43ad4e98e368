"""A step of 1, 16 and 256 batch elements: the carry on the host, and where the graph runs.

Each setting takes its turn in one process: latency of a whole step with its noise (p50, p99), and
elements a second. Without a bundle the policy is one written by hand, small enough that a GPU has
little to gain. Ends with status 1 where there is no CUDA, after the CPU's lines.

python benchmarks/gpu/serving.py
python benchmarks/gpu/serving.py --bundle runs/export/walker --steps 500
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from agentzoo.runtime import load_policy  # noqa: E402
from agentzoo.runtime.errors import ProviderError  # noqa: E402
from agentzoo.runtime.policy.onnx_session import Provider  # noqa: E402
from agentzoo.runtime.policy.policy import Policy  # noqa: E402
from agentzoo.runtime.spec import Arrays, PolicySpec  # noqa: E402
from soak.handmade_bundle import write_bundle  # noqa: E402

BATCHES = (1, 16, 256)
WARM = 20  # steps before the first that counts
TURN = 10  # steps before it is the next setting's turn

Step = Callable[[], object]


def observations(spec: PolicySpec, batch: int) -> Arrays:
    """Random observations that the policy can read."""
    rng = np.random.default_rng(0)
    return {
        key: rng.integers(0, 256, (batch, *one.source), np.uint8)
        if one.kind == "image"
        else rng.random((batch, *one.source), np.float32)
        if one.kind == "vector"
        else np.broadcast_to(np.array(one.start).reshape(one.source), (batch, *one.source))
        for key, one in spec.obs.items()
    }


def on_host(policy: Policy, batch: int) -> Step:
    """Steps as the server takes them: the carry goes in and comes out with each."""
    obs, state = observations(policy.spec, batch), None

    def step() -> None:
        nonlocal state
        _, state = policy.predict(obs, state, None, None)

    return step


def in_place(policy: Policy, batch: int) -> Step:
    """Steps of sessions whose carry stays where they are computed."""
    sessions = [policy.session(seed) for seed in range(batch)]
    obs = observations(policy.spec, batch)
    seen = [{key: array[i] for key, array in obs.items()} for i in range(batch)]
    return lambda: Policy.act_batch(sessions, seen)


def settings(folder: Path, provider: Provider, batch: int) -> dict[str, Step]:
    """The comparison on one provider.

    Raises:
        ProviderError: if it is not there.
    """
    policy = load_policy(folder, provider=provider)
    found = {"carry on the host": on_host(policy, batch), "IO binding": in_place(policy, batch)}
    return {f"{provider}, {name}": step for name, step in found.items()}


def measured(steps: dict[str, Step], count: int) -> dict[str, np.ndarray]:
    """Seconds of each step, in turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(WARM):
            step()
    for _ in range(-(-count // TURN)):
        for name, step in steps.items():
            for _ in range(TURN):
                started = time.perf_counter()
                step()
                times[name].append(time.perf_counter() - started)
    return {name: np.array(one) for name, one in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="a bundle's folder; none is made by hand")
    parser.add_argument("--steps", type=int, default=1_000, help="of each setting")
    options = parser.parse_args()
    missing = ""
    print("| batch | setting | p50 ms | p99 ms | elements/s |\n|---:|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.bundle or write_bundle(
            Path(scratch) / "bundle", observations=24, actions=6, deter=512
        )
        for batch in BATCHES:
            steps = settings(folder, "cpu", batch)
            try:
                steps |= settings(folder, "cuda", batch)
            except ProviderError as error:
                missing = str(error)
            for name, times in measured(steps, options.steps).items():
                p50, p99 = np.quantile(times, [0.5, 0.99]) * 1e3
                rate = batch * len(times) / times.sum()
                print(f"| {batch} | {name} | {p50:.3f} | {p99:.3f} | {rate:,.0f} |", flush=True)
    if missing:
        print(f"nothing was measured on a GPU: {missing}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
