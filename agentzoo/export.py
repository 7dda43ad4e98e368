"""From an algorithm's torch step to a folder that runs without torch, checked against torch."""

import copy
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from agentzoo.runtime.bundle.golden_trace import SCORED, by_role, score_first, trace_noise
from agentzoo.runtime.bundle.load import judge, open_graphs
from agentzoo.runtime.bundle.manifest import GOLDEN, MANIFEST, OPSET, write_manifest
from agentzoo.runtime.envs import EnvName, package_of
from agentzoo.runtime.errors import BundleError, ConfigError
from agentzoo.runtime.files import at_home, require_no_link, write_plain
from agentzoo.runtime.policy.onnx_session import GraphSpec, Port, graph_specs
from agentzoo.runtime.policy.spaces import encode, env_action, model_action
from agentzoo.runtime.spec import Array, Arrays, ObsSpec, PolicySpec

from . import __version__
from .algorithm import (
    Algorithm,
    Choosing,
    Continuing,
    PlanningAlgorithm,
    Probing,
    Proposing,
    Valuing,
)
from .torch_step import TorchModel, arrays, tensor, tensors

if TYPE_CHECKING:
    from google.protobuf.message import Message

EXAMPLE_BATCH = 3  # a batch of 1 is taken for a constant
TALKATIVE = (
    "torch.onnx._internal.exporter._registration",
    "onnxscript.optimizer._constant_folding",
)
RESET_EVERY = 17  # steps of the golden trace between resets
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")  # the provenance, beside ours


def export(
    algorithm: Algorithm,
    spec: PolicySpec,
    folder: str | Path,
    *,
    golden_steps: int = 100,
    observations: Mapping[str, Array] | None = None,
    env: gym.Env[Any, Any] | None = None,
) -> Path:
    """Write what the runtime needs: the graphs, the golden trace, the manifest.

    Nothing is written before ONNX Runtime agrees with torch to 1e-4 over the whole trace,
    one batch element and seven at a time. Weights on a GPU are copied to the CPU first.

    Args:
        algorithm: an nn.Module that satisfies the Algorithm protocol. One that makes discrete
            choices has the method `margin` of `algorithm.Choosing`.
        spec: what the policy reads, keeps, draws and gives.
        folder: the bundle's folder; made if it is not there.
        golden_steps: steps in the trace.
        observations: key -> (golden_steps, *shape) as the step takes them; None draws them at
            random.
        env: plays the trace's actions in this environment instead, so that dreams may begin in
            what it showed; episodes are begun anew after 17 steps.

    Returns:
        The folder.

    Raises:
        BundleError: if there is no graph of a method, it cannot be run, its outputs differ from
            torch's, or a link stands where a file is to be written.
        ConfigError: if `golden_steps` is below 1 or the observations are not that many.
        MissingExtraError: without onnxruntime.
    """
    folder = at_home(folder)
    if env is None:
        observe = _recorded(_observations(spec, golden_steps, observations))
    else:
        observe = _played(spec, env)
    with resting(algorithm) as still:
        contents = {
            name: onnx_graph(_module(still, spec, name), graph)
            for name, graph in graph_specs(spec).items()
        }
        golden = _trace(still, spec, golden_steps, observe)
    _check_parity(contents, spec, golden)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*contents, GOLDEN, MANIFEST):
        require_no_link(folder / name)
    (folder / MANIFEST).unlink(missing_ok=True)  # until all files stand, the folder is no bundle
    for name, content in contents.items():
        write_plain(folder / name, content)
    recording = BytesIO()
    np.savez_compressed(recording, allow_pickle=False, **golden)
    write_plain(folder / GOLDEN, recording.getvalue())
    write_manifest(folder, spec, provenance(spec.env))
    return folder


@contextmanager
def resting(algorithm: Algorithm) -> Iterator[Algorithm]:
    """The algorithm on the CPU, in evaluation mode while it is looked at."""
    module = cast("nn.Module", algorithm)
    if any(one.device.type != "cpu" for one in module.parameters()):
        module = copy.deepcopy(module).cpu()
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield cast("Algorithm", module)
    finally:
        module.train(training)


