"""tanh by a sigmoid, for the compiler.

Plain form: `torch.tanh`, which takes five times as long as a sigmoid. Both are right to 1e-7, but
near zero tanh to 1e-7 of its size, too: this form is for what is added to numbers about 1.
"""

import torch
from torch import Tensor


def quick_tanh(x: Tensor) -> Tensor:
    """tanh(x) = 2 sigmoid(2 x) - 1 where a compiler reads it, else PyTorch's: (...) -> (...)."""
    if torch.compiler.is_dynamo_compiling():
        return 2 * torch.sigmoid(2 * x) - 1
    return torch.tanh(x)
