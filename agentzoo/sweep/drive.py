"""The sweep itself: what is left to run, then one table and one picture."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from agentzoo.runtime.errors import RunError

from ..train.board import EVALUATION, board_table, read_board
from ..train.board_plot import board_plot
from ..train.logger import METRICS_FILE
from ..train.run_folder import locked
from .plan import Plan, RunPlan, read_plan
from .processes import Ended, run_here
from .ray_tune import run_ray
from .search import OptunaSearch, last_value

__all__ = ["conclusion", "read_plan", "sweep"]

STATE, RUNS, TABLE, PICTURE = "sweep.json", "runs", "table.md", "curves.png"


def sweep(plan: Plan, tell: Callable[[str], None] = print) -> list[Ended]:
    """Run a sweep to its end, from wherever it stands.

    What a killed sweep left is gone on with: finished runs are kept, others go on from their
    checkpoints, to the same result.

    Args:
        plan: what to run.
        tell: given a line for each run that is over.

    Returns:
        Every run, in the order in which they ended.

    Raises:
        MissingExtraError: if the search or the runner needs a package.
        RunError: if another sweep, or another process, has the folder.
    """
    folder = plan.folder
    with locked(folder):
        _require_same(plan)
        search = OptunaSearch(plan, folder) if plan.search is not None else None
        plans: Iterator[RunPlan] = iter(plan.runs()) if search is None else iter(search)
        total = len(plan.of({})) * plan.search.trials if plan.search else len(plan.runs())
        runner = run_here if plan.runner == "processes" else run_ray
        over: list[Ended] = []
        for end in runner(plans, folder / RUNS, plan.parallel):
            if search is not None:
                search.ended(end)
            over.append(end)
            metric = EVALUATION if plan.search is None else plan.search.metric
            tell(f"{len(over)} of {total}: {_said(end, metric)}")
        _conclude(plan, over, search)
    return over


def _said(end: Ended, metric: str) -> str:
    run = end.plan
    name = f"{run.label}, {run.env}, seed {run.seed}"
    if end.error:
        return f"{name} failed: {end.error}"
    score = last_value(end.folder, metric)
    return f"{name}: {f'no {metric}' if score is None else f'{score:.4g}'}"


def _require_same(plan: Plan) -> None:
    """A folder belongs to one sweep; more seeds, steps, trials and runs at a time are the same.

    Of a search only trials may grow: the values of those that were made are of its seeds and steps.

    Raises:
        RunError: if it holds another one's runs.
    """
    path = plan.folder / STATE
    mine = {"digest": plan.digest}
    if not path.is_file():
        path.write_text(json.dumps(mine), encoding="utf-8")
        return
    if json.loads(path.read_text(encoding="utf-8")).get("digest") != mine["digest"]:
        raise RunError(
            f"{plan.folder} holds another sweep: its agent, tasks, preset, settings, grid or "
            "search (with its seeds and steps) differ from the file's; name another folder, or put "
            "the file back"
        )


def _conclude(plan: Plan, over: list[Ended], search: OptunaSearch | None) -> None:
    """Write the table and the picture of all runs that have lines."""
    if search is None:
        places = [(end.plan.label, end.folder) for end in over if not end.error]
    else:  # a sweep that goes on has trials that ended before
        places = [(run.label, plan.folder / RUNS / run.name) for run in search.complete()]
    there = [(name, one) for name, one in places if (one / METRICS_FILE).is_file()]
    if not there:
        return
    board = read_board(list(dict.fromkeys(there)))
    text = board_table(board) if search is None else search.table()
    (plan.folder / TABLE).write_text(text + "\n", encoding="utf-8")
    board_plot(board, plan.folder / PICTURE, title=plan.title)


def conclusion(folder: Path) -> str:
    """The table of a finished sweep, and where its picture lies."""
    table, picture = folder / TABLE, folder / PICTURE
    if not table.is_file():
        return f"no run of {folder} has anything to show"
    return f"{table.read_text(encoding='utf-8')}\ntable: {table}\nplot:  {picture}"
