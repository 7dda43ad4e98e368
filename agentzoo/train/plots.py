"""Pictures of a run: the learning curve, and what the model dreams beside what happened."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agentzoo.runtime.errors import AgentZooError, MissingExtraError, RunError
from agentzoo.runtime.evaluation.statistics import check_comparable

from .logger import Record, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from agentzoo.runtime.evaluation.rollout import Evaluation
    from agentzoo.runtime.spec import Array

EVALUATION = "eval/mean_reward"
COLLECTION = "rollout/ep_rew_mean"
IS_BEST = "eval/is_best"  # 1 where no evaluation before had so high a mean
CONTEXT = 5  # frames the model sees before it dreams; Hafner et al. 2020 (arXiv:1912.01603), fig. 4
DIMENSIONS = 16  # of a vector in one picture: the layout's time grows with the square of them
HORIZON = 45  # frames it then dreams; the same figure

_SEEN, _DREAMED = (0.15, 0.65, 0.25), (0.85, 0.2, 0.15)  # border: green, then red
_EVALUATION_COLOR, _COLLECTION_COLOR = "#1f5fa8", "#e08a1e"
_BEST_COLOR = "#c8102e"
_BASELINE_STYLES = ("--", ":", "-.")

Series = tuple["Array", "Array"]  # environment steps and returns, (n,) each


def learning_curve(
    folders: str | Path | Sequence[str | Path],
    path: str | Path,
    *,
    baselines: Mapping[str, float] | None = None,
    title: str = "",
) -> Path:
    """Plot the returns of one run, or of several seeds of it, against environment steps.

    Evaluation (without exploration) and collection (with it) are two curves: an actor whose
    deviation collapsed scores well in one and badly in the other. A star marks the policy that is
    kept as the best. Several runs become their mean within a band from the lowest to the highest.

    Args:
        folders: a run's folder, or several.
        path: the PNG to write.
        baselines: name -> return, drawn as horizontal lines ("random", "paper, 5M steps").
        title: above the plot.

    Returns:
        The path written.

    Raises:
        RunError: if the runs hold no returns.
        MissingExtraError: if matplotlib is not installed.
    """
    several = [folders] if isinstance(folders, str | Path) else list(folders)
    runs = [read_metrics(folder) for folder in several]
    evaluation, collection = (_series(runs, key) for key in (EVALUATION, COLLECTION))
    if not evaluation and not collection:
        raise RunError(
            f"no returns in {', '.join(map(str, several))}: a curve needs at least one finished "
            "episode; let the run go on for longer"
        )
    figure, axes = _figure(7.0, 4.2)
    _draw(axes, collection, "collection (exploring)", _COLLECTION_COLOR, width=1.0)
    _draw(axes, evaluation, "evaluation", _EVALUATION_COLOR, width=2.2, marker="o")
    if len(runs) == 1:
        _mark_best(axes, runs[0])
    _baselines(axes, baselines or {})
    axes.set_xlabel("updates" if all(map(_is_offline, several)) else "environment steps")
    axes.set_ylabel("return of an episode")
    axes.set_title(title or " ")
    axes.xaxis.set_major_formatter(_thousands)
    axes.set_xlim(left=0)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    return _save(figure, path)


def comparison_plot(results: "Mapping[str, Evaluation]", path: str | Path) -> Path:
    """Plot several policies' returns: each episode a dot, the mean within its 95 % interval.

    Args:
        results: name -> evaluation, drawn from top to bottom.
        path: the PNG to write.

    Returns:
        The path written.

    Raises:
        ConfigError: if there is none, or they were not played in the same environment.
        MissingExtraError: if matplotlib is not installed.
    """
    check_comparable(results)
    figure, axes = _figure(7.0, 1.2 + 0.6 * len(results))
    for row, one in enumerate(results.values()):
        low, high = one.interval
        axes.plot(one.returns, [row] * len(one.returns), "o", color=_COLLECTION_COLOR, alpha=0.4)
        axes.plot([low, high], [row, row], color=_EVALUATION_COLOR, linewidth=3.0)
        axes.plot([one.mean], [row], "D", color=_EVALUATION_COLOR)
    axes.set_yticks(range(len(results)), list(results))
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.set_xlabel("return of an episode (dot), mean and 95 % interval")
    axes.set_title(next(iter(results.values())).env or " ", fontsize="small")
    return _save(figure, path)


def open_loop_video(
    truth: "Array", model: "Array", path: str | Path, *, context: int = CONTEXT, fps: int = 10
) -> Path:
    """Film the model's dream beside the truth: rows truth, model, error; a column a sequence.

    The model sees the first `context` frames (green border) and then dreams on the actions alone
    (red border). Grey in the error row is agreement.

    Args:
        truth: (B, T, h, w, c) float frames in [0, 1].
        model: (B, T, h, w, c), reconstructions up to `context`, dreamed after.
        path: the MP4 to write.
        context: frames seen.
        fps: frames a second.

    Returns:
        The path written.

    Raises:
        AgentZooError: if the shapes do not fit.
        MissingExtraError: if no encoder is installed.
    """
    from agentzoo.runtime.evaluation.video import record

    _check_pair(truth, model, 5, "(B, T, h, w, c)")
    frames = open_loop_frames(truth, model, context=context)
    return record(frames, path, fps=fps)


def open_loop_frames(
    truth: "Array", model: "Array", *, context: int = CONTEXT, zoom: int = 2
) -> "Array":
    """The frames of `open_loop_video`.

    Args:
        truth: (B, T, h, w, c) float in [0, 1].
        model: (B, T, h, w, c).
        context: frames seen.
        zoom: pixels a pixel becomes.

    Returns:
        (T, 3 * (zoom * h + 4), B * (zoom * w + 4), 3) uint8.
    """
    rows = np.stack([truth, model, (model - truth + 1) / 2])
    # (3, B, T, h, w, c) -> (3, B, T, zoom * h, zoom * w, 3)
    rows = np.repeat(np.repeat(np.clip(rows, 0, 1), zoom, axis=3), zoom, axis=4)
    rows = np.broadcast_to(rows, (*rows.shape[:-1], 3))
    tiles = _border(rows, context)
    # (3, B, T, h, w, 3) -> (T, 3, h, B, w, 3) -> (T, 3 * h, B * w, 3)
    tiles = tiles.transpose(2, 0, 3, 1, 4, 5)
    frames = tiles.reshape(tiles.shape[0], tiles.shape[1] * tiles.shape[2], -1, 3)
    return np.round(frames * 255).astype(np.uint8)


def open_loop_plot(
    truth: "Array",
    model: "Array",
    path: str | Path,
    *,
    context: int = CONTEXT,
    names: Sequence[str] = (),
    title: str = "",
) -> Path:
    """Plot vectors beside the model's dream of them: a row a dimension, a column a sequence.

    Of more than 16 dimensions those are shown that change most, in their own order.

    Args:
        truth: (B, T, n) observations.
        model: (B, T, n), reconstructions up to `context`, dreamed after.
        path: the PNG to write.
        context: steps seen; a vertical line stands there.
        names: of the dimensions, where they are known.
        title: above the plot.

    Returns:
        The path written.

    Raises:
        AgentZooError: if the shapes do not fit.
        MissingExtraError: if matplotlib is not installed.
    """
    _check_pair(truth, model, 3, "(B, T, n)")
    batch, length, every = truth.shape
    shown = most_changing(truth)
    size = len(shown)
    figure, axes = _figure(2.6 * batch + 1.2, 1.1 * size + 1.2, rows=size, columns=batch)
    grid = np.asarray(axes, dtype=object).reshape(size, batch)
    for (row, sequence), panel in np.ndenumerate(grid):
        dimension = shown[row]
        _open_loop_panel(
            panel, truth[sequence, :, dimension], model[sequence, :, dimension], context
        )
        if sequence == 0:
            panel.set_ylabel(names[dimension] if names else f"[{dimension}]")
    for panel in grid[-1]:
        panel.set_xlabel("step")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    told = f"open loop: {context} steps seen, {length - context} dreamed"
    if size < every:
        told += f"; {size} of {every:,} dimensions, those that change most"
    figure.suptitle(title or told)
    return _save(figure, path)


def most_changing(values: "Array", most: int = DIMENSIONS) -> list[int]:
    """The dimensions of (B, T, n) that deviate most from their mean, at most so many, ascending."""
    spread = values.reshape(-1, values.shape[-1]).astype(np.float64).std(0)
    return sorted(np.argsort(-spread, kind="stable")[:most].tolist())


def _is_offline(folder: str | Path) -> bool:
    """Whether a run learned from a data set, so that its steps are updates."""
    path = Path(folder) / "config.json"
    return path.is_file() and "offline" in json.loads(path.read_text(encoding="utf-8"))


def _series(runs: Iterable[Sequence[Record]], key: str) -> list[Series]:
    """Each run's (steps, returns) under `key`; runs without any are left out."""
    points = [[(line["env_step"], line[key]) for line in run if key in line] for run in runs]
    arrays = [np.array(run, float).T for run in points if run]
    return [(steps, returns) for steps, returns in arrays]


