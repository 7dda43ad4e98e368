"""Layers: who may import whom, read from the syntax trees and seen in fresh processes."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentzoo

ROOT = Path(__file__).parents[2]
BELOW = {  # layer -> what of ours, of torch and of the Hub's client it may import
    "runtime": ("agentzoo.runtime",),
    "hub": ("agentzoo.runtime", "agentzoo.hub", "huggingface_hub"),
}
TRAINING = {module for extra in ("train",) for module in agentzoo.EXTRAS[extra]} - {"onnx"}
OLD_NAMES = re.compile(
    r"(?:^|[^\w.])"
    r"(?:from\s+(?:runtime|hub)(?:\.\w+)*\s+import|import\s+(?:[\w., ]*,\s*)?(?:runtime|hub)\b)"
)


def layer(path: Path) -> str:
    """`runtime`, `hub`, or `learning`, by the folder."""
    first = path.relative_to(ROOT / "agentzoo").parts[0]
    return first if first in ("runtime", "hub") else "learning"


def sources(where: str = "agentzoo") -> list[Path]:
    return sorted((ROOT / where).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute names of what a file imports, wherever in it, and how many dots were written."""
    package = module_name(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            kept = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*kept, *filter(None, [node.module])])
            yield from ((f"{stem}.{alias.name}", node.level) for alias in node.names)


def fresh(code: str) -> str:
    """The output of a new interpreter, run in the checkout with warnings as they come."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_the_layers_are_where_the_test_looks() -> None:
    assert {layer(path) for path in sources()} == {"runtime", "hub", "learning"}
    assert (ROOT / "runtime").resolve() == ROOT / "agentzoo" / "runtime"
    assert (ROOT / "hub").resolve() == ROOT / "agentzoo" / "hub"


@pytest.mark.parametrize("name", BELOW)
def test_no_import_goes_up(name: str) -> None:
    found = [(p, *i) for p in sources(f"agentzoo/{name}") for i in imported(p)]
    assert found
    upward = [
        (path, target)
        for path, target, _ in found
        if target.split(".")[0] in ("agentzoo", "torch", "huggingface_hub")
        and not any(within(target, allowed) for allowed in BELOW[name])
    ]
    assert upward == []


def test_a_layer_is_relative_inside_and_absolute_across() -> None:
    for path in sources():
        mine = layer(path)
        if path == ROOT / "agentzoo" / "__init__.py":
            continue  # the front door names all three
        for name, level in imported(path):
            if name.split(".")[0] != "agentzoo":
                continue
            theirs = next(
                (one for one in ("runtime", "hub") if within(name, f"agentzoo.{one}")), "learning"
            )
            assert (level > 0) == (mine == theirs), (path, name)


def test_blocks_do_not_know_who_uses_them() -> None:
    users = ("agentzoo.agents", "agentzoo.agent", "agentzoo.train", "agentzoo.config")
    for path in sources("agentzoo/blocks"):
        for name, _ in imported(path):
            assert not any(within(name, user) for user in users), (path, name)


def test_no_agent_imports_another() -> None:
    for path in sources("agentzoo/agents"):
        for name, _ in imported(path):
            assert not name.startswith("agentzoo.agents."), (path, name)


def test_no_pickle_and_no_eval() -> None:
    unsafe = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    for path in sources():
        names = {name.split(".")[0] for name, _ in imported(path)}
        assert not names & unsafe, path
        calls = [n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        called = {f.id for f in calls if isinstance(f, ast.Name)}
        assert not called & {"eval", "exec"}, path


@pytest.mark.parametrize("package", ["runtime", "hub"])
def test_serving_loads_no_training(package: str) -> None:
    modules = set(fresh(f"import agentzoo.{package}, sys; print(*sys.modules)").split())
    assert f"agentzoo.{package}" in modules
    assert not modules & (TRAINING | {"agentzoo.agent", "agentzoo.train", "huggingface_hub"})


def test_every_module_of_the_runtime_imports_without_torch() -> None:
    """Torch is not merely unused at import: it may not be reachable at all."""
    names = [module_name(path) for path in sources("agentzoo/runtime")]
    code = (
        "import sys, importlib; sys.modules['torch'] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print('whole')"
    )
    assert fresh(code).strip() == "whole"


def test_importing_agentzoo_is_lazy() -> None:
    heavy = TRAINING | {"onnx", "onnxruntime", "dm_control", "mujoco", "huggingface_hub"}
    modules = set(fresh("import agentzoo, sys; print(*sys.modules)").split())
    assert not modules & heavy
    assert "agentzoo.agent" not in modules


def test_extras_are_those_of_the_metadata() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for extra, modules in agentzoo.EXTRAS.items():
        listed = " ".join(extras[extra]).replace("-", "_")
        assert [m for m in modules if m not in listed] == []


@pytest.mark.parametrize("name", ["runtime", "hub"])
def test_the_old_names_say_the_new_ones(name: str) -> None:
    code = (
        f"import importlib\ntry: importlib.import_module({name!r})\n"
        "except ImportError as error: print(error)"
    )
    assert fresh(code).strip() == (
        f'"{name}" is "agentzoo.{name}": write from agentzoo import {name}'
    )


def test_the_old_names_stand_nowhere() -> None:
    """Neither in code, nor in the code of subprocesses, nor in docs and cards."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.toml", "*.yml", ".ci/*", "Makefile", "Dockerfile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert len(listed) > 200
    found = []
    for name in listed:
        if Path(name).name == "test_imports.py" or name == "CHANGELOG.md":
            continue
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            if OLD_NAMES.search(line) and not re.search(r"from (agentzoo|\.) import", line):
                found.append(f"{name}: {line.strip()}")
    assert found == []


def test_no_module_imports_itself_by_a_circle() -> None:
    """Imports for the type checker alone count as well."""
    names = {module_name(path): path for path in sources()}
    edges: dict[str, set[str]] = {}
    for name, path in names.items():
        found = {target for target, _ in imported_at_the_top(path)}
        homes = {next((t for t in (x, x.rpartition(".")[0]) if t in names), None) for x in found}
        edges[name] = {home for home in homes if home not in (None, name)}  # type: ignore[misc]
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for target in sorted(edges[name]):
                walk(target, (*way, name))
            done.add(name)

    for name in names:
        if not names[name].name.startswith("__init__"):
            walk(name, ())


def imported_at_the_top(path: Path) -> Iterator[tuple[str, int]]:
    """The imports of a file outside of its functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kept = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inside = {id(child) for function in kept for child in ast.walk(function)}
    package = module_name(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *filter(None, [node.module])])
            yield from ((f"{stem}.{alias.name}", node.level) for alias in node.names)


def test_building_an_agent_imports_nothing_of_export() -> None:
    pytest.importorskip("torch")
    code = (
        "import sys\nfrom agentzoo import Dreamer\n"
        "Dreamer('gym:CartPole-v1', preset='debug', device='cpu')\n"
        "print(*sys.modules)"
    )
    modules = set(fresh(code).split())
    assert "agentzoo.train.loop" in modules
    assert not modules & {"agentzoo.export", "onnx", "onnxscript", "onnxruntime"}
