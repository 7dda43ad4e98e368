"""Long and short imagination compared: learn an arm, score it on unseen fields, draw the table.

python docs/results/ls_imagine/experiment.py run ARM --far mid --seed 0    # resumable; then scored
python docs/results/ls_imagine/experiment.py score ARM --far mid --seed 0  # as far as it has come
python docs/results/ls_imagine/experiment.py random --far mid
python docs/results/ls_imagine/experiment.py table                       # results.md, curve.png

Arms in `vizdoom:harvest-tree`: A DreamerV3 without a map; B the same recipe with map and intrinsic
reward, no jumps; C LS-Imagine; D LS-Imagine without the intrinsic reward. Each has the same minutes
of processor time, whatever else the machine does, and one thread. Runs are kept under --runs,
scores and logs in here.
"""

import argparse
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import agentzoo
from agentzoo import DreamerV3, LSImagine
from agentzoo.agent import Agent
from agentzoo.runtime import Evaluation, evaluate, evaluate_random, load_policy
from agentzoo.train.events import Callback, Run
from agentzoo.train.logger import read_metrics

ROOT = Path(__file__).parent
PAGE = ROOT.parent.with_suffix(".md")
MARKERS = "<!-- made by experiment.py -->\n", "<!-- end -->\n"
ARMS: Mapping[str, Mapping[str, object]] = {
    "A": {},
    "B": {"long_branch": False},
    "C": {},
    "D": {"alpha": 0.0},
}
TITLES = {
    "A": "DreamerV3, no map",
    "B": "map and intrinsic reward, no jumps",
    "C": "LS-Imagine",
    "D": "LS-Imagine without intrinsic reward",
}
COLORS = {"A": "0.45", "B": "#1f5fa8", "C": "#c0392b", "D": "#2e8b57"}
EPISODES, FIRST_SEED = 100, 1_000_000
STEPS = 1_000_000  # no run gets as far
BIN = 5_000  # environment steps of a point of the curve
FEW = {"eval_every": 0, "final_episodes": 0, "report_every": 0}


def task(arm: str, far: str) -> str:
    """The arm's environment."""
    return f"vizdoom:harvest-tree?far={far}&map={'none' if arm == 'A' else 'oracle'}"


def agent_of(arm: str, far: str, seed: int) -> Agent:
    """An arm's agent before it has learned: the same settings wherever they have a meaning."""
    if arm != "A":
        return LSImagine(task(arm, far), preset="cpu", seed=seed, device="cpu", **FEW, **ARMS[arm])
    known = {field.name for field in fields(DreamerV3.config_class)}
    shared = {k: v for k, v in LSImagine.presets["cpu"].items() if k in known}
    shared |= {"imag_last": None, **FEW}
    return DreamerV3(task(arm, far), preset="cpu", seed=seed, device="cpu", **shared)


# -- learning ------------------------------------------------------------------------------------


class Budget(Callback):
    """Ends a run after so many minutes of processor time, of all its sittings together."""

    def __init__(self, minutes: float) -> None:
        self.seconds = 60 * minutes

    def on_start(self, training: Run) -> None:
        """Read what earlier sittings took."""
        self.file = training.folder / "processor_s.json"
        self.before = json.loads(self.file.read_text()) if self.file.is_file() else 0.0
        self.start = process_time()

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return self.before + process_time() - self.start

    def on_step(self, training: Run) -> None:
        """Stop once it is spent."""
        training.stop = training.stop or self.spent >= self.seconds

    def on_checkpoint(self, training: Run, path: Path) -> None:
        """A resumed run goes on from here."""
        self.file.write_text(json.dumps(self.spent))


def run_of(given: argparse.Namespace) -> Path:
    """The folder of a run."""
    return given.runs / f"{given.far}-{given.arm}-{given.seed}"


def learn(given: argparse.Namespace) -> None:
    """Learn for as long as is left, going on where a run stands."""
    torch.set_num_threads(1)
    folder = run_of(given)
    spent = folder / "processor_s.json"
    if spent.is_file() and json.loads(spent.read_text()) >= 60 * given.minutes:
        print(f"{folder} has had its {given.minutes:g} minutes")
        return
    agent = agent_of(given.arm, given.far, given.seed)
    agent.learn(STEPS, run=folder, callbacks=Budget(given.minutes), progress=False)


# -- scoring -------------------------------------------------------------------------------------


def score(given: argparse.Namespace) -> None:
    """Score a run's newest policy on fields it has not seen, and keep its log."""
    run, kept = run_of(given), ROOT / given.far / f"{given.arm}{given.seed}"
    agent = agentzoo.load(run, device="cpu")
    with TemporaryDirectory() as bundle:
        agent.export(bundle)
        policy = load_policy(bundle)
        # by the mode as in the paper, and by samples, as it played while it learned
        found, sampled = (
            evaluate(policy, episodes=EPISODES, seed=FIRST_SEED, deterministic=greedy)
            for greedy in (True, False)
        )
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "metrics.jsonl", kept / "metrics.jsonl")
    about = {
        "env_steps": agent.env_steps,
        "processor_minutes": json.loads((run / "processor_s.json").read_text()) / 60,
    }
    write(found, about, kept / "results.json")
    write(sampled, about, kept / "sampled.json")
    print(line(given.arm, given.seed, kept / "results.json"))


def score_random(given: argparse.Namespace) -> None:
    """Score uniformly random actions in the same episodes."""
    env = task("B", given.far).replace("map=oracle", "map=oracle&split=test")
    found = evaluate_random(env, episodes=EPISODES, seed=FIRST_SEED)
    (ROOT / given.far).mkdir(parents=True, exist_ok=True)
    write(found, {}, ROOT / given.far / "random.json")


