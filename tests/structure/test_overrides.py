"""The agents' typed keyword arguments are the fields of their configurations."""

import runpy
import typing
from pathlib import Path

import pytest

from agentzoo import overrides
from agentzoo.agents.registry import OWN

CHECKOUT = Path(__file__).parents[2]


def test_the_file_is_what_is_written_from_the_configurations() -> None:
    written = runpy.run_path(str(CHECKOUT / ".ci" / "overrides.py"))["source"]()
    there = Path(overrides.__file__).read_text("utf-8")
    assert there == written, "run: python .ci/overrides.py"


@pytest.mark.parametrize("name", list(OWN))
def test_each_constructor_takes_its_agents_fields(name: str) -> None:
    kind = OWN[name].load()
    (unpacked,) = typing.get_args(typing.get_type_hints(kind.__init__)["overrides"])
    assert unpacked is getattr(overrides, f"{name}Overrides")
    assert set(typing.get_type_hints(unpacked)) == set(typing.get_type_hints(kind.config_class)) - {
        key for key, hint in typing.get_type_hints(kind.config_class).items()
        if typing.get_origin(hint) is typing.ClassVar
    }  # fmt: skip
