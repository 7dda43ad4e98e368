"""The picture of a board: curves with bands over seeds, and what the scores come to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agentzoo.runtime.errors import ConfigError, MissingExtraError

from .board import COLLECTION, EVALUATION, Board, RunScore, Summary
from .logger import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# told apart by everyone: Okabe and Ito 2008, "Color Universal Design"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5b5b5b")
STYLES = ("-", "--", "-.", ":")
BINS = 40  # of collection's returns, so that one curve can be told from the next
COLUMNS = 3
METRICS = {"evaluation": EVALUATION, "collection": COLLECTION}

Curve = tuple[np.ndarray, np.ndarray]  # steps and values, (n,) each


def board_plot(board: Board, path: str | Path, *, metric: str = "", title: str = "") -> Path:
    """Draw a panel for each task, and below them the scores over all tasks where there are any.

    A line is the mean of an agent's runs over the steps that all of them reached, its band goes
    from the lowest to the highest run.

    Args:
        board: what is drawn.
        path: the PNG to write.
        metric: `evaluation`, `collection`, or any name of a line's; "" takes evaluation where every
            run of a panel was evaluated twice, else collection.
        title: above the picture.

    Returns:
        The path written.

    Raises:
        ConfigError: if there is nothing to draw.
        MissingExtraError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "train") from error
    panels = {task: _curves(board.entries[task], metric) for task in board.tasks}
    drawn = {task: found for task, found in panels.items() if any(found[1].values())}
    summary = board.summary()
    if not drawn and summary is None:
        raise ConfigError(
            "there is nothing to draw: no run among these has returns by steps, and scores are "
            "compared where two agents have some; name runs' folders, or more results"
        )
    looks: dict[str, dict[str, Any]] = {
        agent: {"color": COLORS[i % len(COLORS)], "ls": STYLES[i // len(COLORS) % len(STYLES)]}
        for i, agent in enumerate(board.agents)
    }
    columns = max(1, min(COLUMNS, len(drawn)))
    rows = -(-len(drawn) // columns)
    heights = [rows] * bool(drawn) + [1] * (summary is not None)
    width = 3.9 * (COLUMNS if summary is not None else max(columns, 1.8))
    figure = Figure(figsize=(width, 3.0 * sum(heights) + 0.7), layout="constrained")
    parts = iter(np.ravel(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)))
    if drawn:
        places = np.ravel(next(parts).subplots(rows, columns, squeeze=False))
        for panel, (task, (name, curves)) in zip(places, drawn.items(), strict=False):
            _curve_panel(panel, task, name, curves, looks, board)
        for panel in places[len(drawn) :]:
            panel.set_visible(False)
    if summary is not None:
        raw = len(board.tasks) == 1 and not board.scales
        places = next(parts).subplots(1, 3)
        _summary_panels(places, summary, looks, "return" if raw else "normalised score")
    for panel in figure.axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25, lw=0.6)
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], lw=2.2, label=agent, **look) for agent, look in looks.items()]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False
    )
    if title:
        figure.suptitle(title)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return Path(path)


def _curves(
    agents: Mapping[str, Sequence[RunScore]], metric: str
) -> tuple[str, dict[str, list[Curve]]]:
    """The metric of a panel, and each agent's curves of it."""
    runs = [run for several in agents.values() for run in several if run.lines]
    evaluated = all(sum(EVALUATION in line for line in run.lines) > 1 for run in runs)
    name = METRICS.get(metric, metric) or (EVALUATION if evaluated else COLLECTION)
    found = {
        agent: [curve for run in several if (curve := curve_of(run.lines, name)) is not None]
        for agent, several in agents.items()
    }
    return name, found


