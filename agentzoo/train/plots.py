"""Pictures of a run: the learning curve, and what the model dreams beside what happened."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agentzoo.runtime.bundle.agent_config import CONFIG, read_entries
from agentzoo.runtime.errors import AgentZooError, MissingExtraError, RunError
from agentzoo.runtime.evaluation.statistics import check_comparable
from agentzoo.runtime.files import at_home

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
FPS = 10  # of films of dreams
LARGEST = 320  # pixels a side of an image in a film of dreams
WIDEST = 1_920  # pixels across all sequences of one
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
    truth: "Array", model: "Array", path: str | Path, *, context: int = CONTEXT, fps: int = FPS
) -> Path:
    """Film the model's dream beside the truth: `open_loop_frames` as an MP4.

    Args:
        truth: (B, T, h, w, c) float frames in [0, 1], or uint8.
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

    return record(open_loop_frames(truth, model, context=context), path, fps=fps)


def open_loop_frames(
    truth: "Array", model: "Array", *, context: int = CONTEXT, zoom: int | None = None
) -> "Array":
    """The model's dream beside the truth: rows truth, model, error; a column a sequence.

    The model sees the first `context` frames (green border) and then dreams on the actions alone
    (red border). Grey in the error row is agreement. Large images are thinned out and fewer
    sequences shown, so that a frame stays within some 1,920 pixels by 1,000.

    Args:
        truth: (B, T, h, w, c) float in [0, 1], or uint8.
        model: (B, T, h, w, c) float.
        context: frames seen.
        zoom: pixels a pixel becomes; None is 2 where there is room.

    Returns:
        (T, 3 * (zoom * h + 4), B * (zoom * w + 4), 3) uint8.

    Raises:
        AgentZooError: if the shapes do not fit.
    """
    _check_pair(truth, model, 5, "(B, T, h, w, c)")
    coarse = -(-max(truth.shape[2:4]) // LARGEST)  # every so many pixels
    height, width = (-(-side // coarse) for side in truth.shape[2:4])
    if zoom is None:
        zoom = 2 if 2 * max(height, width) <= LARGEST else 1
    shown = max(1, WIDEST // (zoom * width + 4))
    truth, model = (one[:shown, :, ::coarse, ::coarse] for one in (truth, model))
    frames = [
        _open_loop_frame(truth[:, t], model[:, t], _SEEN if t < context else _DREAMED, zoom)
        for t in range(truth.shape[1])
    ]
    return np.stack(frames)


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
    figure, grid = _grid(size, batch)
    for (row, sequence), panel in np.ndenumerate(grid):
        dimension = shown[row]
        _open_loop_panel(
            panel, truth[sequence, :, dimension], model[sequence, :, dimension], context
        )
        if sequence == 0:
            label = names[dimension] if len(names) == every else f"[{dimension}]"
            panel.set_ylabel(label, rotation=0, ha="right", va="center")
    for panel in grid[-1]:
        panel.set_xlabel("step")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="lower center", ncols=2)
    told = f"open loop: {context} steps seen, {length - context} dreamed"
    if size < every:
        told += f"; {size} of {every:,} dimensions, those that change most"
    heading = "\n".join(filter(None, [title, told]))
    figure.suptitle(heading, y=1 - 0.1 / figure.get_figheight(), va="top")
    return _save(figure, path)


def most_changing(values: "Array", most: int = DIMENSIONS) -> list[int]:
    """The dimensions of (B, T, n) that deviate most from their mean, at most so many, ascending."""
    spread = values.reshape(-1, values.shape[-1]).astype(np.float64).std(0)
    return sorted(np.argsort(-spread, kind="stable")[:most].tolist())


def _is_offline(folder: str | Path) -> bool:
    """Whether a run learned from a data set, so that its steps are updates."""
    home = at_home(folder)
    return (home / CONFIG).is_file() and "offline" in read_entries(home)


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


def _open_loop_frame(
    truth: "Array", model: "Array", color: tuple[float, float, float], zoom: int
) -> "Array":
    """One step of (B, h, w, c) each: (3 * (zoom * h + 4), B * (zoom * w + 4), 3) uint8."""
    if truth.dtype == np.uint8:
        truth = truth.astype(np.float32) / 255
    rows = np.stack([truth, model, (model - truth + 1) / 2])
    # (3, B, h, w, c) -> (3, B, zoom * h, zoom * w, 3)
    tiles = np.repeat(np.repeat(np.clip(rows, 0, 1), zoom, axis=2), zoom, axis=3)
    framed = _border(np.round(255 * tiles).astype(np.uint8), color)
    # (3, B, h, w, 3) -> (3, h, B, w, 3) -> (3 * h, B * w, 3)
    return framed.transpose(0, 2, 1, 3, 4).reshape(3 * framed.shape[2], -1, 3)


def _border(tiles: "Array", color: tuple[float, float, float], width: int = 2) -> "Array":
    """A frame around each (h, w) tile of (3, B, h, w, c) uint8: green if seen, red if dreamed."""
    kinds, batch, height, across, _ = tiles.shape
    framed = np.empty((kinds, batch, height + 2 * width, across + 2 * width, 3), np.uint8)
    framed[:] = np.round(255 * np.array(color))
    framed[:, :, width:-width, width:-width] = tiles
    return framed


def _check_pair(truth: "Array", model: "Array", axes: int, expected: str) -> None:
    if truth.ndim != axes or truth.shape != model.shape:
        raise AgentZooError(
            f"an open loop needs truth and model of one shape {expected}; "
            f"given {truth.shape} and {model.shape}"
        )


def _figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    """A figure of its own: no pyplot, so no window, no global state, no backend to choose."""
    figure = _empty_figure(width, height, layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _grid(rows: int, columns: int) -> tuple["Figure", "Array"]:
    """A figure of small panels; its margins are fixed, since laying many out takes seconds."""
    width, height = 2.2 * columns + 2.2, 0.9 * rows + 1.5
    figure = _empty_figure(width, height)
    margins = {
        "left": 2.0 / width,
        "right": 1 - 0.2 / width,
        "top": 1 - 0.75 / height,
        "bottom": 0.8 / height,
    }
    axes = figure.subplots(
        rows, columns, sharex=True, sharey="row", squeeze=False,
        gridspec_kw={**margins, "wspace": 0.08, "hspace": 0.2},
    )  # fmt: skip
    for panel in axes.flat:
        _plain(panel)
        panel.locator_params(nbins=3)
        panel.tick_params(labelsize="small")
    return figure, axes


def _empty_figure(width: float, height: float, *, layout: str | None = None) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "train") from error
    return Figure(figsize=(width, height), layout=layout)  # pyright: ignore[reportArgumentType]


def _plain(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _thousands(value: float, _: object = None) -> str:
    return (
        f"{value / 1e6:g}M"
        if value >= 1e6
        else f"{value / 1e3:g}k"
        if value >= 1e3
        else f"{value:g}"
    )


def _save(figure: "Figure", path: str | Path) -> Path:
    path = at_home(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path
