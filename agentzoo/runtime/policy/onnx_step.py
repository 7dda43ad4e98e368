"""The acting step of an exported policy: any batch by itself, or batch elements that act on and on.

A bound step keeps the carry where the graph runs: only observations, flags and noise go in, and
only actions come out. On a CPU that spares making and reading an array for each tensor, on a GPU
the carry's way there and back as well. A single batch element on a CPU goes through such memory
even where its carry comes and goes, which takes half the time that handing arrays over takes.
"""

import threading
from collections.abc import Mapping

import numpy as np

from ..spec import Array, Arrays
from .onnx_session import Buffer, Graph, carried

TURNS = 2  # one carry is read, the other one written


class OnnxStep:
    """The acting step of `policy.onnx`."""

    def __init__(self, graph: Graph) -> None:
        """Wrap an open graph."""
        self.graph = graph
        self._own = threading.local()  # memory of one batch element for each thread

    def bound(self, elements: int) -> "BoundStep":
        """The same step for so many batch elements, which keeps their carry."""
        return BoundStep(self.graph, elements)

    def __call__(
        self, carry: Arrays, obs: Arrays, noise: Arrays, deterministic: Array, /
    ) -> tuple[Arrays, Array]:
        """One acting step; see `policy.Step`."""
        values: dict[str, Arrays] = {
            "carry": carry,
            "obs": obs,
            "noise": noise,
            "is_first": {"": obs["is_first"]},
            "deterministic": {"": deterministic},
        }
        outputs = None
        if len(deterministic) == 1 and self.graph.provider == "cpu":
            outputs = self._single.run(values)
        outputs = self.graph.run(values) if outputs is None else outputs
        return carried(outputs), outputs["action", ""]

    @property
    def _single(self) -> "_Single":
        if not hasattr(self._own, "single"):
            self._own.single = _Single(self.graph)
        return self._own.single


class _Single:
    """A graph's inputs and outputs for one batch element on the CPU, as arrays at fixed places."""

    def __init__(self, graph: Graph) -> None:
        inputs, outputs = (
            {name: graph.buffer(port, 1) for name, port in ports.items()}
            for ports in (graph.spec.inputs, graph.spec.outputs)
        )
        self._graph, self._binding = graph, graph.bind(inputs, outputs)
        ports = graph.spec.inputs
        self._inputs = [(ports[k].role, ports[k].key, one.numpy()) for k, one in inputs.items()]
        ports = graph.spec.outputs
        self._outputs = [((ports[k].role, ports[k].key), one.numpy()) for k, one in outputs.items()]

    def run(self, values: Mapping[str, Arrays]) -> dict[tuple[str, str], Array] | None:
        """Outputs by (role, key), in memory of their own; None where an input does not fit.

        `Graph.run` then says which, where numpy would stretch it to the shape.
        """
        for role, key, place in self._inputs:
            array = values[role][key]
            if array.shape != place.shape or array.dtype != place.dtype:
                return None
            place[...] = array
        self._graph.run_bound(self._binding)
        return {at: place.copy() for at, place in self._outputs}


class BoundStep:
    """The acting step of a fixed number of batch elements, with inputs and outputs at fixed places.

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
        self._given = {(port.role, port.key): buffers[name] for name, port in given.items()}
        # on the CPU a buffer is written as the array that it is
        is_here = graph.provider == "cpu"
        self._arrays = {at: one.numpy() for at, one in self._given.items()} if is_here else None
        self._action = graph.buffer(outputs["action"], elements)
        ports = {port.key: port for port in inputs.values() if port.role == "carry"}
        self._carries = [
            {key: graph.buffer(port, elements) for key, port in ports.items()} for _ in range(TURNS)
        ]
        self._turns = [
            graph.bind(
                buffers | _named(graph, self._carries[turn], "inputs"),
                {"action": self._action} | _named(graph, self._carries[1 - turn], "outputs"),
            )
            for turn in range(TURNS)
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

    def __call__(
        self, obs: Arrays, is_first: Array, noise: Arrays, deterministic: Array, /
    ) -> Array:
        """One acting step; see `policy.Step`, whose carry this one keeps.

        Returns:
            (B, *action.shape), in memory of its own.
        """
        for key, array in obs.items():
            self._give("obs", key, array)
        for key, array in noise.items():
            self._give("noise", key, array)
        self._give("is_first", "", is_first)
        self._give("deterministic", "", deterministic)
        self.graph.run_bound(self._turns[self._turn])
        self._turn = 1 - self._turn
        return self._action.numpy().copy()

    def _give(self, role: str, key: str, array: Array) -> None:
        if self._arrays is None:
            self._given[role, key].update_inplace(np.ascontiguousarray(array))
        else:
            self._arrays[role, key][...] = array


def _named(graph: Graph, carry: Mapping[str, Buffer], side: str) -> dict[str, Buffer]:
    ports = graph.spec.inputs if side == "inputs" else graph.spec.outputs
    return {name: carry[port.key] for name, port in ports.items() if port.role == "carry"}