def shared_steps(series: Sequence[Series]) -> tuple["Array", "Array"]:
    """Runs on one axis: their steps joined, within what all of them reached; (n,) and (runs, n)."""
    first = max(steps[0] for steps, _ in series)
    last = min(steps[-1] for steps, _ in series)
    grid = np.unique(np.concatenate([steps for steps, _ in series]))
    grid = grid[(grid >= first) & (grid <= last)]
    return grid, np.stack([np.interp(grid, steps, returns) for steps, returns in series])


def _draw(
    axes: "Axes", series: Sequence[Series], label: str, color: str, width: float, marker: str = ""
) -> None:
    if not series:
        return
    steps, returns = shared_steps(series) if len(series) > 1 else (series[0][0], series[0][1][None])
    if len(series) > 1:
        axes.fill_between(steps, returns.min(0), returns.max(0), color=color, alpha=0.2, lw=0)
        label = f"{label}: mean and range of {len(series)} runs"
    # a single point needs its marker to be seen at all
    shape = marker or ("." if len(steps) < 2 else "")
    axes.plot(steps, returns.mean(0), color=color, lw=width, marker=shape, ms=4, label=label)


def _mark_best(axes: "Axes", run: Sequence[Record]) -> None:
    """A star where the run's best policy was evaluated."""
    best = [line for line in run if line.get(IS_BEST)][-1:]
    for line in best:
        axes.plot(
            [line["env_step"]], [line[EVALUATION]], "*", color=_BEST_COLOR, ms=13, zorder=3,
            label="best, kept",
        )  # fmt: skip


