"""ONNX graphs as acting steps: the names of their tensors, and the device they run on."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType
from typing import Literal, Protocol

import numpy as np

from ..errors import BundleError, MissingExtraError, ProviderError
from ..spec import MEMORY, Array, Arrays, NoiseRole, PolicySpec, TensorSpec
from .planners import ImaginedStep, PlanModel

Provider = Literal["auto", "cpu", "cuda"]
Role = Literal[
    "carry",
    "obs",
    "noise",
    "is_first",
    "deterministic",
    "action",
    "reward",
    "continue",
    "value",
    "returns",
    "probe",
    "judgement",
]

GRAPHS = ("policy.onnx", "observe.onnx", "score.onnx", "value.onnx", "propose.onnx")  # of a policy
PROVIDERS = ("auto", "cpu", "cuda")
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
NUMPY_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
REFUSALS = (  # what onnxruntime raises for a graph it cannot open or run; all are Exceptions only
    "EPFail",
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NotImplemented",
    "RuntimeException",
)


# -- names ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Port:
    """One input or output of a graph: whose tensor it is, its shape and dtype.

    Attributes:
        role: where the tensor comes from or goes to.
        key: its name there ("image", "deter"); "" where a role has a single tensor.
        shape: without the batch axis.
        dtype: numpy's name for it.
    """

    role: Role
    key: str
    shape: tuple[int, ...]
    dtype: str


Ports = dict[str, Port]


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """Inputs and outputs of one graph by the names they have in it, in its order."""

    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]


def graph_specs(spec: PolicySpec) -> dict[str, GraphSpec]:
    """The files a policy's graphs stand in, and every tensor's name in them.

    Returns:
        `policy.onnx`, or for planning agents `observe.onnx` and `score.onnx`, and `value.onnx` and
        `propose.onnx` where they have these heads. The one that filters comes first.

    Raises:
        BundleError: if the policy has more than 100 tensors of a kind.
    """
    carry = {k: one for k, one in spec.carry.items() if k != MEMORY or spec.plan is None}
    state_in, state_out = (numbered(f"state_{way}", "carry", carry) for way in ("in", "out"))
    obs = numbered("obs", "obs", _tensors(spec.obs)) | single("is_first", (), "bool")
    step_noise = _noise(spec, "latent", "action", "dequantise")
    probes = numbered("probe", "probe", spec.probes)
    if spec.plan is None:
        inputs = state_in | obs | step_noise | single("deterministic", (), "bool")
        dtype = "float32" if spec.action.kind == "box" else "int64"
        outputs = state_out | single("action", spec.action.shape, dtype) | probes
        return {"policy.onnx": GraphSpec(inputs=inputs, outputs=outputs)}
    observe = GraphSpec(inputs=state_in | obs | step_noise, outputs=state_out | probes)
    return {"observe.onnx": observe, **_planned(spec, _imagined(state_in), _imagined(state_out))}


def _planned(spec: PolicySpec, state_in: Ports, state_out: Ports) -> dict[str, GraphSpec]:
    """The graphs of a planner: they take candidates as a batch, so no shape holds its settings."""
    assert spec.plan is not None, spec.agent
    heads = spec.plan.heads
    action = single("action", (spec.action.size,), "float32")
    number = {name: single(name, (), "float32") for name in ("reward", "continue", "value")}
    arrived = number["reward"] | (number["continue"] if "continue" in heads else {})
    graphs = {
        "score.onnx": GraphSpec(
            inputs=state_in | action | _noise(spec, "score"), outputs=state_out | arrived
        )
    }
    if "value" in heads:
        inputs = state_in | _noise(spec, "value", "shared")
        graphs["value.onnx"] = GraphSpec(inputs=inputs, outputs=number["value"])
    if "policy" in heads:
        inputs = state_in | _noise(spec, "policy") | single("deterministic", (), "bool")
        graphs["propose.onnx"] = GraphSpec(inputs=inputs, outputs=action)
    return graphs


def slug(key: str) -> str:
    """A key in the letters a graph's names have; keys that share one differ in their number."""
    return re.sub(r"[^a-z0-9_]", "_", key.lower())