def _check_parity(contents: Mapping[str, bytes], spec: PolicySpec, golden: Arrays) -> None:
    graphs = open_graphs(contents, spec, provider="cpu")
    try:
        judge(graphs, spec, golden)
    except BundleError as error:
        raise BundleError(f"the exported graph disagrees with torch: {error}") from error


def provenance(env: str = "") -> dict[str, str]:
    """Versions of what made a bundle, the package of its environment's suite included.

    Args:
        env: the environment string; "" is an environment object.
    """
    found = {"date": datetime.now(UTC).date().isoformat(), "agentzoo": __version__}
    suite = EnvName.read(env).suite
    brought = package_of(suite) if suite else ""
    for package in (*PACKAGES, *([brought] if brought else [])):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # built from its sources, say
            continue
    return found


# -- graphs --------------------------------------------------------------------------------------


class FlatStep(nn.Module):
    """A step whose inputs and outputs are lists in the graph's order.

    The exporter names inputs by position and flattens a dict in the order it happens to have; a
    list has one order only.
    """

    method = "step"  # the algorithm's, of which it is made

    def __init__(self, algorithm: Algorithm, graph: GraphSpec) -> None:
        super().__init__()
        self.algorithm = algorithm
        self.inputs = list(graph.inputs.values())
        self.outputs = list(graph.outputs.values())

    def forward(self, flat: list[Tensor]) -> list[Tensor]:
        """Outputs in the graph's order from inputs in the graph's order."""
        values: dict[str, dict[str, Tensor]] = {"carry": {}, "obs": {}, "noise": {}}
        for port, value in zip(self.inputs, flat, strict=True):
            values.setdefault(port.role, {})[port.key] = value
        if "is_first" in values:
            values["obs"]["is_first"] = values["is_first"][""]
        found = self.run(values)
        return [found[port.role][port.key].to(getattr(torch, port.dtype)) for port in self.outputs]

    def run(self, values: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Outputs by role and key from inputs by role and key."""
        carry, action = self.algorithm.step(
            values["carry"], values["obs"], values["noise"], values["deterministic"][""]
        )
        return {"carry": carry, "action": {"": action}, "probe": self.probed(values)}

    def probed(self, values: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        """The algorithm's probes, compared beside the outcome; often none."""
        if not isinstance(self.algorithm, Probing):
            return {}
        # a planner's filtering half has no flag, and makes no use of it
        first = values["obs"]["is_first"]
        mode = values.get("deterministic", {"": torch.zeros_like(first)})[""]
        return dict(self.algorithm.probe(values["carry"], values["obs"], values["noise"], mode))


class _Observe(FlatStep):
    method = "observe"

    def run(self, values: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        algorithm = cast("PlanningAlgorithm", self.algorithm)
        carry = algorithm.observe(values["carry"], values["obs"], values["noise"])
        return {"carry": {**values["carry"], **carry}, "probe": self.probed(values)}


class _Score(FlatStep):
    method = "imagine"

    def run(self, values: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        algorithm = cast("PlanningAlgorithm", self.algorithm)
        carry, reward = algorithm.imagine(values["carry"], values["action"][""], values["noise"])
        found = {"carry": {**values["carry"], **carry}, "reward": {"": reward}}
        if "continue" in algorithm.plan_spec.heads:
            found["continue"] = {"": cast("Continuing", algorithm).cont(carry)}
        return found


class _Value(FlatStep):
    method = "value"

    def run(self, values: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        algorithm = cast("Valuing", self.algorithm)
        return {"value": {"": algorithm.value(values["carry"], values["noise"])}}


class _Propose(FlatStep):
    method = "policy"

    def run(self, values: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        algorithm, mode = cast("Proposing", self.algorithm), values["deterministic"][""]
        return {"action": {"": algorithm.policy(values["carry"], values["noise"], mode)}}


MODULES = {
    "policy.onnx": FlatStep,
    "observe.onnx": _Observe,
    "score.onnx": _Score,
    "value.onnx": _Value,
    "propose.onnx": _Propose,
}


def _module(algorithm: Algorithm, spec: PolicySpec, name: str) -> FlatStep:
    return MODULES[name](algorithm, graph_specs(spec)[name])


def onnx_graph(module: FlatStep, graph: GraphSpec) -> bytes:
    """An ONNX file: one batch axis left open, no other file, nothing said of where it was made.

    Raises:
        BundleError: if a method cannot be made a graph of.
    """
    example = [_example(port) for port in graph.inputs.values()]
    batch = torch.export.Dim("batch")
    with _quiet(), _told(module):
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=([{0: batch}] * len(example),),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip(model)
    used = {node.domain for node in model.graph.node}
    foreign = [one for one in model.opset_import if one.domain not in used | {""}]
    for one in foreign:  # imported by the exporter, used by no node
        model.opset_import.remove(one)
    return model.SerializeToString()


@contextmanager
def _told(module: FlatStep) -> Iterator[None]:
    """Say which method the exporter failed at; a graph has no branches, so that is most often why.

    Raises:
        BundleError: from the exporter's own error.
    """
    try:
        yield
    except torch.onnx.OnnxExporterError as error:
        where = f"{type(module.algorithm).__name__}.{module.method} cannot be exported"
        said = str(error)
        if "data-dependent" not in said:
            cause = str(error.__cause__ or error).strip() or type(error).__name__
            raise BundleError(f"{where}: {cause.splitlines()[0]}") from error
        at = re.search(r"raised this error:\s+File [^\n]*, line (\d+), in (\w+)\n\s*([^\n]*)", said)
        line = f" in line {at[1]}, in {at[2]} ({at[3].strip()})" if at else ""
        raise BundleError(
            f"{where}: it branches or loops in Python on a tensor's value, or reads one by "
            f".item(){line}; a graph has no branches, so take torch.where, or compute both ways"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporter says about itself and about packages we do not use."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _example(port: Port) -> Tensor:
    shape = (EXAMPLE_BATCH, *port.shape)
    return torch.zeros(shape, dtype=getattr(torch, port.dtype))


def _strip(message: "Message") -> None:
    """Clear what the exporter writes down of paths and stack traces, at every depth."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for one in value if field.is_repeated else [value]:
                _strip(one)


# -- the golden trace ----------------------------------------------------------------------------


def _observations(spec: PolicySpec, steps: int, given: Mapping[str, Array] | None) -> Arrays:
    if steps < 1:
        raise ConfigError(f"golden_steps is {steps}, expected at least 1")
    if given is None:
        rng = np.random.default_rng(spec.seed)
        return {key: _random_observation(rng, one, steps) for key, one in spec.obs.items()}
    for key, one in spec.obs.items():
        if key not in given or given[key].shape != (steps, *one.shape):
            raise ConfigError(
                f'the observations for the golden trace need "{key}" of shape '
                f"{(steps, *one.shape)}, as the step takes it"
            )
    return {key: np.asarray(given[key], one.dtype) for key, one in spec.obs.items()}


def _random_observation(rng: np.random.Generator, spec: ObsSpec, steps: int) -> Array:
    if spec.kind == "image":
        return rng.integers(0, 256, (steps, *spec.shape), np.uint8)
    if spec.kind == "vector":
        return rng.standard_normal((steps, *spec.shape), np.float32)
    groups = [np.eye(n, dtype=np.float32)[rng.integers(0, n, steps)] for n in spec.nvec]
    return np.concatenate(groups, axis=1)


# step, action (A,) that led there -> observations of one batch element, is_first
Observe = Callable[[int, Array], tuple[Arrays, bool]]


def _recorded(obs: Arrays) -> Observe:
    """Observations that are there already; an episode begins every 17 of them."""

    def observe(t: int, units: Array) -> tuple[Arrays, bool]:
        return {key: array[t : t + 1] for key, array in obs.items()}, t % RESET_EVERY == 0

    return observe


def _played(spec: PolicySpec, env: gym.Env[Any, Any]) -> Observe:
    """Observations of an environment that the trace's actions are taken in."""
    is_over = False

    def observe(t: int, units: Array) -> tuple[Arrays, bool]:
        nonlocal is_over
        first = is_over or t % RESET_EVERY == 0
        if first:
            obs, _ = env.reset(seed=t)
            is_over = False
        else:
            obs, _, terminated, truncated, _ = env.step(env_action(spec.action, units))
            is_over = bool(terminated or truncated)
        return encode(spec.obs, obs, batched=False), first

    return observe


def _trace(algorithm: Algorithm, spec: PolicySpec, steps: int, observe: Observe) -> Arrays:
    """Act by torch on the observations, and write every step down (see `golden_ports`)."""
    carry = {name: np.zeros((1, *one.shape), one.dtype) for name, one in spec.carry.items()}
    records: list[Arrays] = []
    units = np.zeros(spec.action.size, np.float32)
    for t in range(steps):
        obs, first = observe(t, units)
        record, carry = _record(algorithm, spec, carry, obs, first, t)
        records.append(record)
        units = _units(spec, carry, record)
    golden = {name: np.concatenate([one[name] for one in records]) for name in records[0]}
    return golden if spec.plan is None else {**golden, "returns": _returns(algorithm, spec, golden)}


def _units(spec: PolicySpec, carry: Arrays, record: Arrays) -> Array:
    """(A,) the action of a recorded step in model units, also where the carry does not keep it."""
    if "prev_action" in carry:
        return carry["prev_action"][0]
    return model_action(spec.action, record["action"])[0]


def _record(
    algorithm: Algorithm, spec: PolicySpec, carry: Arrays, obs: Arrays, first: bool, t: int
) -> tuple[Arrays, Arrays]:
    """One step of the trace, and the carry for the next."""
    name, graph = next(iter(graph_specs(spec).items()))
    address = np.array([[spec.seed, 0, t]], np.int64)
    noise = trace_noise(spec, address)
    values = {
        "carry": carry,
        "obs": obs,
        "noise": noise,
        "is_first": {"": np.array([first])},
        "deterministic": {"": np.array([t % 2 == 1])},
    }
    inputs = {name: values[port.role][port.key] for name, port in graph.inputs.items()}
    found = _module(algorithm, spec, name)([tensor(array) for array in inputs.values()])
    outputs = arrays(dict(zip(graph.outputs, found, strict=True)))
    margin = _margin(algorithm, values)
    carried = by_role(graph.outputs, outputs, slice(None))["carry"]
    if spec.plan is not None:  # any action does, and a plan for every step would take long
        carried["prev_action"] = _any_action(spec, noise)
    return {**inputs, **outputs, "address": address, "margin": margin}, carried


def _margin(algorithm: Algorithm, values: Mapping[str, Arrays]) -> Array:
    """(1,) float32; inf for an algorithm that makes no discrete choices."""
    if not isinstance(algorithm, Choosing):
        return np.full(1, np.inf, np.float32)
    obs = {**values["obs"], "is_first": values["is_first"][""]}
    mode = tensor(values["deterministic"][""])
    found = algorithm.margin(tensors(values["carry"]), tensors(obs), tensors(values["noise"]), mode)
    array: Array = found.numpy(force=True).astype(np.float32)
    if array.shape != (1,) or not array[0] >= 0:
        raise BundleError(
            f"{type(algorithm).__name__}.margin gave {array.tolist()} for one batch element, "
            "expected one number of at least 0, and inf where the step makes no discrete choice"
        )
    return array


def _any_action(spec: PolicySpec, noise: Arrays) -> Array:
    """(1, A): the first candidate's first action, by whatever the planner draws."""
    (name,) = (name for name, one in spec.noise.items() if one.role == "plan")
    return np.clip(noise[name][:, 0, 0, 0], -1.0, 1.0)


def _returns(algorithm: Algorithm, spec: PolicySpec, golden: Arrays) -> Array:
    """(10, J) returns of the first proposals of the first steps."""
    model = TorchModel(cast("PlanningAlgorithm", algorithm)).model()
    steps = range(min(SCORED, len(golden["margin"])))
    return np.concatenate([score_first(model, spec, golden, slice(t, t + 1)) for t in steps])