def curve_of(lines: Sequence[Record], name: str, bins: int = BINS) -> Curve | None:
    """A metric over steps; of collection in bins, each episode counting the same."""
    points = [line for line in lines if name in line]
    if not points:
        return None
    steps = np.array([line["env_step"] for line in points], float)
    values = np.array([line[name] for line in points], float)
    if not name.startswith("rollout/") or len(points) <= bins:
        return steps, values
    counts = np.diff([0.0, *(line.get("time/episodes", k + 1) for k, line in enumerate(points))])
    edges = np.linspace(0.0, steps[-1], bins + 1)[1:]
    at = np.minimum(np.searchsorted(edges, steps), bins - 1)
    weight = np.bincount(at, counts, bins)
    there = weight > 0
    return edges[there], np.bincount(at, counts * values, bins)[there] / weight[there]


def shared(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Runs on one axis, within what all of them reached: (n,) steps and (runs, n) values."""
    first, last = max(one[0][0] for one in curves), min(one[0][-1] for one in curves)
    grid = np.unique(np.concatenate([one[0] for one in curves]))
    grid = grid[(grid >= first) & (grid <= last)]
    return grid, np.stack([np.interp(grid, *one) for one in curves])


def _curve_panel(
    panel: "Axes",
    task: str,
    name: str,
    curves: Mapping[str, Sequence[Curve]],
    looks: Mapping[str, Mapping[str, Any]],
    board: Board,
) -> None:
    for agent, several in curves.items():
        if not several:
            continue
        steps, values = shared(several)
        if not len(steps):
            continue
        look = looks[agent]
        if len(several) > 1:
            panel.fill_between(
                steps, values.min(0), values.max(0), color=look["color"], alpha=0.18, lw=0
            )
        marker = "o" if len(steps) < 12 else ""
        panel.plot(steps, values.mean(0), lw=1.8, marker=marker, ms=3.5, **look)
    runs = [run for several in board.entries[task].values() for run in several]
    offline = {run.is_offline for run in runs if run.lines}
    units = {frozenset({True}): "updates", frozenset({False}): "environment steps"}
    panel.set_xlabel(units.get(frozenset(offline), "environment steps, or updates of a data set"))
    panel.set_ylabel({EVALUATION: "return in evaluation", COLLECTION: "return in training"}
                     .get(name, name))  # fmt: skip
    panel.set_title(task, fontsize="medium")
    panel.set_xlim(left=0)
    panel.xaxis.set_major_formatter(_thousands)


def _summary_panels(
    places: Sequence["Axes"],
    summary: Summary,
    looks: Mapping[str, Mapping[str, Any]],
    score: str,
) -> None:
    means, profile, better = places
    for row, (agent, one) in enumerate(summary.iqm.items()):
        color = looks[agent]["color"]
        means.plot([one.low, one.high], [row, row], color=color, lw=7, alpha=0.35)
        means.plot([one.value], [row], "|", color=color, ms=16, mew=2.5)
    means.set_yticks([])
    means.set_ylim(len(summary.iqm) - 0.4, -0.6)
    means.set_xlabel(f"IQM of the {score}, 95 % interval")
    for agent, one in summary.profiles.items():
        color = looks[agent]["color"]
        profile.fill_between(one.thresholds, one.low, one.high, color=color, alpha=0.18, lw=0)
        profile.plot(one.thresholds, one.share, lw=1.8, **looks[agent])
    profile.set_xlabel(f"{score} t")
    profile.set_ylabel("share of runs above t")
    profile.set_ylim(-0.02, 1.02)
    pairs = list(summary.better.items())[:8]
    for row, ((agent, _), one) in enumerate(pairs):
        color = looks[agent]["color"]
        better.plot([one.low, one.high], [row, row], color=color, lw=7, alpha=0.35)
        better.plot([one.value], [row], "|", color=color, ms=16, mew=2.5)
    better.axvline(0.5, color="0.4", lw=1.0, ls=":")
    names = [f"{a}\nabove {b}" for (a, b), _ in pairs]
    better.set_yticks(range(len(pairs)), names, fontsize="x-small")
    better.set_ylim(len(pairs) - 0.4, -0.6)
    better.set_xlim(-0.02, 1.02)
    better.set_xlabel("probability of improvement")


def _thousands(value: float, _: object = None) -> str:
    for size, sign in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{sign}"
    return f"{value:g}"
