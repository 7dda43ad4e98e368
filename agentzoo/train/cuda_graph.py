"""The update as one CUDA graph: recorded once, then launched on new numbers in the same memory.

An eager update starts its kernels one by one, thousands of them; a graph starts them all at once.
An update can be recorded if it reads nothing back to the host, makes no tensor of host data, and
has no shape that depends on values. What changes from one update to the next is in tensors: the
batch, copied to where the recorded one lay; random numbers, from a generator that the graph knows;
counters, moments and slow copies, which the agent keeps on its device.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch

from agentzoo.runtime.errors import ConfigError, RunError

from ..algorithm import Algorithm, Batch, Metrics, NoiseSource, WriteBack
from ..blocks.compiled import Forms, compiled, is_compilers
from ..ranks import ranks

WARM_UPS = 3  # updates before recording: libraries choose kernels, optimisers allocate their state
QUEUE = 2  # updates started and not yet done: more would only hold batches in memory
Recorder = Callable[[Callable[[], None], NoiseSource], Callable[[], None]]


class Update(Protocol):
    """One gradient step on a batch that is on the device, with the random numbers of a seed."""

    @property
    def warm(self) -> bool:
        """Whether the next call is as fast as all later ones."""
        ...

    def __call__(self, batch: Batch, seed: int) -> tuple[Metrics, WriteBack]:
        """The return value of the algorithm's update."""
        ...


class EagerUpdate:
    """The algorithm's update, kernel by kernel.

    Args:
        algorithm: what learns.
        device: where it is.
        compiled: whether imagined steps are compiled, which the first call waits for.
    """

    def __init__(
        self, algorithm: Algorithm, device: torch.device, *, compiled: bool = False
    ) -> None:
        self.algorithm, self.warm = algorithm, not compiled
        self.forms = Forms() if compiled else None
        self.noise = NoiseSource(0, device, ranks=ranks())

    def __call__(self, batch: Batch, seed: int) -> tuple[Metrics, WriteBack]:
        """One gradient step.

        Raises:
            RunError: if it was to be compiled, and the compiler fails.
        """
        self.noise.restart(seed)
        try:
            with compiled(self.forms):
                result = self.algorithm.update(batch, self.noise)
        except Exception as error:
            if not is_compilers(error):
                raise
            why = " ".join(str(error).split("\n")[:2]).strip()  # the first may name a backend alone
            raise RunError(
                f"imagination cannot be compiled on this machine ({why}); mend its C++ compiler "
                "and go on, or begin another run with compile='off'"
            ) from error
        self.warm = True
        return result


class CapturedUpdate:
    """The algorithm's update, recorded after some eager ones and launched from then on.

    Every call is one gradient step on its own batch, the first ones included. Batches are of one
    shape, and the algorithm's tensors stay where they are (weights are loaded in place).

    Args:
        algorithm: what learns.
        device: where it is.
        record: takes a step without arguments and its noise, gives what repeats the step. The step
            may or may not have been done by then; its results count after the repetition only.
    """

    def __init__(
        self, algorithm: Algorithm, device: torch.device, record: Recorder | None = None
    ) -> None:
        self._eager, self._record = EagerUpdate(algorithm, device), record or cuda_graph
        self._warm_ups = WARM_UPS
        self._launch: Callable[[], None] | None = None
        self._batch: Batch = {}
        self._names: list[str] = []
        self._metrics = torch.empty(0)
        self._back: WriteBack = {}

    @property
    def warm(self) -> bool:
        """Whether the update is recorded."""
        return self._launch is not None

    def __call__(self, batch: Batch, seed: int) -> tuple[Metrics, WriteBack]:
        """One gradient step."""
        if self._warm_ups:
            self._warm_ups -= 1
            return aside(lambda: self._eager(batch, seed), self._eager.noise.device)
        self._fill(batch)
        self._eager.noise.restart(seed)
        if self._launch is None:
            self._launch = self._record(self._step, self._eager.noise)
        self._launch()
        # copies: the next launch writes its results over these
        metrics = dict(zip(self._names, self._metrics.clone().unbind(), strict=True))
        return metrics, {name: tensor.clone() for name, tensor in self._back.items()}

    def _fill(self, batch: Batch) -> None:
        """Put the batch where the recorded step reads it."""
        if not self._batch:
            self._batch = {name: torch.empty_like(column) for name, column in batch.items()}
        assert batch.keys() == self._batch.keys(), (list(batch), list(self._batch))
        for name, column in batch.items():
            assert column.shape == self._batch[name].shape, (name, column.shape)
            self._batch[name].copy_(column)

    def _step(self) -> None:
        metrics, self._back = self._eager.algorithm.update(self._batch, self._eager.noise)
        self._names = list(metrics)
        self._metrics = torch.stack([metric.float() for metric in metrics.values()])


def updater(
    algorithm: Algorithm, device: torch.device, capture: str, *, compiled: bool = False
) -> Update:
    """The way to make updates that the setting `capture` asks for: auto, on or off.

    Args:
        algorithm: what learns.
        device: where it is.
        capture: the setting.
        compiled: whether imagined steps are compiled, on a CPU.

    Raises:
        ConfigError: if `capture` is on and the device is not CUDA.
    """
    require_capture(device, capture)
    if device.type == "cuda" and capture != "off" and ranks().count == 1:
        return CapturedUpdate(algorithm, device)
    return EagerUpdate(algorithm, device, compiled=compiled)


def require_capture(device: torch.device, capture: str) -> None:
    """Refuse to record an update where there are no CUDA graphs.

    Raises:
        ConfigError: saying what to set instead.
    """
    if capture == "on" and ranks().count > 1:
        raise ConfigError(
            "capture='on' records an update without what several processes tell each other in it; "
            "leave it at 'auto', which makes updates kernel by kernel here"
        )
    if capture == "on" and device.type != "cuda":
        raise ConfigError(
            f"capture='on' records the update as a CUDA graph, but the device is {device}; use "
            "capture='auto', which records where it can, or device='cuda'"
        )


def cuda_graph(step: Callable[[], None], noise: NoiseSource) -> Callable[[], None]:
    """Record what a step does on the noise's CUDA device, without doing it.

    Args:
        step: works on tensors that stay where they are.
        noise: its random numbers; restarted from another seed, a launch draws that seed's.

    Returns:
        What does the recorded work, and does not wait for it.

    Raises:
        RunError: if the step does what no graph can hold.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(noise.device)
    graph.register_generator_state(noise.generator)
    try:
        # thread_local: another thread may allocate memory meanwhile
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            step()
    except RuntimeError as error:
        raise RunError(
            f"the update cannot be recorded as a CUDA graph: {error}; set capture='off' to make "
            "updates kernel by kernel"
        ) from error
    waiting: deque[torch.cuda.Event] = deque()

    def launch() -> None:
        if len(waiting) == QUEUE:
            waiting.popleft().synchronize()
        graph.replay()
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(noise.device))
        waiting.append(done)

    return launch


def aside(
    call: Callable[[], tuple[Metrics, WriteBack]], device: torch.device
) -> tuple[Metrics, WriteBack]:
    """Call on a stream of its own where there are streams, as what precedes a recording must be."""
    if device.type != "cuda":
        return call()
    current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        result = call()
    current.wait_stream(side)
    return result
