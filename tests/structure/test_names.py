"""The public names, and what happens when one cannot be had."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path

import pytest

import agentzoo
from agentzoo import runtime

ROOT = Path(__file__).parents[2]
PACKAGES = ("agentzoo", "agentzoo/runtime", "agentzoo/hub")
LAZY = {  # package whose names resolve on first use -> its names that are not in its table
    "agentzoo": ("__version__", "hub", "runtime"),
    "agentzoo.hub": (),
    "agentzoo.runtime": (),
    "agentzoo.runtime.world": (),
}


def run(code: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_public_names_resolve_to_what_they_say() -> None:
    pytest.importorskip("torch")
    assert set(agentzoo.__all__) == set(dir(agentzoo))
    assert agentzoo.Dreamer.__name__ == "Dreamer"
    assert issubclass(agentzoo.Dreamer, agentzoo.Agent)
    assert agentzoo.make_env is runtime.make_env
    assert agentzoo.evaluate is runtime.evaluate
    assert callable(agentzoo.load)


def names_for_type_checkers(package: str) -> dict[str, str]:
    """Name -> absolute module, of a package's imports under TYPE_CHECKING."""
    tree = ast.parse(Path(import_module(package).__file__ or "").read_text(encoding="utf-8"))
    (block,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(block.body)
    return {
        alias.name: resolve_name(f".{node.module or ''}", package).rstrip(".")
        for node in imports
        for alias in node.names
    }


GIVEN_UP = {  # the field has other words for these; see docs/glossary.md
    *("Row", "Rows", "Late", "Windows", "DeviceRows", "load_rows", "copy_if"),
    *("slow_copy", "evidence", "halved", "along_input", "along_both", "learned_in", "for_world"),
    *("at_once", "derive", "amend", "surprise", "drive", "together", "forget"),
}
RIDDLES = {  # no docstring opens with one; only a flag's with "whether"
    *("what", "whatever", "who", "whoever", "whose", "which", "whichever", "how"),
    *("where", "when", "why", "those", "such", "something", "everything", "anything", "nothing"),
    *("by", "of", "it", "nobody"),
}


@pytest.mark.parametrize("name", [*LAZY])
def test_type_checkers_read_what_python_does(name: str) -> None:
    pytest.importorskip("torch")
    package, more = import_module(name), LAZY[name]
    listed = names_for_type_checkers(name)
    assert {*listed} == {*package.HOMES, *more} - {"__version__"}
    assert {*package.__all__} == {*package.HOMES, *more}
    for each, module in listed.items():
        assert getattr(package, each) is getattr(import_module(module), each)


def test_the_runtime_offers_what_serving_needs() -> None:
    wanted = {"load_policy", "evaluate", "evaluate_random", "make_env", "verify", "inspect"}
    assert wanted <= set(dir(runtime))


def test_an_unknown_name_says_what_was_meant() -> None:
    with pytest.raises(AttributeError, match='agentzoo has no "Dreamr"; did you mean "Dreamer"'):
        agentzoo.Dreamr  # noqa: B018


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("Dreamer", "torch", "train"), ("Agent", "torch", "train"), ("load", "torch", "train")],
)
def test_a_missing_extra_is_one_sentence_with_its_pip_line(
    name: str, package: str, extra: str
) -> None:
    code = (
        f"import sys; sys.modules['{package}'] = None\n"
        "from agentzoo.runtime.errors import MissingExtraError\n"
        "import agentzoo\n"
        f"try: agentzoo.{name}\n"
        "except MissingExtraError as error: print(error)\n"
    )
    expected = f'this needs the package "{package}", which is not installed; '
    assert run(code).stdout.strip() == expected + f'run: pip install "agentzoo-rl[{extra}]"'


def test_another_missing_package_is_not_dressed_up() -> None:
    code = "import sys; sys.modules['gymnasium'] = None\nimport agentzoo\nagentzoo.Dreamer"
    assert "ModuleNotFoundError" in run(code).stderr


@pytest.mark.parametrize("file", ["runtime/__init__.py", "hub/__init__.py", "runtime.py"])
def test_a_package_of_the_users_own_may_have_such_a_name(tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("mine = True\n")
    name = file.partition("/")[0].removesuffix(".py")
    # ahead of the checkout, as a script's own folder is
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        f"import {name} as own, agentzoo\n"
        "print(own.mine, callable(agentzoo.evaluate), agentzoo.hub.__name__)"
    )
    assert run(code).stdout.split() == ["True", "True", "agentzoo.hub"]


def test_no_test_folder_shadows_a_package() -> None:
    folders = {p.name for p in (ROOT / "tests").rglob("*") if p.is_dir()}
    assert not folders & {"agentzoo", "runtime", "hub"}
    # the one at the top: a regular package wins over those that others install by that name
    assert list((ROOT / "tests").rglob("__init__.py")) == [ROOT / "tests" / "__init__.py"]


def test_folders_of_tests_mirror_the_packages() -> None:
    own = {"examples", "parity", "structure"}  # about more than one package
    folders = {p.parent.relative_to(ROOT / "tests").as_posix()
               for p in (ROOT / "tests").rglob("test_*.py")} - own  # fmt: skip
    assert {"agents", "unit_runtime/policy", "unit_hub"} < folders
    for folder in folders:
        package = ROOT / "agentzoo" / folder.replace("unit_", "")
        assert (package / "__init__.py").is_file(), f"tests/{folder} mirrors no package"


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_say_they_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def test_no_junk_drawers() -> None:
    drawers = {"utils", "util", "common", "core", "base", "helpers", "misc"}
    stems = {path.stem for path in (ROOT / "agentzoo").rglob("*")}
    assert not stems & drawers


def test_no_two_public_classes_share_a_name() -> None:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "agentzoo").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(str(path.relative_to(ROOT)))
    assert "Agent" in found
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_words_that_were_given_up_name_nothing() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sorted((ROOT / "agentzoo").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in GIVEN_UP
    }
    assert found == set()


def openings(code: str) -> list[tuple[int, str]]:
    """Line and first word of each docstring that opens like a question or a riddle."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        match = re.match(r"\w+", ast.get_docstring(node) or "")
        word = "" if match is None else match[0].lower()
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if word in RIDDLES or (word == "whether" and not is_function):
            found.append((getattr(node, "lineno", 1), word))
    return found


def test_docstrings_name_their_thing_first() -> None:
    folders = ("agentzoo", "benchmarks", "docs", "examples", "soak", "tests", "zoo")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 400
    found = {p: openings(p.read_text(encoding="utf-8")) for p in files if p != Path(__file__)}
    assert {str(p.relative_to(ROOT)): lines for p, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('"""What it is."""', [(1, "what")]),
        ('class A:\n    """Those that run."""', [(1, "those")]),
        ('def f():\n    """How fast it is."""', [(1, "how")]),
        ('async def f() -> int:\n    """Why it stops."""', [(1, "why")]),
        ('class A:\n    """Whether it runs."""', [(1, "whether")]),
        ('def f() -> bool:\n    """Whether it runs."""', []),
        ('def f() -> bool:\n    """Somewhat faster: a what."""', []),
    ],
)
def test_openings_are_found(code: str, expected: list[tuple[int, str]]) -> None:
    assert openings(code) == expected
