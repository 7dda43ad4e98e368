"""Memory that a learning process frees stays its own."""

import platform
import subprocess
import sys

import pytest

from agentzoo.train.allocator import SETTINGS

FAULTS = """
import resource, sys
from agentzoo.train.allocator import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "keep" else False)
import torch
for turn in range(8):
    if turn == 4:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 2**20)  # 64 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the settings are the GNU C library's"
)


def faults(how: str, **environment: str) -> tuple[bool, int]:
    """Whether the settings were taken, and page faults of four large tensors after the first."""
    command = [sys.executable, "-c", FAULTS, how]
    env = {"PYTHONPATH": ".", "PATH": "", **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    taken, count = done.stdout.split()
    return taken == "True", int(count)


@glibc
def test_freed_tensors_are_not_paged_in_again() -> None:
    taken, kept = faults("keep")
    _, usual = faults("leave")
    assert taken
    assert usual > 4 * 16 * 2**20 * 4 // 4096 // 2  # most pages of four tensors
    # the heap still grows a little, and where huge pages are rare it grows by small ones
    assert kept < usual / 10


@glibc
@pytest.mark.parametrize("name", SETTINGS)
def test_a_users_own_settings_are_left_alone(name: str) -> None:
    own = {"GLIBC_TUNABLES": "glibc.malloc.check=0"}.get(name, "131072")
    assert faults("keep", **{name: own})[0] is False
