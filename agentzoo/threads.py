"""How many threads learn on a CPU while environments step in processes of their own.

PyTorch's threads wait for each other by spinning. On a full machine one of them is always off its
core, and all others spin until it is back: an update of two threads beside two busy processes, on
two cores, took more than twenty times as long as on one thread.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CHOSEN = "OMP_NUM_THREADS"


@contextmanager
def threads_beside(environments: int) -> Iterator[int]:
    """Leave a core to each environment while this is entered, but keep half of them to learn with.

    Whoever has set OMP_NUM_THREADS, or fewer threads than that, keeps their own choice.

    Args:
        environments: that step while the learner learns; 0 changes nothing.

    Yields:
        The number of threads.
    """
    before = torch.get_num_threads()
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    left = max(cores - min(environments, cores // 2), 1)
    own = before if CHOSEN in os.environ or not environments else min(before, left)
    torch.set_num_threads(own)
    try:
        yield own
    finally:
        torch.set_num_threads(before)
