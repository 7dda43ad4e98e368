"""Optuna's settings as plans of runs, in a journal that a killed sweep goes on from."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from agentzoo.runtime.errors import ConfigError, MissingExtraError, RunError

from ..config import setting
from ..train.logger import read_metrics
from .plan import Plan, RunPlan, SearchPlan, SearchRange
from .processes import Ended

JOURNAL = "search.log"


@dataclass
class _Tried:
    """A setting whose runs are not all over."""

    number: int
    left: set[str]
    values: list[float]
    failed: bool = False


class OptunaSearch:
    """Asks Optuna for settings, gives the runs of each, and tells it what they came to.

    Iterating gives plans until there are as many trials as wanted. Trials that a killed sweep left
    open come first, with the settings they had.

    Args:
        plan: with a search.
        folder: of the sweep, for the journal.

    Raises:
        MissingExtraError: if optuna is not installed.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        try:
            self.optuna: Any = import_module("optuna")
        except ModuleNotFoundError as error:
            raise MissingExtraError("optuna", "sweep") from error
        assert plan.search is not None
        self.plan, self.search = plan, plan.search
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)
        journal = import_module("optuna.storages.journal")
        storage = self.optuna.storages.JournalStorage(
            journal.JournalFileBackend(str(folder / JOURNAL))
        )
        self.study = self.optuna.create_study(
            storage=storage,
            study_name="sweep",
            direction=self.search.direction,
            load_if_exists=True,
        )
        # the sampler begins anew where a sweep goes on, with another stream than it had before
        seed = self.search.seed + len(self.study.trials)
        self.study.sampler = self.optuna.samplers.TPESampler(seed=seed)
        self._open: dict[int, _Tried] = {}
        self._waiting: deque[RunPlan] = deque()
        self._trial_of: dict[str, list[int]] = {}
        self._lock = Lock()  # Ray Tune asks in a thread of its own
        running = self.optuna.trial.TrialState.RUNNING
        self._unfinished = deque(self.study.get_trials(states=(running,)))

    def __iter__(self) -> Iterator[RunPlan]:
        """The plans, as there is room for them."""
        return self

    def __next__(self) -> RunPlan:
        """The next run."""
        with self._lock:
            while not self._waiting:
                self._begin()
            return self._waiting.popleft()

    def _begin(self) -> None:
        """The next trial's runs."""
        if self._unfinished:
            frozen = self._unfinished.popleft()
            # one that was asked for and not drawn yet has no parameters to go on with
            if set(frozen.params) != set(self.search.space):
                self.study.tell(frozen.number, state=self.optuna.trial.TrialState.FAIL)
                return
            number, point = frozen.number, _values(frozen.params, self.search)
        else:
            if len(self.study.trials) >= self.search.trials:
                raise StopIteration
            trial = self.study.ask()
            number, point = trial.number, _drawn(trial, self.search)
        runs = self.plan.of(point)
        # a setting that is drawn again while its runs go on waits for those
        going = {name for tried in self._open.values() for name in tried.left}
        self._open[number] = _Tried(number, {run.name for run in runs}, [])
        for run in runs:
            self._trial_of.setdefault(run.name, []).append(number)
        self._waiting.extend(run for run in runs if run.name not in going)

    def ended(self, end: Ended) -> None:
        """Take in a run that is over; Optuna is told when the last of its trial is."""
        with self._lock:
            for number in self._trial_of.get(end.plan.name, []):
                tried = self._open.get(number)
                if tried is None or end.plan.name not in tried.left:
                    continue
                tried.left.remove(end.plan.name)
                value = None if end.error else last_value(end.folder, self.search.metric)
                if value is None:
                    tried.failed = True
                else:
                    tried.values.append(value)
                if not tried.left:
                    del self._open[number]
                    self._tell(tried)

    def _tell(self, tried: _Tried) -> None:
        if tried.failed:
            self.study.tell(tried.number, state=self.optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(tried.number, float(np.mean(tried.values)))

    def complete(self) -> list[RunPlan]:
        """The runs of every trial that has a value, of earlier sittings as well."""
        state = self.optuna.trial.TrialState.COMPLETE
        points = [
            _values(one.params, self.search) for one in self.study.get_trials(states=(state,))
        ]
        return [run for point in points for run in self.plan.of(point)]

    def table(self) -> str:
        """Every trial that has a value, the best first, as Markdown."""
        names = list(self.search.space)
        complete = self.optuna.trial.TrialState.COMPLETE
        trials = self.study.get_trials(states=(complete,))
        best_first = self.search.direction == "maximize"
        trials.sort(key=lambda trial: trial.value, reverse=best_first)
        head = f"| {self.search.metric} | {' | '.join(names)} | trial |"
        rows = []
        for trial in trials:
            point = _values(trial.params, self.search)
            cells = [_told(point[name]) for name in names]
            rows.append(f"| {trial.value:.4g} | {' | '.join(cells)} | {trial.number} |")
        return "\n".join([head, f"|---:|{'---:|' * len(names)}---:|", *rows])


def last_value(folder: Path, metric: str) -> float | None:
    """The last value of a metric in a run's lines, if there is a finite one."""
    try:
        lines = read_metrics(folder)
    except RunError:
        return None
    values = [line[metric] for line in lines if metric in line]
    return values[-1] if values and np.isfinite(values[-1]) else None


def _drawn(trial: Any, search: SearchPlan) -> dict[str, Any]:
    for name, one in search.space.items():
        if not isinstance(one, SearchRange):
            trial.suggest_categorical(name, [setting(choice) for choice in one])
        elif one.whole:
            step = int(one.step or 1)
            trial.suggest_int(name, int(one.low), int(one.high), step=step, log=one.log)
        else:
            trial.suggest_float(name, one.low, one.high, step=one.step, log=one.log)
    return _values(trial.params, search)


def _values(params: Mapping[str, Any], search: SearchPlan) -> dict[str, Any]:
    """Optuna's parameters as fields' values: choices are kept there as texts."""
    found: dict[str, Any] = {}
    for name, one in search.space.items():
        found[name] = params[name] if isinstance(one, SearchRange) else _choice(one, params[name])
    return found


def _choice(choices: Sequence[Any], text: str) -> Any:
    found = [one for one in choices if setting(one) == text]
    if not found:
        raise ConfigError(
            f"the search's journal holds the choice {text}, which the file has no more; name "
            "another folder"
        )
    return found[0]


def _told(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else setting(value)
