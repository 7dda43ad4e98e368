"""Hand-written kernels, each beside the plain form that it equals and is tested against.

| kernel | plain form |
|---|---|
| `rssm_observe.observe` | `RSSM.observe` |
| `mlp_input_grad.input_grad`, `value_and_input_grad` | the MLP on detached weights or features |
| `norm_silu.norm_silu` | `silu(rms_norm(x))` |
| `max_pool.max_pool2x2` | `torch.nn.functional.max_pool2d` |
| `upsampled_conv.upsampled_conv` | nearest-neighbour upsampling, then `conv2d` |
| `one_pixel_conv.one_pixel_conv` | `conv_transpose2d` |
| `mish.mish` | `torch.nn.functional.mish` |
| `group_softmax.group_softmax` | `softmax` over a short last axis |
| `two_hot_loss.cross_entropy` | log-softmax and two gathers |
| `class_by_class.sample` | `CategoricalLatent.sample` on constants; for the compiler alone |
| `quick_tanh.quick_tanh` | `torch.tanh`, of which it differs under the compiler alone |

They give the same numbers but for rounding. `kernels("plain")` switches all of them off, which is
what a configuration's `kernels="plain"` does around an update.

Under bfloat16 autocast each works on what autocast hands it. Two know of it: `norm_silu` computes a
bfloat16 input in float32 and rounds once, and `rssm_observe` keeps its loop in float32 on a CPU,
while on CUDA it steps aside.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

KINDS = ("fast", "plain")
_ENABLED: ContextVar[bool] = ContextVar("kernels", default=True)


def enabled() -> bool:
    """Whether kernels are to be used here; else their plain forms are.

    A compiler (`blocks/compiled.py`) reads the plain forms and joins their passes itself.
    """
    return not torch.compiler.is_dynamo_compiling() and _ENABLED.get()


@contextmanager
def kernels(kind: str) -> Iterator[None]:
    """Use the kernels inside the block, or their plain forms: "fast" or "plain"."""
    assert kind in KINDS, kind
    token = _ENABLED.set(kind == "fast")
    try:
        yield
    finally:
        _ENABLED.reset(token)
