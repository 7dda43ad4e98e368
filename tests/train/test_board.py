"""`agentzoo plot`: which runs stand where, what the table says, and what the picture holds."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from agentzoo.cli.main import app
from agentzoo.cli.plot import named_paths, scales_of
from agentzoo.runtime.envs import resolve
from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.evaluation.rollout import Evaluation
from agentzoo.runtime.evaluation.statistics import scored_in
from agentzoo.train.board import board_table, read_board
from agentzoo.train.board_plot import board_plot, curve_of, shared

WALKER, CARTPOLE = "dmc:walker-walk?obs=state&repeat=2", "gym:CartPole-v1?repeat=1"


def result(
    folder: Path, agent: str, env: str, mean: float, successes: tuple[bool, ...] = ()
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    found = Evaluation(
        agent=agent, env=env, returns=(mean, mean), lengths=(1, 1), seeds=(0, 1),
        deterministic=True, successes=successes,
    )  # fmt: skip
    (folder / "results.json").write_text(json.dumps(found.to_json()))
    return folder


def curve(folder: Path, *points: tuple[int, float], key: str = "eval/mean_reward") -> Path:
    lines = [{"env_step": step, key: value} for step, value in points]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_entries_go_by_task_and_agent(tmp_path: Path) -> None:
    result(tmp_path / "a" / "s0", "A", WALKER, 500)
    result(tmp_path / "a" / "s1", "A", WALKER.replace("repeat=2", "repeat=4"), 700)
    result(tmp_path / "b", "B", WALKER, 100)
    result(tmp_path / "b" / "best" / "000001", "B", WALKER, 999)  # inside of a run: not another
    board = read_board([("", tmp_path / "a"), ("mine", tmp_path / "b")])
    assert board.tasks == ["dmc:walker-walk"]
    assert board.agents == ["A", "mine"]
    assert board.scores("dmc:walker-walk", "A") == [500, 700]
    assert board.scores("dmc:walker-walk", "mine") == [100]
    assert "| dmc:walker-walk | 600 (500 to 700), 2 runs | 100 |" in board_table(board)


def test_a_task_is_named_by_the_keys_that_decide_its_score() -> None:
    assert scored_in(WALKER) == "dmc:walker-walk"
    assert scored_in("crafter:reward?size=64&repeat=1") == "crafter:reward,max_episode_steps=10000"
    assert scored_in("") == ""


def test_tasks_are_pooled_on_their_scales(tmp_path: Path) -> None:
    for seed in range(3):
        for agent, share in (("A", 0.8), ("B", 0.2)):
            result(tmp_path / agent / f"w{seed}", agent, WALKER, 1000 * share)
            result(tmp_path / agent / f"c{seed}", agent, CARTPOLE, 500 * share)
    paths = [("", tmp_path)]
    without = read_board(paths)
    assert without.summary() is None
    assert "the returns of gym:CartPole-v1 have no scale" in board_table(without)
    board = read_board(paths, {"gym:CartPole-v1": (0.0, 500.0)})
    summary = board.summary()
    assert summary is not None
    assert {name: one.value for name, one in summary.iqm.items()} == pytest.approx(
        {"A": 0.8, "B": 0.2}
    )
    assert summary.better["A", "B"] == (1.0, 1.0, 1.0)
    assert "| A above B | 1.00 | 1.00 to 1.00 |" in board_table(board)
    with pytest.raises(ConfigError, match="a scale was given for gym:Pendulum-v1"):
        read_board(paths, {"gym:Pendulum-v1": (0.0, 1.0)})


def test_atari_is_scaled_from_random_to_gamer(tmp_path: Path) -> None:
    games = {"pong": (-20.7, 14.6), "boxing": (0.1, 12.1)}
    for game, (low, high) in games.items():
        env = resolve(f"atari:{game}")
        result(tmp_path / "a" / game, "A", env, high)
        result(tmp_path / "b" / game, "B", env, low)
    summary = read_board([("", tmp_path)]).summary()
    assert summary is not None
    assert {name: one.value for name, one in summary.iqm.items()} == pytest.approx(
        {"A": 1.0, "B": 0.0}
    )


def test_success_rates_have_a_table_of_their_own(tmp_path: Path) -> None:
    result(tmp_path / "a", "A", CARTPOLE, 1.0, (True, False))
    result(tmp_path / "b", "B", CARTPOLE, 1.0)
    text = board_table(read_board([("", tmp_path)]))
    assert "| success rate | A | B |\n| --- | ---: | ---: |\n| gym:CartPole-v1 | 0.50 |  |" in text


def test_the_picture_has_a_panel_a_task_a_band_an_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: (figures.append(f), save(f, *a, **k)))
    for seed in (0, 1):
        folder = result(tmp_path / "r" / f"a{seed}", "A", WALKER, 900)
        curve(folder, (10, 100 * seed), (20, 300.0), (30, 500.0 + seed))
        folder = result(tmp_path / "r" / f"b{seed}", "B", WALKER, 300)
        curve(folder, (10, 50.0), (25, 50.0))
    board = read_board([("", tmp_path / "r")])
    path = board_plot(board, tmp_path / "new" / "plot.png", title="both")
    assert path.read_bytes().startswith(b"\x89PNG")
    panel, *below = figures[0].axes
    assert panel.get_title() == "dmc:walker-walk"
    assert panel.get_xlabel() == "environment steps"
    mean, other = panel.get_lines()
    assert mean.get_xydata().tolist() == [[10, 50], [20, 300], [30, 500.5]]
    assert other.get_xydata().tolist() == [[10, 50], [25, 50]]
    assert len(panel.collections) == 2  # bands
    assert mean.get_color() != other.get_color()
    assert [one.get_xlabel() for one in below] == [
        "IQM of the return, 95 % interval", "return t", "probability of improvement",
    ]  # fmt: skip


def test_collection_is_binned_by_episodes() -> None:
    lines = [
        {"env_step": k, "rollout/ep_rew_mean": float(k), "time/episodes": 2 * k}
        for k in range(1, 101)
    ]
    steps, values = curve_of(lines, "rollout/ep_rew_mean", bins=4)
    assert steps.tolist() == [25, 50, 75, 100]
    assert values.tolist() == [13, 38, 63, 88]
    assert curve_of(lines, "eval/mean_reward") is None


def test_runs_share_the_steps_that_all_reached() -> None:
    one, other = (np.array([0.0, 10, 20]), np.array([0.0, 1, 2])), (np.array([5.0, 15]), np.ones(2))
    steps, values = shared([one, other])
    assert steps.tolist() == [5, 10, 15]
    assert values.tolist() == [[0.5, 1, 1.5], [1, 1, 1]]


def test_arguments(tmp_path: Path) -> None:
    odd = tmp_path / "lr=3"
    odd.mkdir()
    assert named_paths([str(odd), f"mine={tmp_path}"]) == [("", odd), ("mine", tmp_path)]
    with pytest.raises(ConfigError, match="nothing at"):
        named_paths(["mine=/no/such"])
    assert scales_of(["gym:CartPole-v1=0,500"]) == {"gym:CartPole-v1": (0.0, 500.0)}
    for bad in ("gym:CartPole-v1", "a=1", "a=2,1", "a=x,y", "a=0,inf"):
        with pytest.raises(ConfigError, match="is no TASK=LOW,HIGH"):
            scales_of([bad])


def test_nothing_to_draw_and_nothing_there_are_sentences(tmp_path: Path) -> None:
    result(tmp_path / "a", "A", CARTPOLE, 1.0)
    with pytest.raises(ConfigError, match="nothing to draw"):
        board_plot(read_board([("", tmp_path)]), tmp_path / "p.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"holds no run and no results\.json"):
        read_board([("", tmp_path / "empty")])


def test_the_command_prints_the_table_and_draws(tmp_path: Path) -> None:
    curve(result(tmp_path / "a", "A", CARTPOLE, 7.0), (1, 2.0), (2, 3.0))
    out = tmp_path / "p.png"
    done = CliRunner().invoke(app, ["plot", str(tmp_path / "a"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "| gym:CartPole-v1 | 7.0 |" in done.output
    assert out.stat().st_size > 0
