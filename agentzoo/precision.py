"""The precision that `precision="auto"` stands for, and the table that it goes by.

bfloat16 products are a gain where the processor multiplies them by itself and the products are
large. Both are facts, not guesses: the processor says what it has, and the table holds what was
measured (benchmarks/bf16.py). What was not measured stays float32.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

BF16_FLAG = "avx512_bf16"  # of a processor that multiplies bfloat16 by itself
WORTH = 1.2  # times as fast, below which rounding buys nothing


@dataclass(frozen=True)
class Measured:
    """The gain of an update in bfloat16 on a CPU with `BF16_FLAG`.

    Attributes:
        agent: the agent's class.
        images: whether it saw images.
        times: float32's processor time over bfloat16's.
        fields: the settings that decide on the sizes of its networks and of the batch.
    """

    agent: str
    images: bool
    times: float
    fields: Mapping[str, Any] = field(default_factory=dict)


_V3 = {"size": "1m", "units": None, "hidden": None, "classes": None, "depth": None}
_V3_PAPER = {**_V3, "deter": None, "batch_size": 16, "batch_length": 65}
_V3_CPU = {**_V3, "deter": 256, "batch_length": 17, "imag_last": 4}
_V1 = {"deter": 200, "hidden": 200, "units": 400, "batch_size": 50, "batch_length": 50}
_V2 = {"deter": 600, "hidden": 600, "units": 400, "depth": 48, "batch_size": 16, "batch_length": 50}
_TD1 = {"size": "1m", "latent": None, "units": None, "encoder_units": None, "encoder_layers": None,
        "members": None, "batch_size": 128, "batch_length": 4}  # fmt: skip
# benchmarks/README.md, 2026-12-01; a user's other sizes are not measured
MEASURED = (
    Measured("DreamerV3", images=True, times=2.15, fields={**_V3_PAPER, "size": "12m"}),
    Measured("DreamerV3", images=True, times=1.46, fields=_V3_PAPER),
    Measured("DreamerV3", images=False, times=1.63, fields=_V3_PAPER),
    Measured("DreamerV3", images=True, times=1.22, fields={**_V3_CPU, "batch_size": 16}),
    Measured("DreamerV3", images=False, times=1.09, fields={**_V3_CPU, "batch_size": 32}),
    Measured("Dreamer", images=True, times=1.84, fields={**_V1, "depth": 32}),
    Measured("Dreamer", images=False, times=2.86, fields=_V1),
    Measured("DreamerV2", images=True, times=2.11, fields=_V2),
    Measured("TDMPC2", images=False, times=1.75, fields=_TD1),
)


def processor_flags() -> frozenset[str]:
    """The processor's flags by PyTorch's names; empty where PyTorch does not say."""
    found = getattr(torch.cpu, "get_capabilities", dict[str, object])()  # newer than our oldest
    return frozenset(name for name, has in found.items() if has is True)


def resolve_precision(
    agent: str,
    config: Any,
    *,
    images: bool,
    device: str,
    flags: Collection[str] | None = None,
    table: Collection[Measured] | None = None,
) -> str:
    """The precision that a configuration's means on this machine: "auto" is bf16 or fp32.

    Args:
        agent: the agent's class.
        config: its configuration; a precision other than "auto" is what it says.
        images: whether it sees images.
        device: where it learns: "cpu", "cuda", "mps". Only on a CPU anything was measured.
        flags: of the processor; None asks PyTorch.
        table: what was measured; None is `MEASURED`.
    """
    if config.precision != "auto":
        return config.precision
    if device != "cpu" or BF16_FLAG not in (processor_flags() if flags is None else flags):
        return "fp32"
    faster = [
        one
        for one in (MEASURED if table is None else table)
        if (one.agent, one.images) == (agent, images)
        and one.times >= WORTH
        and all(getattr(config, name) == value for name, value in one.fields.items())
    ]
    return "bf16" if faster else "fp32"


def slower_here(precision: str, *, device: str, flags: Collection[str] | None = None) -> str:
    """A sentence where a precision costs time on this machine, else ""."""
    flags = processor_flags() if flags is None else flags
    if precision != "bf16" or device != "cpu" or BF16_FLAG in flags:
        return ""
    return (
        f"precision=bf16 is slower here: this processor has no {BF16_FLAG}; it is kept, so that "
        "the run stays what it was"
    )
