"""A batch that acts together and in step, its carry kept on the device that runs the graph.

Only observations, flags and noise travel to the device, and only actions come back. It is for
environments that are stepped together; sessions that come and go are the server's (`batching`).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ..bundle.load import TOLERANCE, load_policy
from ..bundle.manifest import read_checked, read_manifest
from ..errors import BundleError, ConfigError, ObservationError, ProviderError
from ..spec import Array, Arrays, PolicySpec
from .noise import draw, with_plan_axes
from .onnx_session import Buffer, Graph, OnnxStep, Provider, graph_specs
from .policy import NEXT_STEP, Policy
from .spaces import Observation, encode

POLICY = "policy.onnx"
PROOF_STEPS = 8  # each of the two captured graphs is captured, then launched three times
GRAPH_IDS = (1, 2)  # 0 is onnxruntime's own


class DeviceStep:
    """The acting step of a fixed number of batch elements; the carry stays in the device's memory.

    Two carries take turns: one is read, the other written. onnxruntime captures a CUDA graph by
    running it several times, which would advance a carry that is written where it is read
    (microsoft/onnxruntime issue 32243), and a captured graph keeps to its addresses, so each turn
    has a graph of its own.

    Attributes:
        graph: what runs.
        elements: B.
    """

    def __init__(self, graph: Graph, elements: int) -> None:
        """Set memory aside; the carry is zeros.

        Args:
            graph: an open `policy.onnx`.
            elements: B, of every call.
        """
        self.graph, self.elements = graph, elements
        inputs, outputs = graph.spec.inputs, graph.spec.outputs
        given = {name: port for name, port in inputs.items() if port.role != "carry"}
        buffers = {name: graph.buffer(port, elements) for name, port in given.items()}
        self._given = [(port, buffers[name]) for name, port in given.items()]
        self._action = graph.buffer(outputs["action"], elements)
        ports = {port.key: port for port in inputs.values() if port.role == "carry"}
        self._carries = [
            {key: graph.buffer(port, elements) for key, port in ports.items()} for _ in GRAPH_IDS
        ]
        self._turns = [
            graph.bind(
                buffers | _named(graph, self._carries[turn], "inputs"),
                {"action": self._action} | _named(graph, self._carries[1 - turn], "outputs"),
                graph_id,
            )
            for turn, graph_id in enumerate(GRAPH_IDS)
        ]
        self._turn = 0

    @property
    def carry(self) -> Arrays:
        """A copy of the carry: name -> (B, *shape)."""
        return {key: buffer.numpy().copy() for key, buffer in self._carries[self._turn].items()}

    @carry.setter
    def carry(self, carry: Arrays) -> None:
        for key, buffer in self._carries[self._turn].items():
            buffer.update_inplace(np.ascontiguousarray(carry[key]))

    def __call__(self, obs: Arrays, noise: Arrays, deterministic: Array) -> Array:
        """One acting step; see `policy.Step`, whose carry this one keeps.

        Returns:
            (B, *action.shape).
        """
        values = {
            "obs": obs,
            "noise": noise,
            "is_first": {"": obs["is_first"]},
            "deterministic": {"": deterministic},
        }
        for port, buffer in self._given:
            array = np.ascontiguousarray(values[port.role][port.key])
            expected = ((self.elements, *port.shape), port.dtype)
            assert (array.shape, str(array.dtype)) == expected, (port, array.shape, array.dtype)
            buffer.update_inplace(array)
        self.graph.run_bound(self._turns[self._turn])
        self._turn = 1 - self._turn
        return self._action.numpy().copy()


def _named(graph: Graph, carry: Mapping[str, Buffer], side: str) -> dict[str, Buffer]:
    ports = graph.spec.inputs if side == "inputs" else graph.spec.outputs
    return {name: carry[port.key] for name, port in ports.items() if port.role == "carry"}


class DeviceBatch:
    """Environments stepped together by one policy, each with an episode and noise of its own.

    The actions are those of `Policy.predict` with the same seed, element by element.

    Attributes:
        policy: the same weights, one session; not touched.
        step: the acting step with the carry.
        address: (B, 3) noise addresses of the next step; with `step.carry` all that is remembered.
    """

    def __init__(self, policy: Policy, step: DeviceStep) -> None:
        """Put all batch elements at the start of their first episode."""
        self.policy, self.step = policy, step
        self._noise = with_plan_axes(policy.spec.noise)
        self.address = policy.start(step.elements).address

    def act(
        self,
        observation: Observation,
        is_first: ArrayLike,
        *,
        deterministic: bool | None = None,
    ) -> Array:
        """An action for each batch element.

        Args:
            observation: raw observations with a batch axis of length B.
            is_first: (B,) bool, whether each element's observation is its episode's first.
            deterministic: whether actions are the distribution's mode; None is the protocol.

        Returns:
            (B, *action.shape), the environment's own.

        Raises:
            ObservationError: if the observation is not what the spec says, or not B of them.
        """
        spec, elements = self.policy.spec, self.step.elements
        obs = encode(spec.obs, observation, batched=True)
        first = np.array(is_first, bool).reshape(-1)
        if not len(next(iter(obs.values()))) == len(first) == elements:
            raise ObservationError(
                f"{len(next(iter(obs.values())))} observations came with {len(first)} is_first, "
                f"expected {elements} of each; load_batch as many as there are environments"
            )
        mode = self.policy.deterministic if deterministic is None else bool(deterministic)
        noise = draw(self._noise, self.address)
        action = self.step({**obs, "is_first": first}, noise, np.full(elements, mode))
        self.address = self.address + NEXT_STEP
        return action.astype(spec.action.dtype, copy=False)


def load_batch(
    folder: str | Path,
    elements: int,
    *,
    provider: Provider = "auto",
    threads: int = 1,
    seed: int | None = None,
    deterministic: bool | None = None,
    cuda_graph: bool = False,
) -> DeviceBatch:
    """Open a bundle's policy for a fixed number of batch elements that act together.

    Args:
        folder: what `export` wrote.
        elements: B, of every call.
        provider: "cpu", "cuda", or "auto" for CUDA where there is a device.
        threads: of onnxruntime, for one step.
        seed: keys the noise; None is the bundle's.
        deterministic: None is the paper's evaluation protocol.
        cuda_graph: capture the step once and launch it; only after launched steps have agreed with
            plain ones here and now.

    Raises:
        BundleError, MissingExtraError: as `load_policy`.
        ConfigError: if there are no batch elements, or the policy plans.
        ProviderError: if CUDA was asked for and is not there, or a launch differs.
    """
    if elements < 1:
        raise ConfigError(
            f"there are {elements} batch elements, expected at least 1; pass as many as there are "
            "environments"
        )
    policy = load_policy(
        folder, provider=provider, threads=threads, seed=seed, deterministic=deterministic
    )
    plain = policy.step
    if not isinstance(plain, OnnxStep):
        raise ConfigError(
            f"{policy.spec.agent} plans: a decision is many calls of its graphs, and its carry "
            "stays on the host; use load_policy and predict"
        )
    if not cuda_graph:
        return DeviceBatch(policy, DeviceStep(plain.graph, elements))
    step = DeviceStep(_captured(Path(folder), plain.graph, threads), elements)
    prove(step, plain, policy.spec)
    return DeviceBatch(policy, step)


def _captured(folder: Path, plain: Graph, threads: int) -> Graph:
    if plain.provider != "cuda":
        raise ProviderError(
            "CUDA graphs were asked for, but the policy runs on the CPU; install "
            "agentzoo-rl[onnx-gpu] on a machine with an NVIDIA device, or leave cuda_graph out"
        )
    manifest = read_manifest(folder)
    content = read_checked(folder, POLICY, manifest.files[POLICY])
    spec = graph_specs(manifest.policy)[POLICY]
    try:
        return Graph(POLICY, content, spec, provider="cuda", threads=threads, cuda_graph=True)
    except BundleError as error:  # the graph is sound: it is open without capturing
        raise ProviderError(
            f"this policy cannot be captured as a CUDA graph here ({error}); leave cuda_graph out"
        ) from error


def prove(step: DeviceStep, plain: OnnxStep, spec: PolicySpec) -> None:
    """Compare steps that keep their carry on the device with plain ones from the same carry.

    The carry is what the steps before made of it, and is zeros afterwards.

    Raises:
        ProviderError: if a step differs by more than the provider's tolerance.
    """
    rng = np.random.default_rng(0)
    noise_spec, zeros = (
        with_plan_axes(spec.noise),
        {key: array * 0 for key, array in step.carry.items()},
    )
    for t in range(PROOF_STEPS):
        before = step.carry
        obs = _random_obs(spec, step.elements, rng)
        obs["is_first"] = (rng.random(step.elements) < 0.2) | (t == 0)
        noise = draw(noise_spec, [(0, element, t) for element in range(step.elements)])
        mode = rng.random(step.elements) < 0.5
        action = step(obs, noise, mode)
        carry, expected = plain(before, obs, noise, mode)
        worst = max(
            _difference(found, wanted)
            for found, wanted in zip(
                (action, *(step.carry[key] for key in carry)), (expected, *carry.values()),
                strict=True,
            )
        )  # fmt: skip
        tolerance = TOLERANCE[step.graph.provider]
        if not worst <= tolerance:  # NaN is a difference
            raise ProviderError(
                f"step {t} with its carry on the device differs from a plain one by {worst:.1e}, "
                f"{tolerance:.0e} allowed; leave cuda_graph out, and report the onnxruntime version"
            )
    step.carry = zeros


def _random_obs(spec: PolicySpec, elements: int, rng: np.random.Generator) -> Arrays:
    obs: Arrays = {}
    for key, one in spec.obs.items():
        shape = (elements, *one.shape)
        image = one.kind == "image"
        obs[key] = rng.integers(0, 256, shape, np.uint8) if image else rng.random(shape, np.float32)
    return obs


def _difference(found: Array, wanted: Array) -> float:
    """The largest, relative where numbers exceed 1."""
    error = np.abs(found.astype(np.float64) - wanted) / np.maximum(np.abs(wanted), 1.0)
    return float(error.max(initial=0.0))
