"""Every Python snippet of README and docs runs, and every shell line names what the program has.

A page's snippets run in order, in one namespace and one temporary folder, with one substitution:

* an agent is made with a `debug` preset, without `size`, and with two environments at most;
* `learn` gets a thousandth of its steps, from 40 to 300; a score is of one episode;
* addresses `me/...` and the folder `/srv/agents` are a folder hub in the temporary folder;
* the server on port 8000 is one on loopback that serves the zoo's walker under the name `walker`.

A page that begins with an exported policy, `PREPARED`, finds the zoo's in its folder. `NOT_RUN`
says what cannot run and why; an entry without its snippet fails.
"""

import ast
import re
import shlex
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command

import agentzoo

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").glob("*.md") if not path.is_symlink()),
]
AGENTS = {"Dreamer", "DreamerV2", "DreamerV3", "PlaNet", "LSImagine", "TDMPC2"}
WALKER = ROOT / "zoo" / "dreamer-dmc-walker-walk"
PREPARED = {  # page -> folder name -> the zoo's agent
    "serving.md": {"walker": "dreamer-dmc-walker-walk"},
    "planet.md": {"my-planet": "planet-dmc-cartpole-swingup"},
}
NOT_RUN = {  # (page, words of the snippet) -> why
    ("README.md", "push_to_hub"): "minutes: publishing scores ten whole episodes and films one",
    ("hub.md", "push_to_hub"): "minutes: publishing scores ten whole episodes and films one",
    ("own_agent.md", "import OneStep"): "is examples/own_agent.py, which the contract tests run",
    ("own_agent.md", "def schedule"): "a method of a class that is not shown",
    (
        "own_agent.md",
        "check(Case",
    ): "minutes: learns, kills and resumes; the contract tests do that",
    ("cluster.md", "tritonclient"): "needs a Triton server",
    ("world_model.md", "stable_baselines3"): "minutes: PPO rounds up to 2,048 dreamed steps",
}


def snippets(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


def why_not(page: Path, snippet: str) -> str:
    found = (
        why for (name, words), why in NOT_RUN.items() if name == page.name and words in snippet
    )
    return next(found, "")


class Substitution(ast.NodeTransformer):
    """The one substitution; see this file's docstring."""

    def __init__(self, hub: Path, port: int) -> None:
        self.hub, self.port = hub, port

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if isinstance(node.value, str):
            text = re.sub(r"^me/", f"file:{self.hub}/", node.value)
            text = text.replace("/srv/agents", str(self.hub))
            return ast.Constant(text.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}"))
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)
        given = {word.arg: word.value for word in node.keywords}
        if name in AGENTS:
            pixels = "obs=state" not in ast.unparse(node) and "gym:" not in ast.unparse(node)
            given = {k: v for k, v in given.items() if k not in {"preset", "size", "batch_size"}}
            smallest = "debug_pixels" if pixels else "debug"
            known = getattr(agentzoo, name).presets
            given["preset"] = ast.Constant(smallest if smallest in known else "debug")
            given["final_episodes"] = given["eval_episodes"] = ast.Constant(1)
            if "envs" in given:
                given["envs"] = ast.Constant(2)
        elif name == "learn":
            steps = ast.literal_eval(node.args[0]) if node.args else 0
            node.args[:1] = [ast.Constant(max(40, min(300, steps // 1000)))]
        elif name == "evaluate":
            given["episodes"] = ast.Constant(1)
        node.keywords = [ast.keyword(word, value) for word, value in given.items()]
        return node


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    from agentzoo.runtime.server import ModelSettings
    from tests.unit_runtime.server.live import serving

    with serving(models=[ModelSettings(name="walker", source=str(WALKER), provider="cpu")]) as live:
        yield live.server.port


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("page", [p for p in PAGES if snippets(p)], ids=lambda page: page.name)
def test_snippets_run(
    page: Path, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Looked up, not imported: MuJoCo loads OpenGL at its import, which is agentzoo's to prepare.
    missing = [name for name in ("torch", "dm_control", "ale_py", "vizdoom") if not find_spec(name)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    monkeypatch.chdir(tmp_path)
    for folder, name in PREPARED.get(page.name, {}).items():
        shutil.copytree(ROOT / "zoo" / name, tmp_path / folder)
    space: dict[str, Any] = {"__name__": page.stem}
    for snippet in snippets(page):
        if not why_not(page, snippet):
            tree = Substitution(tmp_path / "hub", port).visit(ast.parse(snippet))
            exec(compile(ast.fix_missing_locations(tree), page.name, "exec"), space)


def test_what_does_not_run_is_there() -> None:
    found = {(p.name, why_not(p, snippet)) for p in PAGES for snippet in snippets(p)}
    assert {(name, why) for (name, _), why in NOT_RUN.items()} - found == set()


def shell_lines(page: Path) -> list[str]:
    """Command lines `agentzoo VERB ...`, of blocks and of the running text."""
    text = page.read_text(encoding="utf-8")
    fence = re.compile(r"```(\w*)\n(.*?)```", re.S)
    lines = [line for kind, block in fence.findall(text) if not kind for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", fence.sub("", text))
    lines = [re.sub(r"^OMP_NUM_THREADS=\d+ ", "", line) for line in lines]
    lines = [line for line in lines if "VERB" not in line]  # of any verb
    return [re.sub(r"  +.*|\s+#.*", "", line) for line in lines if line.startswith("agentzoo ")]


def command(words: list[str]) -> list[Any]:
    """The commands that words name: "evaluate|inspect" names two, "hub repair" one."""
    from agentzoo.cli.main import app

    root = get_command(app)
    assert isinstance(root, TyperGroup)
    verbs = words[0].split("|")
    assert set(verbs) <= set(root.commands), f"agentzoo has no {words[0]}"
    found = [root.commands[verb] for verb in verbs]
    for group in found:
        if isinstance(group, TyperGroup):
            assert words[1] in group.commands, f"agentzoo {words[0]} has no {words[1]}"
            return [group.commands[words[1]]]
    return found


@pytest.mark.parametrize("page", [p for p in PAGES if shell_lines(p)], ids=lambda page: page.name)
def test_shell_lines_name_verbs_and_options_that_are_there(page: Path) -> None:
    for line in shell_lines(page):
        words = shlex.split(line)[1:]
        if words[0].startswith("-"):
            continue
        known = {
            o for each in command(words) for p in each.params for o in (*p.opts, *p.secondary_opts)
        }
        asked = {
            re.sub(r"[=\]].*", "", word.lstrip("["))
            for word in words
            if word.lstrip("[").startswith("--")
        }
        assert asked <= known | {"--help"}, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shells_take_nothing_of_a_line_for_themselves(page: Path) -> None:
    """An unquoted ? or [ finds no file in zsh, which then runs nothing; & and ; end the command."""
    text = page.read_text(encoding="utf-8")
    installs = [re.sub(r"\s+#.*", "", one) for one in re.findall(r"^pip install .*", text, re.M)]
    for line in [*shell_lines(page), *installs]:
        optional = r"(?<= )\[[^]]*\]"  # "[FOLDER]" says that it may be left out
        plain = re.sub(rf"\"[^\"]*\"|'[^']*'|{optional}", "", line)
        assert not re.search(r"[][?*&;()<>~^#!]", plain), line


def test_shell_lines_are_found() -> None:
    found = [line for page in PAGES for line in shell_lines(page)]
    assert "agentzoo hub repair /srv/agents" in found
    assert any("--check" in line for line in found)
