"""Layers: who may import whom, read from the syntax trees and seen in fresh processes."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentzoo

ROOT = Path(__file__).parents[2]
PACKAGES = ("agentzoo", "runtime", "hub")
FORBIDDEN = {
    "runtime": {"hub", "agentzoo", "torch", "huggingface_hub"},
    "hub": {"agentzoo", "torch"},
}
TRAINING = {module for extra in ("train",) for module in agentzoo.EXTRAS[extra]} - {"onnx"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


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


def all_imports(package: str) -> list[tuple[str, str, int]]:
    return [(str(p.relative_to(ROOT)), *i) for p in sources(package) for i in imported(p)]


def fresh(code: str) -> str:
    """What a new interpreter prints; it runs in the checkout with warnings as they come."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_import_goes_up(package: str) -> None:
    found = all_imports(package)
    assert found or package == "hub"
    upward = [i for i in found if i[1].split(".")[0] in FORBIDDEN[package]]
    assert upward == []


def test_agentzoo_and_hub_reach_siblings_by_absolute_names_only() -> None:
    for package in PACKAGES:
        for file, name, level in all_imports(package):
            inside = name.split(".")[0] == package
            assert inside or level == 0, f"{file}: {name} leaves its package by dots"
            assert not inside or level > 0, f"{file}: {name} should be a relative import"


def test_no_relative_import_leaves_its_package() -> None:
    for package in PACKAGES:
        for path in sources(package):
            depth = len(path.relative_to(ROOT).parts) - 1
            for name, level in imported(path):
                assert level <= depth, f"{path}: {'.' * level}{name}"


def test_blocks_do_not_know_who_uses_them() -> None:
    users = ("agentzoo.agents", "agentzoo.agent", "agentzoo.training", "agentzoo.config")
    for path in sources("agentzoo/blocks"):
        for name, _ in imported(path):
            assert not any(name == u or name.startswith(f"{u}.") for u in users), (path, name)


def test_no_agent_imports_another() -> None:
    for path in sources("agentzoo/agents"):
        for name, _ in imported(path):
            assert not name.startswith("agentzoo.agents."), (path, name)


def test_no_pickle_and_no_eval() -> None:
    unsafe = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    for package in PACKAGES:
        for path in sources(package):
            names = {name.split(".")[0] for name, _ in imported(path)}
            assert not names & unsafe, path
            calls = [
                n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)
            ]
            called = {f.id for f in calls if isinstance(f, ast.Name)}
            assert not called & {"eval", "exec"}, path


@pytest.mark.parametrize("package", ["runtime", "hub"])
def test_serving_loads_no_training(package: str) -> None:
    modules = set(fresh(f"import {package}, sys; print(*sys.modules)").split())
    assert package in modules
    assert not modules & (TRAINING | {"agentzoo"})


def test_every_module_of_the_runtime_imports_without_torch() -> None:
    """Torch is not merely unused at import: it may not be reachable at all."""
    names = [module_name(path) for path in sources("runtime")]
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
