"""Weights drawn from a seed of their own, whatever else in the process draws random numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class SeededInit(TorchDispatchMode):
    """Within it, this thread's random CPU operations draw from one seeded generator.

    They draw what `torch.manual_seed(seed)` would have them draw. torch's own generator belongs to
    the process: seeding it for the while of a constructor gives other weights as soon as another
    thread draws from it, and other numbers to that thread.

    Args:
        seed: of the generator.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operation of torch's, a random one with the generator."""
        given: dict[str, Any] = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded in func.tags and given.get("generator") is None:  # type: ignore[attr-defined]
            func, given["generator"] = _with_generator(func), self.generator
        return func(*args, **given)


def _with_generator(func: Any) -> Callable[..., Any]:
    """The overload of a random operation that takes a generator."""
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    name = "generator" if func._overloadname == "default" else f"{func._overloadname}_generator"
    packet = func.overloadpacket
    assert name in packet.overloads(), f"{func} draws random numbers and takes no generator"
    return getattr(packet, name)
