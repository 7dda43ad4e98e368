"""Runs as trials of Ray Tune, on whatever cluster Ray finds."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from agentzoo.runtime.errors import MissingExtraError, RunError

from ..train.logger import METRICS_FILE, read_metrics
from .plan import RunPlan
from .processes import POLL_S, Child, Ended, is_finished

EVALUATION = "eval/mean_reward"
STORAGE = "ray"  # in the sweep's folder: what Tune writes


def run_ray(plans: Iterator[RunPlan], folder: Path, parallel: int) -> Iterator[Ended]:
    """Run like `processes.run_here`, each run in a process below a trial of Ray Tune.

    A trial reports the run's evaluations as they come. Run folders have to lie where every node
    sees them. Ray's own checkpoints are not used: a run goes on from its own.

    Args:
        plans: what to run.
        folder: where each run has its own, by its name.
        parallel: trials at a time.

    Raises:
        MissingExtraError: if ray is not installed.
    """
    try:
        ray, tune = import_module("ray"), import_module("ray.tune")
        searcher = import_module("ray.tune.search").Searcher
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "ray", "ray") from error
    over: SimpleQueue[Ended | BaseException | None] = SimpleQueue()
    root = folder.resolve()

    def fit() -> None:
        try:
            tune.Tuner(
                tune.with_resources(_trial, {"cpu": 1}),
                tune_config=tune.TuneConfig(
                    search_alg=_searcher(searcher, plans, root, over),
                    num_samples=-1,
                    max_concurrent_trials=parallel,
                ),
                run_config=tune.RunConfig(
                    name="sweep", storage_path=str(root.parent / STORAGE), verbose=0
                ),
            ).fit()
            over.put(None)
        except BaseException as error:
            over.put(error)

    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, runtime_env=_runtime())
    yield from _as_they_end(over, fit)


def _searcher(searcher: Any, plans: Iterator[RunPlan], root: Path, over: "SimpleQueue[Any]") -> Any:
    """The searcher that Tune asks for trials: it gives the plans, as there is room for them."""

    class Plans(searcher):  # Tune asks it for trials, one by one
        def __init__(self) -> None:
            super().__init__(metric="finished", mode="max")
            self.given: dict[str, RunPlan] = {}

        def __reduce__(self) -> tuple[Any, ...]:
            return _nothing, ()  # Tune keeps a copy to restore from; a sweep goes on by its runs

        def save(self, checkpoint_path: str) -> None:
            Path(checkpoint_path).touch()

        def restore(self, checkpoint_path: str) -> None:
            """See `__reduce__`."""

        def suggest(self, trial_id: str) -> Any:
            for plan in plans:
                if is_finished(root / plan.name, plan.steps):
                    over.put(Ended(plan, root / plan.name))
                    continue
                self.given[trial_id] = plan
                return {"plan": asdict(plan), "folder": str(root / plan.name)}
            return searcher.FINISHED

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            plan = self.given[trial_id]
            why = str((result or {}).get("error", "")) or ("the trial failed" if error else "")
            over.put(Ended(plan, root / plan.name, why))

    return Plans()


def _nothing() -> None:
    """A searcher that was not kept."""


def _as_they_end(over: "SimpleQueue[Ended | BaseException | None]", fit: Any) -> Iterator[Ended]:
    thread = Thread(target=fit, daemon=True)
    thread.start()
    while (end := over.get()) is not None:
        if isinstance(end, BaseException):
            raise RunError(f"Ray Tune ended: {type(end).__name__}: {end}") from end
        yield end
    thread.join()


def _trial(config: dict[str, Any]) -> None:
    """One trial: a child process, whose evaluations are reported."""
    tune = import_module("ray.tune")
    plan, folder = RunPlan(**config["plan"]), Path(config["folder"])
    child, told = Child(plan, folder), 0
    try:
        while (end := child.ended()) is None:
            told = _report(tune, folder, told)
            time.sleep(POLL_S)
    finally:
        child.stop()
        child.process.wait()
    _report(tune, folder, told)
    tune.report({"finished": float(not end.error), "error": end.error})


def _report(tune: Any, folder: Path, told: int) -> int:
    """Report the evaluations since the last time; how many there were in all."""
    if not (folder / METRICS_FILE).is_file():
        return told
    lines = [line for line in read_metrics(folder) if EVALUATION in line]
    for line in lines[told:]:
        tune.report({**json.loads(json.dumps(line)), "finished": 0.0, "error": ""})
    return len(lines)


def _runtime() -> dict[str, Any]:
    from .processes import search_path

    return {"env_vars": {"PYTHONPATH": search_path(), "RAY_CHDIR_TO_TRIAL_DIR": "0"}}
