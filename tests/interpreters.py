"""Interpreters with packages that do not fit beside the project's own, for tests that need them."""

import os
from pathlib import Path

import pytest


def interpreter_of(variable: str, maker: str) -> str:
    """The interpreter that an environment variable names; where none is named the test is skipped.

    In the project's own CI run (CI is set) a missing one is a failure.
    """
    found = os.environ.get(variable, "")
    if not found and not os.environ.get("CI"):
        pytest.skip(f"set {variable} to what {maker} prints; in CI this is a failure")
    assert Path(found).is_file(), f"{variable} is {found!r}, expected an interpreter"
    return found
