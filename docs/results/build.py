"""Score finished runs over fresh episodes, keep their logs here, and draw and tabulate them.

python docs/results/build.py RUN ...     # new runs; without any: draw again what is here

A run becomes AGENT/TASK/seedK/ with its metrics.jsonl and the exported policy's results.json;
AGENT/TASK/ gets random.json (the random policy, same seeds) and curve.png. The tables in
docs/results.md are what this prints.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import agentzoo
from agentzoo.report import learning_curve
from runtime import Evaluation, evaluate, evaluate_random, load_policy

ROOT = Path(__file__).parent
EPISODES, FIRST_SEED = 20, 1_000_000  # training draws its own seeds from the run's
# mean return after so many environment steps, from images unless the name says otherwise. Sources:
# Hafner et al. 2020 (arXiv:1912.01603v3), appendix table; Hafner et al. 2019 (arXiv:1811.04551v5),
# table 1
PUBLISHED = {
    ("dreamer", "cartpole-swingup"): ("Dreamer, pixels, 5M steps", 833.66),
    ("dreamer", "cartpole-balance"): ("Dreamer, pixels, 5M steps", 979.56),
    ("dreamer", "cheetah-run"): ("Dreamer, pixels, 5M steps", 894.56),
    ("dreamer", "walker-walk"): ("Dreamer, pixels, 5M steps", 961.67),
    ("planet", "cartpole-swingup"): ("PlaNet, pixels, 1M steps", 821.0),
    ("planet", "cheetah-run"): ("PlaNet, pixels, 1M steps", 662.0),
}


def keep(run: Path) -> Path:
    """Export and score a run; return the folder of its agent and task."""
    agent = agentzoo.load(run, device="cpu")
    task = agent.env.partition(":")[2].partition("?")[0]
    folder = ROOT / type(agent).__name__.lower() / task
    seed = folder / f"seed{agent.seed}"
    seed.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as bundle:
        agent.export(bundle)
        policy = load_policy(bundle)
        score = evaluate(policy, episodes=EPISODES, seed=FIRST_SEED, progress=True)
    write(score, seed / "results.json")
    shutil.copy(run / "metrics.jsonl", seed / "metrics.jsonl")
    if not (folder / "random.json").is_file():
        random = evaluate_random(agent.env, episodes=EPISODES, seed=FIRST_SEED)
        write(random, folder / "random.json")
    return folder


def write(score: Evaluation, path: Path) -> None:
    """Leave a score as JSON."""
    path.write_text(json.dumps(score.to_json(), indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Evaluation:
    """Read a score that `write` left."""
    return Evaluation.from_json(json.loads(path.read_text(encoding="utf-8")))


def seeds(folder: Path) -> list[Path]:
    """The folders of an agent's runs of one task, by seed."""
    return sorted(folder.glob("seed*"), key=lambda path: int(path.name.removeprefix("seed")))


def draw(folder: Path) -> None:
    """Evaluation and collection of all seeds, beside random and what was published."""
    baselines = {"random": read(folder / "random.json").mean}
    published = PUBLISHED.get((folder.parent.name, folder.name))
    if published is not None:
        baselines[published[0]] = published[1]
    title = f"{read(seeds(folder)[0] / 'results.json').agent} in {folder.name}, preset cpu"
    learning_curve(seeds(folder), folder / "curve.png", baselines=baselines, title=title)


def table(folder: Path) -> list[str]:
    """Rows of one agent and task: each seed's score, steps and minutes, then random's."""
    rows = ["| seed | steps | minutes | score | interval |", "|---:|---:|---:|---:|---|"]
    for path in seeds(folder):
        last = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        minutes = max(record.get("time/wall_s", 0.0) for record in last) / 60
        before = f"| {path.name.removeprefix('seed')} | {last[-1]['env_step']:,} | {minutes:.0f}"
        rows.append(f"{before} | {scored(read(path / 'results.json'))} |")
    rows.append(f"| random | | | {scored(read(folder / 'random.json'))} |")
    return rows


def scored(score: Evaluation) -> str:
    """Mean and interval, as two cells."""
    low, high = score.interval
    return f"{score.mean:.1f} | {low:.1f} to {high:.1f}"


def folders() -> list[Path]:
    """Every agent's every task that has runs here."""
    return sorted({path.parents[1] for path in ROOT.glob("*/*/seed*/results.json")})


def main(runs: Sequence[str]) -> None:
    """Keep the runs, then draw and print what they belong to; all of it, where none is given."""
    for folder in sorted({keep(Path(run)) for run in runs}) or folders():
        draw(folder)
        print(f"\n{folder.relative_to(ROOT)}\n")
        print("\n".join(table(folder)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", help="folders that `agentzoo learn` left")
    main(parser.parse_args().runs)