def _tensors(specs: Mapping[str, "Shaped"]) -> dict[str, TensorSpec]:
    return {key: TensorSpec(shape=one.shape, dtype=one.dtype) for key, one in specs.items()}


class Shaped(Protocol):
    """An object with the shape and dtype of a tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Without the batch axis."""
        ...

    @property
    def dtype(self) -> str:
        """Numpy's name for it."""
        ...


def _noise(spec: PolicySpec, *roles: NoiseRole) -> Ports:
    """Noise of some roles; a tensor's number is its place among all of them."""
    tensors = {key: TensorSpec(shape=noise.shape) for key, noise in spec.noise.items()}
    ports = numbered("noise", "noise", tensors)
    return {name: port for name, port in ports.items() if spec.noise[port.key].role in roles}


def _imagined(state: Ports) -> Ports:
    """The carry without the action that a candidate replaces."""
    return {name: port for name, port in state.items() if port.key != "prev_action"}


def numbered(prefix: str, role: Role, tensors: Mapping[str, Shaped]) -> Ports:
    """Ports of several tensors, by their place and key."""
    # two digits: Triton Inference Server pairs states by the order of their sorted names
    if len(tensors) > 100:
        raise BundleError(
            f"the policy has {len(tensors)} tensors of the kind {role}, and a graph's names count "
            "100 of a kind; join some"
        )
    return {
        f"{prefix}_{k:02d}_{slug(key)}": Port(
            role=role, key=key, shape=tuple(one.shape), dtype=one.dtype
        )
        for k, (key, one) in enumerate(tensors.items())
    }


def single(role: Role, shape: tuple[int, ...], dtype: str) -> Ports:
    """The port of a role that has one tensor."""
    return {role: Port(role=role, key="", shape=shape, dtype=dtype)}


# -- sessions ------------------------------------------------------------------------------------


class _Node(Protocol):
    name: str
    type: str
    shape: list[int | str | None]


class Buffer(Protocol):
    """Memory on a device: onnxruntime's OrtValue."""

    def numpy(self) -> Array:
        """Content as an array; on the CPU the very memory."""
        ...

    def update_inplace(self, np_arr: Array, /) -> None:
        """Copy an array of its shape and type into it."""
        ...


class Binding(Protocol):
    """A graph's inputs and outputs at fixed addresses: onnxruntime's IOBinding."""

    def bind_ortvalue_input(self, name: str, ortvalue: Buffer, /) -> None:
        """Read an input from there."""
        ...

    def bind_ortvalue_output(self, name: str, ortvalue: Buffer, /) -> None:
        """Write an output there."""
        ...


class _Session(Protocol):
    def io_binding(self) -> Binding: ...
    def run_with_iobinding(self, iobinding: Binding, /) -> None: ...
    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]: ...
    def get_inputs(self) -> list[_Node]: ...
    def get_outputs(self) -> list[_Node]: ...
    def get_providers(self) -> list[str]: ...