def _baselines(axes: "Axes", baselines: Mapping[str, float]) -> None:
    for index, (name, value) in enumerate(baselines.items()):
        style = _BASELINE_STYLES[index % len(_BASELINE_STYLES)]
        axes.axhline(value, color="0.35", lw=1.2, ls=style, label=f"{name}: {value:,.0f}")


def _open_loop_panel(panel: "Axes", truth: "Array", model: "Array", context: int) -> None:
    panel.plot(truth, color="0.3", lw=1.4, label="truth")
    panel.plot(model, color=_DREAMED, lw=1.2, ls="--", label="model")
    panel.axvline(context - 0.5, color="0.6", lw=1.0, ls=":")
    panel.margins(x=0)


def _border(tiles: "Array", context: int, width: int = 2) -> "Array":
    """A frame around each (h, w) tile of (3, B, T, h, w, 3), coloured by what the model knows."""
    kinds, batch, length, height, across, _ = tiles.shape
    color = np.where(np.arange(length)[:, None] < context, _SEEN, _DREAMED)
    shape = (kinds, batch, length, height + 2 * width, across + 2 * width, 3)
    framed = np.broadcast_to(color[:, None, None, :], shape).copy()
    framed[..., width:-width, width:-width, :] = tiles
    return framed


def _check_pair(truth: "Array", model: "Array", axes: int, expected: str) -> None:
    if truth.ndim != axes or truth.shape != model.shape:
        raise AgentZooError(
            f"an open loop needs truth and model of one shape {expected}; "
            f"given {truth.shape} and {model.shape}"
        )


def _figure(
    width: float, height: float, rows: int = 1, columns: int = 1
) -> tuple["Figure", "Axes"]:
    """A figure of its own: no pyplot, so no window, no global state, no backend to choose."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "train") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey="row")
    for panel in np.ravel(np.asarray(axes, dtype=object)):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    return figure, axes


def _thousands(value: float, _: object = None) -> str:
    return (
        f"{value / 1e6:g}M"
        if value >= 1e6
        else f"{value / 1e3:g}k"
        if value >= 1e3
        else f"{value:g}"
    )


def _save(figure: "Figure", path: str | Path) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return Path(path)
