"""Tests see what users see: no private name of ours is read, patched or called."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PRIVATE = re.compile(r"_[A-Za-z]\w*")
OWN = re.compile(r"\b(\w+)\.(_[a-z]\w*)")  # in the code of another process
OTHERS = {  # name -> why a test may say it
    "_exit": "os._exit, which the standard library documents",
    "_replace": "a named tuple's, documented; the underscore keeps it out of its fields",
    "_repr_html_": "IPython's protocol for what a notebook shows",
    "_player": "crafter's game gives nothing public to change its state by",
    "_world": "as `_player`",
    "_contexts": "dm_control's property `contexts` makes one where there is none",
}
OTHERS_MODULES = {  # where PyTorch keeps what stands in for a device; nothing of it is public
    "torch._subclasses.fake_tensor",
    "torch.utils._python_dispatch",
    "torch.utils._pytree",
}


def private_names(code: str) -> set[tuple[int, str]]:
    """Line and name of everything private that is not `self`'s or `cls`'s."""
    return {
        (line, name)
        for line, name in _names(ast.parse(code))
        if PRIVATE.fullmatch(name) and name not in OTHERS
    }


def _names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            found = [] if is_own else [node.attr]
        elif isinstance(node, ast.ImportFrom):
            is_known = node.module in OTHERS_MODULES
            path = [] if is_known else (node.module or "").split(".")
            found = [*path, *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            found = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.Call):
            found = [*_named(node)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            pairs = OWN.findall(node.value)
            found = [name for owner, name in pairs if owner not in ("self", "cls")]
        else:
            continue
        yield from ((node.lineno, name) for name in found)


def _named(call: ast.Call) -> Iterator[str]:
    """Names given as strings: `setattr(owner, "_name", ...)`, `setattr("module._name", ...)`."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name not in ("setattr", "delattr", "getattr", "hasattr", "patch", "object"):
        return
    for given in call.args[:2]:
        if isinstance(given, ast.Constant) and isinstance(given.value, str):
            yield given.value.rpartition(".")[2]


def test_tests_use_public_names() -> None:
    files = sorted(TESTS.rglob("*.py"))
    assert len(files) > 100
    found = [
        f"{path.relative_to(TESTS)}:{line}: {name}"
        for path in files
        if path != Path(__file__)
        for line, name in sorted(private_names(path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "server._page.sockets",
        "env.unwrapped._game._player",
        "batcher._work()",
        "monkeypatch.setattr(manifest, '_sha256', None)",
        "monkeypatch.setattr('agentzoo.export._trace', None)",
        "getattr(agent, '_source')",
        "from agentzoo.export import _trace",
        "from agentzoo.train._parts import whole",
        "run('print(env._bridge.process)')",
        "env._pitch = 3.0",
    ],
)
def test_a_private_name_is_found(code: str) -> None:
    assert len(private_names(code)) == 1


@pytest.mark.parametrize(
    "code",
    [
        "self._process.wait()",
        "from torch.utils._pytree import tree_leaves",
        "state._replace(deter=deter)",
        "os._exit(3)",
        "type(env).__name__",
        "monkeypatch.setattr(module, 'PATIENCE_S', 0.1)",
        "'a sentence about names_ and __init__.py'",
        "for _ in range(3): pass",
    ],
)
def test_what_is_public_or_a_tests_own_is_not(code: str) -> None:
    assert private_names(code) == set()
