"""Learning curves and open-loop pictures: what stands where in them."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

pytest.importorskip("matplotlib")


from agentzoo.runtime.errors import AgentZooError, RunError
from agentzoo.runtime.evaluation.rollout import Evaluation
from agentzoo.train import plots as report


def run_folder(folder: Path, offset: float = 0.0, evaluations: int = 3) -> Path:
    folder.mkdir()
    lines = [{"env_step": t, report.COLLECTION: t + offset} for t in range(10, 60, 10)]
    lines += [{"env_step": 20 * t, report.EVALUATION: 100 + offset} for t in range(1, evaluations)]
    text = "".join(json.dumps(line) + "\n" for line in sorted(lines, key=lambda x: x["env_step"]))
    (folder / "metrics.jsonl").write_text(text)
    return folder


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures saved, so that a test can read what was drawn."""
    figures: list[Figure] = []
    save = Figure.savefig

    def remember(figure: Figure, *args: object, **options: object) -> None:
        figures.append(figure)
        save(figure, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", remember)
    return figures


def scored(*returns: float, env: str = "gym:CartPole-v1") -> Evaluation:
    count = len(returns)
    return Evaluation(
        agent="A", env=env, returns=returns, lengths=(1,) * count, seeds=tuple(range(count)),
        deterministic=True,
    )  # fmt: skip


def test_a_comparison_draws_each_episode_and_the_mean_in_its_interval(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    results = {"one": scored(1, 2, 3), "two": scored(5, 5)}
    path = report.comparison_plot(results, tmp_path / "comparison.png")
    (axes,) = drawn[0].axes
    lines = [[list(map(float, xy)) for xy in line.get_data()] for line in axes.get_lines()]
    assert lines[0] == [[1, 2, 3], [0, 0, 0]]
    assert lines[1] == [list(results["one"].interval), [0, 0]]
    assert lines[2] == [[2], [0]]
    assert lines[5] == [[5], [1]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]
    assert path.stat().st_size > 0
    with pytest.raises(AgentZooError, match="expected one environment"):
        report.comparison_plot({"a": scored(1), "b": scored(1, env="gym:Pendulum-v1")}, path)


def test_evaluation_and_collection_are_two_curves(tmp_path: Path, drawn: list[Figure]) -> None:
    path = report.learning_curve(
        run_folder(tmp_path / "a"), tmp_path / "new" / "curve.png", baselines={"random": 7.0}
    )
    assert path.read_bytes().startswith(b"\x89PNG")
    (axes,) = drawn[0].axes
    collection, evaluation, baseline = axes.get_lines()
    assert collection.get_xydata().tolist() == [[t, t] for t in range(10, 60, 10)]
    assert evaluation.get_xydata().tolist() == [[20, 100], [40, 100]]
    assert evaluation.get_color() != collection.get_color()
    assert baseline.get_ydata()[0] == 7.0
    assert axes.get_xlabel() == "environment steps"


def test_seeds_become_a_mean_in_a_band(tmp_path: Path, drawn: list[Figure]) -> None:
    folders = [run_folder(tmp_path / name, offset) for name, offset in (("a", 0.0), ("b", 30.0))]
    report.learning_curve(folders, tmp_path / "curve.png")
    (axes,) = drawn[0].axes
    collection, evaluation = axes.get_lines()
    assert collection.get_ydata().tolist() == [t + 15 for t in range(10, 60, 10)]
    assert evaluation.get_ydata().tolist() == [115, 115]
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (10, 80)
    assert "2 runs" in str(evaluation.get_label())


def test_seeds_are_compared_where_all_of_them_went(tmp_path: Path) -> None:
    series = [(np.array([0.0, 10.0]), np.array([0.0, 10.0])), (np.array([5.0]), np.array([1.0]))]
    steps, returns = report.shared_steps(series)
    assert steps.tolist() == [5.0]
    assert returns.tolist() == [[5.0], [1.0]]


def test_a_run_without_returns_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"env_step": 1}\n')
    with pytest.raises(RunError, match=r"no returns in .*finished episode"):
        report.learning_curve(tmp_path, tmp_path / "curve.png")


def test_open_loop_frames_have_rows_columns_and_a_border_that_turns() -> None:
    truth, model = np.zeros((2, 50, 4, 4, 3)), np.ones((2, 50, 4, 4, 3))
    frames = report.open_loop_frames(truth, model, zoom=2)
    assert frames.shape == (50, 3 * 12, 2 * 12, 3)
    assert frames.dtype == np.uint8
    tile = frames.reshape(50, 3, 12, 2, 12, 3)
    assert [int(tile[0, row, 5, 0, 5, 0]) for row in range(3)] == [0, 255, 255]
    seen, dreamed = frames[4, 0, 0], frames[5, 0, 0]
    assert seen[1] > seen[0]  # green
    assert dreamed[0] > dreamed[1]  # red
    assert (frames[:5, 0, 0] == seen).all()
    assert (frames[5:, 0, 0] == dreamed).all()


def test_agreement_is_grey_and_grey_images_become_colour() -> None:
    same = np.full((1, 6, 4, 4, 1), 0.25)
    frames = report.open_loop_frames(same, same, zoom=1)
    tile = frames.reshape(6, 3, 8, 8, 3)
    assert (tile[:, 2, 2:-2, 2:-2] == 128).all()
    assert (tile[:, 0, 2:-2, 2:-2] == 64).all()


def test_the_video_has_a_frame_a_step(tmp_path: Path) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    pair = np.random.default_rng(0).random((2, 2, 50, 16, 16, 3))
    path = report.open_loop_video(pair[0], pair[1], tmp_path / "dream.mp4")
    count, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
    assert count == 50
    assert seconds == pytest.approx(5.0)


def test_vectors_are_lines_with_a_mark_where_the_dream_begins(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    truth = np.arange(2 * 50 * 3, dtype=float).reshape(2, 50, 3)
    report.open_loop_plot(truth, truth + 1, tmp_path / "dream.png", names=("x", "y", "z"))
    panels = drawn[0].axes
    assert len(panels) == 6
    assert [panel.get_ylabel() for panel in panels[::2]] == ["x", "y", "z"]
    real, model, mark = panels[1].get_lines()
    assert real.get_ydata().tolist() == truth[1, :, 0].tolist()
    assert model.get_ydata().tolist() == (truth[1, :, 0] + 1).tolist()
    assert mark.get_xdata()[0] == 4.5


def test_of_a_wide_vector_the_dimensions_that_change_most_are_drawn(
    tmp_path: Path, drawn: list[Figure]
):
    truth = np.zeros((2, 9, 500))
    chosen = [3, 17, *range(480, 494)]
    truth[..., chosen] = np.random.default_rng(0).standard_normal((2, 9, 16))
    assert report.most_changing(truth) == chosen  # before drawing, which may take for ever
    report.open_loop_plot(truth, truth, tmp_path / "dream.png")
    (figure,) = drawn
    assert len(figure.axes) == 16 * 2  # bounded, whatever the width: the time grows with its square
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert labels == [f"[{dimension}]" for dimension in chosen]
    assert "16 of 500 dimensions, those that change most" in figure.get_suptitle()
    assert report.most_changing(np.ones((1, 2, 3))) == [0, 1, 2]


@pytest.mark.parametrize("draw", [report.open_loop_video, report.open_loop_plot])
def test_shapes_that_do_not_fit_are_named(tmp_path: Path, draw: object) -> None:
    assert callable(draw)
    with pytest.raises(AgentZooError, match=r"one shape \(B, T.*given \(2,\) and \(3,\)"):
        draw(np.zeros(2), np.zeros(3), tmp_path / "x")