def write(found: Evaluation, about: Mapping[str, object], path: Path) -> None:
    """Leave a score and what belongs to it as JSON."""
    path.write_text(json.dumps({**about, **found.to_json()}, indent=1) + "\n", encoding="utf-8")


# -- what came out -------------------------------------------------------------------------------

HEAD = [
    "| distance | arm | seed | decisions | minutes | success, mode | success, samples "
    "| decisions to success, mode | samples | zoomed | of those closed |",
    "|---|---|---:|---:|---:|---|---|---:|---:|---:|---:|",
]


def line(arm: str, seed: int | None, path: Path) -> str:
    """One row of the table."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    other = path if seed is None else path.with_name("sampled.json")
    both = [None if seed is None else found, json.loads(other.read_text(encoding="utf-8"))]
    cells = [path.parents[0 if seed is None else 1].name, TITLES.get(arm, arm)]
    if seed is None:
        cells += ["", "", ""]
    else:
        decisions = found["env_steps"] // 4
        cells += [str(seed), f"{decisions:,}", f"{found['processor_minutes']:.0f}"]
    cells += ["" if one is None else success(one) for one in both]
    cells += ["" if one is None else f"{one['scores']['steps_to_success']:.0f}" for one in both]
    cells += shares(path.with_name("metrics.jsonl")) if arm in "CD" else ["", ""]
    return f"| {' | '.join(cells)} |"


def success(found: Mapping[str, Any]) -> str:
    """A success rate in per cent with its 95 % interval."""
    low, high = (100 * end for end in found["interval"])
    return f"{found['scores']['success']:.0f} % ({low:.0f} to {high:.0f})"


def shares(log: Path) -> list[str]:
    """Zoomed transitions, and those of them that are closed, in the last fifth of the updates."""
    lines = [one for one in read_metrics(log) if "long/zoomed" in one]
    late = lines[-max(len(lines) // 5, 1) :]
    return [f"{100 * np.mean([x[k] for x in late]):.0f} %" for k in ("long/zoomed", "long/closed")]


def table() -> str:
    """Every run that is kept here, random beside it."""
    rows = list(HEAD)
    for far in (one for one in ("near", "mid", "far") if (ROOT / one).is_dir()):
        for path in sorted((ROOT / far).glob("*/results.json")):
            rows.append(line(path.parent.name[0], int(path.parent.name[1:]), path))
        if (ROOT / far / "random.json").is_file():
            rows.append(line("random", None, ROOT / far / "random.json"))
    return "\n".join(rows) + "\n"


def curve_of(log: Path) -> tuple[np.ndarray, np.ndarray]:
    """Decisions and success rates in per cent of a run's training episodes, in bins."""
    sums: dict[int, list[float]] = {}
    before = 0.0
    for one in read_metrics(log):
        if "rollout/ep_rew_mean" not in one:
            continue
        count, before = one["time/episodes"] - before, one["time/episodes"]
        total = sums.setdefault(-(-int(one["env_step"]) // BIN) * BIN, [0.0, 0.0])
        total[0] += count * one["rollout/ep_rew_mean"]
        total[1] += count
    steps = sorted(step for step, (_, count) in sums.items() if count)
    return np.array(steps) / 4, np.array([100 * sums[s][0] / sums[s][1] for s in steps])


def draw() -> None:
    """Success of the training episodes of every run, a panel a distance."""
    from matplotlib.figure import Figure

    found = [one for one in ("near", "mid", "far") if list((ROOT / one).glob("*/metrics.jsonl"))]
    figure = Figure(figsize=(5.2 * len(found), 3.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(found)))
    for panel, far in zip(panels, found, strict=True):
        for log in sorted((ROOT / far).glob("*/metrics.jsonl")):
            arm = log.parent.name[0]
            panel.plot(*curve_of(log), color=COLORS[arm], marker=".", label=TITLES[arm])
        if (ROOT / far / "random.json").is_file():
            random = json.loads((ROOT / far / "random.json").read_text())["scores"]["success"]
            panel.axhline(random, color="#e08a1e", ls=":", label="random")
        panel.set_title(f"harvest-tree, far={far}: training episodes", fontsize="medium")
        panel.set(xlabel="decisions", ylabel="success, %", ylim=(0, 100))
        panel.grid(alpha=0.25)
        panel.legend(fontsize="small", frameon=False)
    figure.savefig(ROOT / "curve.png", dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("run", "learn", "score", "random", "table"))
    parser.add_argument("arm", nargs="?", choices=sorted(ARMS))
    parser.add_argument("--far", default="mid", choices=("near", "mid", "far"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=70.0, help="of processor time, in all")
    parser.add_argument("--runs", type=Path, default=Path("runs/ls_imagine"))
    given = parser.parse_args(arguments)
    if given.what in ("run", "learn", "score") and given.arm is None:
        parser.error(f"{given.what} needs an arm: {', '.join(sorted(ARMS))}")
    if given.what in ("run", "learn"):
        learn(given)
    if given.what in ("run", "score"):
        score(given)
    if given.what == "random":
        score_random(given)
    if given.what == "table":
        before, begin, rest = PAGE.read_text(encoding="utf-8").partition(MARKERS[0])
        _, end, after = rest.partition(MARKERS[1])
        PAGE.write_text("".join([before, begin, table(), end, after]), encoding="utf-8")
        draw()
        print(table())


if __name__ == "__main__":
    main()
