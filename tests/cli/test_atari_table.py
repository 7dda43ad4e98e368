"""`agentzoo table`: what it computes of results.json files, and what it refuses to compare."""

import json
from pathlib import Path

import pytest

from agentzoo.cli import main as cli
from agentzoo.cli.atari_table import table
from agentzoo.runtime.errors import BundleError, ConfigError, EnvironmentStringError
from agentzoo.runtime.evaluation.rollout import Evaluation


def result(
    folder: Path,
    game: str,
    returns: tuple[float, ...],
    *,
    agent: str = "DreamerV2",
    query: str = "protocol=dreamerv2",
    deterministic: bool = True,
) -> Path:
    """A results.json as evaluation writes it."""
    from agentzoo.runtime.envs import resolve

    evaluation = Evaluation(
        agent=agent,
        env=resolve(f"atari:{game}?{query}"),
        returns=returns,
        lengths=(1,) * len(returns),
        seeds=tuple(range(len(returns))),
        deterministic=deterministic,
    )
    path = folder / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(evaluation.to_json()))
    return path


def cells(text: str, row: str) -> dict[str, str]:
    """A table's row by its columns."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    at = next(i for i, line in enumerate(lines) if line[0] == row)
    head = next(line for line in reversed(lines[:at]) if len(line) > 1 and "---" not in line[0]
                and line[0].startswith(("game", "over")))  # fmt: skip
    return dict(zip(head, lines[at], strict=True))


def test_an_agents_name_stays_in_its_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = result(tmp_path / "a", "pong", (14.0,), agent="x\x1b[2J\n| fake | 1 |")
    with pytest.raises(SystemExit) as end:
        cli.main(["table", str(path)])
    assert not end.value.code
    lines = capsys.readouterr().out.split("\n")
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("| fake") for line in lines)
    (head,) = (line for line in lines if line.startswith("| game"))
    assert r"| x\x1b[2J\n\| fake \| 1 \| (ours) |" in head


def test_games_and_seeds_become_the_papers_figures(tmp_path: Path) -> None:
    result(tmp_path / "a", "pong", (14.0, 15.2))
    result(tmp_path / "b", "pong", (-20.7,))
    result(tmp_path / "c" / "deep", "breakout", (30.5,))
    text = table([tmp_path])
    ours = "DreamerV2 (ours)"
    pong = cells(text, "pong")
    assert (pong["random"], pong["gamer"], pong[ours]) == ("-20.7", "14.6", "-3.0")
    assert (pong["DreamerV2"], pong["DreamerV3"], pong["MuZero"]) == ("20.0", "20.4", "20.9")
    # half of the gamer's in Pong, all of it in Breakout
    assert cells(text, "human-normalized median")[ours] == "0.75"
    assert cells(text, "human-normalized mean")[ours] == "0.75"
    assert cells(text, "clipped record mean")[ours] == "0.23"
    published = {"DreamerV2": "5.96", "DreamerV3": "7.22"}  # of the same two games
    mean = cells(text, "human-normalized mean")
    assert {agent: mean[agent] for agent in published} == published
    assert "over 2 games" in text
    assert "DreamerV2 (ours): protocol dreamerv2 (actions=minimal, " in text
    assert "deterministic=True" in text
    assert "Published, at 200,000,000 frames" in text
    assert "arXiv:2010.02193, table K.1" in text


def test_agents_stand_side_by_side_with_the_number_of_their_games(tmp_path: Path) -> None:
    paths = [
        result(tmp_path / "a", "pong", (14.6,)),
        result(tmp_path / "b", "defender", (18688.9,), agent="DreamerV3", query="sticky=0.25"),
    ]
    text = table(paths)
    row = cells(text, "human-normalized median")
    assert (row["DreamerV2 (ours)"], row["DreamerV3 (ours)"]) == ("1.00 (1)", "1.00 (1)")
    assert row["DQN"] == "1.06 (1)"  # Dopamine has no Defender
    assert cells(text, "defender")["DQN"] == ""


def test_a_game_without_a_gamer_is_shown_and_left_out(tmp_path: Path) -> None:
    text = table([result(tmp_path, "tetris", (3.0,))])
    assert cells(text, "tetris")["DreamerV2 (ours)"] == "3.0"
    assert cells(text, "human-normalized mean")["DreamerV2 (ours)"] == ""
    text = table([tmp_path / "results.json", result(tmp_path / "a", "pong", (14.6,))])
    assert "over 1 games" in text
    assert cells(text, "human-normalized mean")["DreamerV2 (ours)"] == "1.00"


def test_atari100k_is_compared_with_atari100k(tmp_path: Path) -> None:
    text = table([result(tmp_path, "pong", (-4.0,), query="protocol=atari100k")])
    assert cells(text, "pong")["IRIS"] == "15.0"
    assert "Published, at 400,000 frames" in text


def test_unlike_protocols_are_not_mixed(tmp_path: Path) -> None:
    first = result(tmp_path / "a", "pong", (1.0,))
    other = result(tmp_path / "b", "breakout", (1.0,), query="sticky=0&max_noops=5")
    with pytest.raises(ConfigError, match=r"different protocols .max_noops=30 and 5; sticky=0.25"):
        table([first, other])
    sampled = result(tmp_path / "c", "breakout", (1.0,), deterministic=False)
    with pytest.raises(ConfigError, match="deterministic=True and False"):
        table([first, sampled])
    short = result(tmp_path / "d", "pong", (1.0,), agent="DreamerV3", query="protocol=atari100k")
    with pytest.raises(ConfigError, match=r"different benchmarks .atari200m, atari100k.; make"):
        table([first, short])


def test_what_is_no_atari_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no results\.json; name such files or folders"):
        table([tmp_path])
    path = result(tmp_path, "pong", (1.0,))
    good = json.loads(path.read_text())

    def given(**changes: object) -> list[Path]:
        path.write_text(json.dumps(good | changes))
        return [path]

    with pytest.raises(ConfigError, match='is of "gym:CartPole-v1", expected a game of atari:'):
        table(given(env="gym:CartPole-v1"))
    with pytest.raises(EnvironmentStringError, match='did you mean "pong"'):
        table(given(env="atari:pongg"))
    with pytest.raises(BundleError, match=r"results\.json: .* lists 0 returns, 1 lengths"):
        table(given(returns=[]))
    with pytest.raises(BundleError, match=r"returns.*expected float"):
        table(given(returns=["many"]))
    path.write_text("{}")
    with pytest.raises(BundleError, match=r"results\.json has format None, this version reads 1"):
        table([path])


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result(tmp_path, "pong", (14.6,))
    with pytest.raises(SystemExit) as end:
        cli.main(["table", str(tmp_path)])
    assert not end.value.code
    assert cells(capsys.readouterr().out, "human-normalized mean")["DreamerV2 (ours)"] == "1.00"
    with pytest.raises(SystemExit) as end:
        cli.main(["table", str(tmp_path / "nothing")])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("agentzoo: ")
