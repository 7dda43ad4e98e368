"""Recipes open with their losses, kernels name their plain forms, files have one reader."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "agentzoo" / "agents").glob("*.py"))
HOMES = {  # file -> the modules that read or write it
    "config.json": {"agentzoo/runtime/bundle/agent_config.py", "agentzoo/saved.py"},
    "results.json": {"agentzoo/runtime/evaluation/results.py"},
}
NAMES = {"config.json": "CONFIG", "results.json": "RESULTS"}
BY_JSON = {"read_json", "json.loads", "json.load", "json.dumps", "json.dump"}


def functions(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_the_whole_world_model_loss_begins_by_line_150() -> None:
    lines: dict[str, list[int]] = {}
    for path in RECIPES:
        if path.stem not in ("__init__", "registry"):
            found = [f for f in functions(path) if f.name.startswith("world_model_loss")]
            lines[path.stem] = [f.lineno for f in found]
    assert len(lines) == 6
    assert {name: at for name, at in lines.items() if len(at) != 1 or at[0] > 150} == {}


def test_configuration_and_presets_stand_last() -> None:
    for path in RECIPES:
        classes = [
            node.name
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.ClassDef)
        ]
        configs = [name for name in classes if name.endswith("Config")]
        if configs:  # the agent, and nothing else, comes after it
            assert len(classes) - classes.index(configs[0]) == 2, path.name


@pytest.mark.parametrize(
    "path",
    [p for p in sorted((ROOT / "agentzoo/blocks/fast").glob("*.py")) if p.stem != "__init__"],
    ids=lambda path: path.stem,
)
def test_each_kernel_names_its_plain_form(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert re.search(r"^Plain form: \S", text, re.M)
    table = (path.parent / "__init__.py").read_text(encoding="utf-8")
    assert f"| `{path.stem}." in table


def handled(code: str, file: str) -> list[int]:
    """Lines of functions that name a file and call JSON: each reads or writes it."""
    found: set[int] = set()
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.FunctionDef):
            continue
        parts = list(ast.walk(node))
        names = {n.id for n in parts if isinstance(n, ast.Name)}
        texts = {n.value for n in parts if isinstance(n, ast.Constant)}
        called = {ast.unparse(n.func) for n in parts if isinstance(n, ast.Call)}
        if (NAMES[file] in names or file in texts) and called & BY_JSON:
            found.add(node.lineno)
    return sorted(found)


@pytest.mark.parametrize("file", HOMES)
def test_a_file_has_one_reader_and_one_writer(file: str) -> None:
    found = {
        path.relative_to(ROOT).as_posix(): lines
        for path in sorted((ROOT / "agentzoo").rglob("*.py"))
        if (lines := handled(path.read_text(encoding="utf-8"), file))
    }
    assert found.keys() == HOMES[file]
    assert all(len(lines) <= 2 for lines in found.values())


def test_a_second_reader_is_found() -> None:
    code = 'def f(folder):\n    return json.loads((folder / "config.json").read_text())\n'
    assert handled(code, "config.json") == [1]
    assert handled(code, "results.json") == []
    assert handled(code.replace("json.loads", "read_settings"), "config.json") == []