class Graph:
    """One open graph whose tensors are called by role and key.

    Attributes:
        file: its name.
        spec: its inputs and outputs.
        provider: what it runs on, "cpu" or "cuda".
    """

    def __init__(
        self,
        file: str,
        content: bytes,
        spec: GraphSpec,
        *,
        provider: Provider = "auto",
        threads: int = 1,
    ) -> None:
        """Open a graph; `content` has been checked (see `bundle`).

        Args:
            file: its name, for messages.
            content: the ONNX file.
            spec: the inputs and outputs it has to have.
            provider: auto takes CUDA where there is a device, else the CPU.
            threads: onnxruntime's intra-op threads.

        Raises:
            MissingExtraError: without onnxruntime.
            ProviderError: if CUDA was asked for and is not there.
            BundleError: if onnxruntime refuses the graph, or its tensors are not the spec's.
        """
        self.file, self.spec = file, spec
        self._session = _open(file, content, provider, threads)
        self.provider = "cuda" if CUDA in self._session.get_providers() else "cpu"
        _compare(file, "input", self._session.get_inputs(), spec.inputs)
        _compare(file, "output", self._session.get_outputs(), spec.outputs)
        self._inputs = [(name, port.role, port.key) for name, port in spec.inputs.items()]
        self._outputs = list(spec.outputs)
        self._shapes = [port.shape for port in spec.outputs.values()]
        self._keys = [(port.role, port.key) for port in spec.outputs.values()]

    def run(self, values: Mapping[str, Arrays]) -> dict[tuple[str, str], Array]:
        """Outputs by (role, key) from inputs by role and key.

        Raises:
            BundleError: if onnxruntime cannot run the graph on them, or an output has another shape
                than the spec says.
        """
        feeds = {name: values[role][key] for name, role, key in self._inputs}
        try:
            outputs = self._session.run(self._outputs, feeds)
        except _refusals() as error:
            raise self._refusal(error) from error
        batch = (len(next(iter(feeds.values()))),)
        for name, array, shape in zip(self._outputs, outputs, self._shapes, strict=True):
            if array.shape != batch + shape:
                raise BundleError(
                    f"{self.file} gave {name} of shape {array.shape} for a batch of {batch[0]}, "
                    f"expected {batch + shape}; its batch elements are not independent: export the "
                    "policy again"
                )
        return dict(zip(self._keys, outputs, strict=True))

    def _refusal(self, error: Exception) -> BundleError:
        return BundleError(
            f"onnxruntime cannot run {self.file}: {_first_line(error)}; export the policy again"
        )

    def buffer(self, port: Port, batch: int) -> Buffer:
        """Memory for a tensor of `batch` elements where the graph runs; zeros."""
        zeros = np.zeros((batch, *port.shape), port.dtype)
        kind = zeros.dtype.type
        made: Buffer = import_module("onnxruntime").OrtValue.ortvalue_from_shape_and_type(
            list(zeros.shape), kind, self.provider, 0
        )
        made.update_inplace(zeros)
        return made

    def bind(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Binding:
        """Fix where all inputs and outputs are, by the names they have in the graph."""
        binding = self._session.io_binding()
        for name, buffer in inputs.items():
            binding.bind_ortvalue_input(name, buffer)
        for name, buffer in outputs.items():
            binding.bind_ortvalue_output(name, buffer)
        return binding

    def run_bound(self, binding: Binding) -> None:
        """Read the bound inputs, write the bound outputs.

        Raises:
            BundleError: if onnxruntime cannot run the graph on them.
        """
        try:  # no context manager: this is the innermost of every action
            self._session.run_with_iobinding(binding)
        except (*_refusals(), RuntimeError) as error:  # with bindings it raises no kinds of its own
            raise self._refusal(error) from error


def _open(file: str, content: bytes, provider: Provider, threads: int) -> _Session:
    ort = _onnxruntime()
    available: list[str] = ort.get_available_providers()
    wanted = _wanted(provider, available)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # idle threads that spin starve whoever shares the machine: environments, an event loop
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # else content that begins like onnxruntime's own format is opened as that, past all checks
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.log_severity_level = 3  # errors
    try:
        session: _Session = ort.InferenceSession(content, options, providers=wanted)
    except (*_refusals(), UnicodeDecodeError) as error:
        raise BundleError(
            f"onnxruntime cannot open {file}: {_first_line(error)}; export the policy again"
        ) from error
    if provider == "cuda" and CUDA not in session.get_providers():
        raise ProviderError(  # onnxruntime itself only logs this and takes the CPU
            "cuda was asked for, but onnxruntime could not start it and offers "
            f"{', '.join(session.get_providers())}; check the driver, CUDA and cuDNN versions, or "
            'pass provider="cpu"'
        )
    return session


def _wanted(provider: Provider, available: Sequence[str]) -> list[object]:
    if provider not in PROVIDERS:
        raise ProviderError(f"the provider is {provider!r}, expected {', '.join(PROVIDERS)}")
    if provider == "cuda" and CUDA not in available:
        raise ProviderError(
            f"cuda was asked for, but this onnxruntime has only {', '.join(available)}; "
            'run: pip uninstall onnxruntime && pip install "agentzoo-rl[onnx-gpu]", '
            'or pass provider="cpu"'
        )
    if provider == "cpu" or CUDA not in available:
        return [CPU]
    # TF32 rounds products to 10 bits
    return [(CUDA, {"use_tf32": 0}), CPU]


def _onnxruntime() -> ModuleType:
    if find_spec("onnxruntime") is None:
        raise MissingExtraError("onnxruntime", "onnx")
    if all(map(_is_installed, ("onnxruntime", "onnxruntime-gpu"))):
        raise ProviderError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            "run: pip uninstall onnxruntime onnxruntime-gpu, then install one of the two"
        )
    return import_module("onnxruntime")


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


