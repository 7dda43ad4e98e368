"""Checks a wheel with the extras onnx and serve, as a serving machine has it: no torch."""

import sys
from importlib import util
from pathlib import Path

import agentzoo
from agentzoo import hub, runtime
from agentzoo.runtime.errors import MissingExtraError
from agentzoo.runtime.server import serve

CHECKOUT = Path(__file__).parents[1]


def main() -> None:
    """Everything that serving needs is there; what is not says how to get it."""
    assert util.find_spec("torch") is None, "torch is installed: this checks nothing"
    for package in (agentzoo, hub, runtime):
        home = Path(str(package.__file__))
        assert home.is_relative_to(sys.prefix), f"{package.__name__} comes from {home}"
        assert (home.parent / "py.typed").is_file(), f"{package.__name__} lost its py.typed"
    assert callable(agentzoo.evaluate)
    assert (Path(str(hub.__file__)).parent / "templates" / "card.md").is_file()
    shipped = hub.search(hub="zoo:")
    names = sorted(path.name for path in (CHECKOUT / "agentzoo" / "hub" / "zoo").glob("*/"))
    assert [found.address for found in shipped] == [f"zoo:{name}" for name in names], shipped
    for found in shipped:
        print(found.address, hub.load_policy(found.address))
    assert callable(runtime.load_policy)
    assert callable(runtime.RemotePolicy)
    assert callable(serve)
    for name in ("Dreamer", "Agent", "load"):
        assert 'pip install "agentzoo-rl[train]"' in refusal(name)
    print(f"agentzoo {agentzoo.__version__}: the wheel imports, and serves without torch")


def refusal(name: str) -> str:
    """The error of a name that needs torch, here."""
    try:
        getattr(agentzoo, name)
    except MissingExtraError as error:
        return str(error)
    raise AssertionError(f"agentzoo.{name} resolved without torch")


if __name__ == "__main__":
    main()
