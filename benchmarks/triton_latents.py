"""Cost of modes in place of sampled latents in a Triton model: 20 episodes of each, and of both.

    python benchmarks/triton_latents.py [--bundle zoo:dreamer-dmc-cartpole-swingup] [--episodes 20]

Both variants are written as `agentzoo export --triton` writes them, and their model.onnx runs in
ONNX Runtime with states kept as Triton's sequence batcher keeps them; no Triton is run.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

from agentzoo import hub
from agentzoo.export_triton import export_triton
from agentzoo.runtime.bundle.load import load_policy
from agentzoo.runtime.bundle.manifest import read_manifest
from agentzoo.runtime.evaluation.rollout import evaluate
from agentzoo.runtime.policy.policy import Policy
from agentzoo.runtime.spec import Array, Arrays

FIRST_SEED = 1_000_000  # of the published scores


class TritonStep:
    """The acting step by a Triton model's graph."""

    def __init__(self, bundle: Path, model: Path) -> None:
        self.ports = read_manifest(bundle).graphs["policy.onnx"]
        self.session = onnxruntime.InferenceSession(str(model / "1" / "model.onnx"))
        self.asked = {one.name for one in self.session.get_inputs()}

    def __call__(
        self, carry: Arrays, obs: Arrays, noise: Arrays, deterministic: Array, /
    ) -> tuple[Arrays, Array]:
        """One step of B batch elements; see `policy.Step`."""
        values = {"carry": carry, "obs": obs, "noise": noise}
        values |= {"is_first": {"": obs["is_first"]}, "deterministic": {"": deterministic}}
        feeds = {
            name: values[port.role][port.key].reshape(-1, *(port.shape or (1,)))
            for name, port in self.ports.inputs.items()
            if name in self.asked
        }
        outputs = {n: p for n, p in self.ports.outputs.items() if p.role in ("carry", "action")}
        found = dict(zip(outputs, self.session.run(list(outputs), feeds), strict=True))
        after = {p.key: found[n] for n, p in outputs.items() if p.role == "carry"}
        (action,) = (found[n].reshape(-1, *p.shape) for n, p in outputs.items() if not p.key)
        return after, action


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="zoo:dreamer-dmc-cartpole-swingup")
    parser.add_argument("--episodes", type=int, default=20)
    given = parser.parse_args()
    bundle = hub.locate(given.bundle)
    policy = load_policy(bundle, provider="cpu")
    print("| variant | mean | interval | episodes |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        steps = {"load_policy": policy.step}
        for latents in ("sample", "mode"):
            model = export_triton(bundle, folder, latents=latents)
            steps[f"Triton, latents {latents}"] = TritonStep(bundle, model)
        for name, step in steps.items():
            found = evaluate(Policy(step, policy.spec), episodes=given.episodes, seed=FIRST_SEED)
            low, high = found.interval
            count = np.size(found.returns)
            print(f"| {name} | {found.mean:.1f} | {low:.1f} to {high:.1f} | {count} |", flush=True)


if __name__ == "__main__":
    main()