@cache
def _refusals() -> tuple[type[Exception], ...]:
    state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    return tuple(getattr(state, name) for name in REFUSALS if hasattr(state, name))


def _compare(file: str, kind: str, nodes: Sequence[_Node], ports: Mapping[str, Port]) -> None:
    try:
        found = {node.name: node for node in nodes}
    except UnicodeDecodeError as error:
        raise BundleError(f"{file} holds a name that is no text ({error}); export again") from error
    if found.keys() != ports.keys():
        differing = ", ".join(sorted(found.keys() ^ ports.keys()))
        raise BundleError(
            f"{file} and the manifest differ in their {kind}s: {differing}; export it again"
        )
    for name, port in ports.items():
        shape, dtype = found[name].shape, NUMPY_TYPES.get(found[name].type, found[name].type)
        differs = (tuple(shape[1:]), dtype) != (port.shape, port.dtype)
        if not shape or isinstance(shape[0], int) or differs:
            raise BundleError(
                f"{file} has the {kind} {name} of shape {shape} and type {dtype}, expected "
                f"{['batch', *port.shape]} and {port.dtype}; export it again"
            )


# -- steps ---------------------------------------------------------------------------------------


class OnnxObserve:
    """The filtering step of `observe.onnx`."""

    def __init__(self, graph: Graph) -> None:
        """Wrap an open graph."""
        self.graph = graph

    def __call__(self, carry: Arrays, obs: Arrays, noise: Arrays, /) -> Arrays:
        """The carry after this observation; `prev_action` is left as it was."""
        inputs = {"carry": carry, "obs": obs, "noise": noise, "is_first": {"": obs["is_first"]}}
        return carried(self.graph.run(inputs))


class OnnxImagine:
    """The imagined step of `score.onnx`."""

    def __init__(self, graph: Graph) -> None:
        """Wrap an open graph."""
        self.graph = graph

    def __call__(self, carry: Arrays, action: Array, noise: Arrays, /) -> ImaginedStep:
        """The next carry without `prev_action`, the reward (N,) of actions (N, A), and more."""
        outputs = self.graph.run({"carry": carry, "action": {"": action}, "noise": noise})
        return ImaginedStep(carried(outputs), outputs["reward", ""], outputs.get(("continue", "")))


class OnnxValue:
    """The value of an imagined state: `value.onnx`."""

    def __init__(self, graph: Graph) -> None:
        """Wrap an open graph."""
        self.graph = graph

    def __call__(self, carry: Arrays, noise: Arrays, /) -> Array:
        """(N,)."""
        return self.graph.run({"carry": carry, "noise": noise})["value", ""]


class OnnxPropose:
    """The policy's action at an imagined state: `propose.onnx`."""

    def __init__(self, graph: Graph) -> None:
        """Wrap an open graph."""
        self.graph = graph

    def __call__(self, carry: Arrays, noise: Arrays, deterministic: Array, /) -> Array:
        """(N, A) in model units."""
        values = {"carry": carry, "noise": noise, "deterministic": {"": deterministic}}
        return self.graph.run(values)["action", ""]


def carried(outputs: Mapping[tuple[str, str], Array]) -> Arrays:
    """The carry among a graph's outputs."""
    return {key: array for (role, key), array in outputs.items() if role == "carry"}


def onnx_model(graphs: Mapping[str, Graph]) -> PlanModel:
    """A planning agent's open graphs as what a planner asks."""
    value, policy = graphs.get("value.onnx"), graphs.get("propose.onnx")
    return PlanModel(
        observe=OnnxObserve(graphs["observe.onnx"]),
        imagine=OnnxImagine(graphs["score.onnx"]),
        value=None if value is None else OnnxValue(value),
        policy=None if policy is None else OnnxPropose(policy),
    )
