"""The command line: what it says, what it refuses, and what it does without torch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentzoo.cli import main as cli
from agentzoo.cli.doctor import TESTED_TORCH, torch_note
from agentzoo.cli.learn import agent_class, settings_of
from agentzoo.cli.options import steps
from agentzoo.runtime.errors import AgentZooError

ROOT = Path(__file__).parents[2]
VERBS = (
    *("quickstart", "learn", "evaluate", "compare", "table", "serve", "export", "inspect"),
    *("verify", "doctor", "push", "pull", "search"),
)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def without_torch(*arguments: str) -> "subprocess.CompletedProcess[str]":
    code = "import sys; sys.modules['torch'] = None\nfrom agentzoo.cli.main import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "--help")
    assert code == 0
    assert [verb for verb in VERBS if verb not in out] == []


@pytest.mark.parametrize(
    ("text", "number"), [("5e6", 5_000_000), ("50_000", 50_000), ("1", 1), ("2.5e3", 2_500)]
)
def test_steps_read_as_people_write_them(text: str, number: int) -> None:
    assert steps(text) == number


@pytest.mark.parametrize("text", ["0", "-5", "1.5", "many", "nan", "inf"])
def test_other_steps_are_refused(capsys: pytest.CaptureFixture[str], text: str) -> None:
    code, _, err = said(capsys, "learn", "dreamer", "gym:CartPole-v1", f"--steps={text}")
    assert code == 2
    assert "is not a whole number of steps" in " ".join(err.replace("│", " ").split())


def test_an_unknown_agent_is_one_sentence_without_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = said(capsys, "learn", "dremer", "gym:CartPole-v1")
    assert (code, out) == (2, "")
    assert err.startswith('agentzoo: there is no agent called "dremer"; did you mean "dreamer"')
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["dreamer", "Dreamer", "DREAMER"])
def test_agents_are_found_in_any_case(name: str) -> None:
    pytest.importorskip("torch")
    assert agent_class(name).__name__ == "Dreamer"


def test_settings_are_typed_by_the_configuration() -> None:
    pytest.importorskip("torch")
    kind = agent_class("dreamer")
    found = settings_of(kind, ["batch_size=8", "precision=bf16", "total_steps=5e6"])
    assert found == {"batch_size": 8, "precision": "bf16", "total_steps": 5_000_000}
    with pytest.raises(AgentZooError, match=r'batchsize.*did you mean "batch_size"'):
        settings_of(kind, ["batchsize=8"])


def test_a_missing_bundle_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for verb in ("evaluate", "inspect", "verify"):
        code, out, err = said(capsys, verb, str(tmp_path / "nothing"))
        assert (code, out) == (2, "")
        assert err.startswith("agentzoo: ")
        assert str(tmp_path / "nothing") in err
        assert err.count("\n") == 1


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version")[:2] == (0, "agentzoo 0.1.0\n")


def test_doctor_names_versions_extras_and_devices() -> None:
    result = CliRunner().invoke(cli.app, ["doctor"])
    assert result.exit_code == 0
    names = [line.split()[0] for line in result.stdout.splitlines()]
    assert names[:2] == ["agentzoo", "python"]
    assert {"[onnx]", "[train]", "[video]", "[dmc]", "OpenGL", "CUDA"} <= set(names)


def test_a_torch_newer_than_the_tested_one_is_named_and_no_more() -> None:
    tested = re.findall(r"^torch==(\d+)\.(\d+)", (ROOT / "constraints.txt").read_text(), re.M)
    assert [tuple(map(int, found)) for found in tested] == [TESTED_TORCH]
    major, minor = TESTED_TORCH
    assert torch_note(f"{major}.{minor}.0+cpu") == f"{major}.{minor}.0+cpu"
    note = torch_note(f"{major}.{minor + 1}.2")
    assert note.startswith(f"{major}.{minor + 1}.2 is newer than {major}.{minor}, ")
    assert torch_note("not installed") == "not installed"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_its_help_without_torch(verb: str) -> None:
    done = without_torch(verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage" in done.stdout


def test_learning_without_torch_names_the_extra() -> None:
    done = without_torch("learn", "dreamer", "gym:CartPole-v1")
    assert done.returncode == 2
    assert done.stderr.endswith('run: pip install "agentzoo-rl[train]"\n')
    assert "Traceback" not in done.stderr


def test_learning_goes_on_from_a_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = ["--steps", "600"]
    task = ["learn", "dreamer", "gym:Pendulum-v1"]
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    settings = ["--preset", "debug", "--device", "cpu", "--set", "final_episodes=0"]
    assert said(capsys, *task, *settings, *steps, "--run", first)[0] == 0
    code, _, err = said(capsys, *task, *steps, "--from", first, "--preset", "cpu")
    assert code == 2
    assert "leave out --preset" in err
    code, _, err = said(capsys, *task, *steps, "--from", first, "--device", "cpu", "--run", second)
    assert code == 0
    assert "continues from weights that learned for 600 steps" in err
    assert '"env_steps": 600' in (tmp_path / "second" / "config.json").read_text()


@pytest.mark.parametrize("verb", ["evaluate", "compare"])
def test_an_episode_may_be_as_long_as_max_steps_says(
    capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    scored = (verb, "zoo:dreamer-dmc-cartpole-swingup", "--episodes=1")
    code, _, err = said(capsys, *scored, "--max-steps=3")
    assert code == 2
    assert "seed 0 has no end after 3 decisions" in err
    assert "larger max_steps (--max-steps)" in err
    code, out, _ = said(capsys, *scored, "--max-steps=1e3")
    assert code == 0
    assert "1 episode" in out


@pytest.mark.parametrize(
    ("option", "name", "match"),
    [
        ("--record", "score.txt", r"score\.txt is a file; name a \.json file for the score"),
        ("--video", "film.xyz", r"film\.xyz, expected an mp4"),
    ],
)
def test_a_file_that_cannot_be_written_is_said_before_anything_is_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, name: str, match: str
) -> None:
    pytest.importorskip("dm_control")
    (tmp_path / "score.txt").write_text("mine")
    scored = ("evaluate", "zoo:dreamer-dmc-cartpole-swingup", option, str(tmp_path / name))
    code, out, err = said(capsys, *scored)
    assert (code, out) == (2, "")
    assert re.search(match, err)
    assert (tmp_path / "score.txt").read_text() == "mine"
