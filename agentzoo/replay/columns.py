"""Columns by name, as replay takes and gives them."""

import numpy as np
from torch import Tensor

Batch = dict[str, Tensor]  # replay columns (B, T, ...), with "prev_action" shifted in
Transitions = dict[str, np.ndarray]  # replay columns (B, ...) of one decision of B environments
