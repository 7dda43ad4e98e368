"""Score finished runs over fresh episodes, keep their logs here, and draw and tabulate them.

python docs/results/build.py RUN ...     # new runs; without any: write again what is here

A run becomes AGENT/TASK/seedK/ with its metrics.jsonl, its command and the exported policy's
results.json; AGENT/TASK/ gets random.json (the random policy, same seeds) and curve.png. A task's
folder is called after its variant where it has one: TASK@dmc_proprio_paper. The comparison in
docs/results.md, curves.png and the tables in seeds.md are made of what is kept here. Runs of the
trial of `standardize` (docs/trials.md) are copied by hand: standardize/TASK_FORM.jsonl,
TASK_FORM.json the score.
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

import agentzoo
from agentzoo.runtime import Evaluation, evaluate, evaluate_random, load_policy
from agentzoo.runtime.envs import EnvName
from agentzoo.runtime.evaluation.results import read_results, write_results
from agentzoo.saved import read_settings
from agentzoo.train.logger import Record, read_metrics
from agentzoo.train.plots import learning_curve

ROOT = Path(__file__).parent
PAGE, SEEDS = ROOT.with_suffix(".md"), ROOT / "seeds.md"
TRIALS = ROOT.parent / "trials.md"
MARKERS = "<!-- made by build.py: {} -->\n", "<!-- end -->\n"
EPISODES, FIRST_SEED = 20, 1_000_000  # training draws its own seeds from the run's
BIN = 10_000  # environment steps; a bin labelled s holds the episodes that end in (s - BIN, s]
PUBLISHED: dict[str, Any] = json.loads((ROOT / "published.json").read_text(encoding="utf-8"))
NAMES = {
    "dreamer": "Dreamer",
    "dreamerv2": "DreamerV2",
    "dreamerv3": "DreamerV3",
    "planet": "PlaNet",
    "tdmpc2": "TD-MPC2",
    "a2c": "A2C, by Stable-Baselines3",
    "qrdqn": "QR-DQN, by sb3-contrib",
    "sac": "SAC, by Stable-Baselines3",
    "tqc": "TQC, by sb3-contrib",
}
# what a variant's name stands for, beside presets
VARIANTS = {
    "": "cpu",
    "raw": "cpu, raw vectors",
    "no_warmup": "cpu, no warm-up",
    "ratio64": "cpu, ratio 64",
    "longer": "cpu, longer",
    "from_cartpole-swingup": "cpu, after cartpole-swingup",
    "reward_from_cartpole-swingup": "cpu, reward head alone after cartpole-swingup",
    "cpu_pixels_latent64": "cpu_pixels, 64 latents",
    "1m": "cpu, 1M parameters",
    "sb3": "its defaults",
}
EARLIER = {  # variants that stand on docs/trials.md where the task has another one
    "raw",
    "no_warmup",
    "from_cartpole-swingup",
    "reward_from_cartpole-swingup",
    "cpu_pixels_latent64",
}


class Curve(NamedTuple):
    """Mean training returns in bins, with the lowest and the highest seed."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


# -- keeping -------------------------------------------------------------------------------------


def keep(run: Path, variant: str | None = None) -> Path:
    """Export and score a run; return the folder of its agent and task."""
    agent = agentzoo.load(run, device="cpu")
    settings = read_settings(run)
    task = EnvName.read(agent.env).task
    variant = variant or usual_variant(settings)
    variant = "" if variant == "cpu" else f"@{variant}"
    folder = ROOT / type(agent).__name__.lower() / f"{task}{variant}"
    seed = folder / f"seed{agent.seed}"
    seed.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as bundle:
        agent.export(bundle)
        policy = load_policy(bundle)
        score = evaluate(policy, episodes=EPISODES, seed=FIRST_SEED, progress=True)
    write_results(score, seed / "results.json")
    shutil.copy(run / "metrics.jsonl", seed / "metrics.jsonl")
    steps = read_metrics(run)[-1]["env_step"]
    (seed / "command.txt").write_text(command(settings, int(steps)) + "\n", encoding="utf-8")
    if not (folder / "random.json").is_file():
        random = evaluate_random(agent.env, episodes=EPISODES, seed=FIRST_SEED)
        write_results(random, folder / "random.json")
    return folder


def usual_variant(settings: Mapping[str, Any]) -> str:
    """The preset, or the task of the policy that a run goes on from and the parts that learn on."""
    parent = settings.get("parent")
    if parent is None:
        return settings["training"]["preset"]
    return "_".join([*parent["parts"], f"from_{EnvName.read(parent['env']).task}"])


def command(settings: Mapping[str, Any], steps: int) -> str:
    """The line that makes a run again; one that goes on from a policy has its settings and seed."""
    training, parent = settings["training"], settings.get("parent")
    parts = [settings["agent"].lower(), f"'{settings['env']}'"]
    if parent is None:
        parts += [f"--preset {training['preset']}", *(f"--set {x}" for x in training["overrides"])]
        end = [f"--seed {settings['seed']}", "--run RUN"]
    else:
        parts += ["--from PARENT", *(f"--parts {part}" for part in parent["parts"])]
        end = [f"--run RUN  # the policy {parent['sha256'][:12]}"]
    return " ".join(["OMP_NUM_THREADS=1 agentzoo learn", *parts, f"--steps {steps}", *end])


def seeds(folder: Path) -> list[Path]:
    """The folders of an agent's runs of one task, by seed."""
    return sorted(folder.glob("seed*"), key=lambda path: int(path.name.removeprefix("seed")))


def folders() -> list[Path]:
    """Every agent's every task that has runs here."""
    return sorted({path.parents[1] for path in ROOT.glob("*/*/seed*/results.json")})


# -- training returns in bins --------------------------------------------------------------------


def binned(lines: Sequence[Record]) -> dict[int, float]:
    """Mean return of the training episodes of each whole bin; the first lines are the prefill's.

    A line holds the mean of the episodes that ended since the line before.
    """
    sums: dict[int, list[float]] = {}
    before = 0.0
    for line in lines:
        if "rollout/ep_rew_mean" not in line:
            continue
        count, before = line["time/episodes"] - before, line["time/episodes"]
        label = -(-int(line["env_step"]) // BIN) * BIN
        total = sums.setdefault(label, [0.0, 0.0])
        total[0] += count * line["rollout/ep_rew_mean"]
        total[1] += count
    last = int(lines[-1]["env_step"])
    return {label: total / count for label, (total, count) in sums.items() if label <= last}


def ours(folder: Path) -> Curve | None:
    """The training returns of all seeds of an agent's task, as far as all of them go."""
    runs = [binned(read_metrics(path)) for path in seeds(folder)]
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    if not steps:
        return None
    values = np.array([[run[step] for step in steps] for run in runs])
    return Curve(np.array(steps), values.mean(0), values.min(0), values.max(0))


def theirs(folder: Path) -> Curve | None:
    """The authors' training returns in the same bins, where they published them."""
    if folder.parent.name != "dreamerv3":
        return None
    kind = "dmc_vision" if "pixels" in folder.name else "dmc_proprio"
    found = PUBLISHED["curves"][kind].get(task_of(folder))
    return found and Curve(*(np.array(found[name]) for name in Curve._fields))


def final(folder: Path) -> str:
    """The published score at the end of training, and after how many steps."""
    agent, task = folder.parent.name, task_of(folder)
    if agent == "dreamerv3":
        kind = "dmc_vision" if "pixels" in folder.name else "dmc_proprio"
        found = PUBLISHED["curves"][kind].get(task)
        return f"{found['final']['mean']:.0f} at {found['final']['steps']:,}" if found else ""
    finals = PUBLISHED["finals"].get(agent, {})
    return f"{finals[task]:.0f} at {finals['steps']:,}, {sees(finals)}" if task in finals else ""


def sees(finals: Mapping[str, Any]) -> str:
    """Observations of the agents of an authors' table."""
    return finals.get("sees", "pixels")


def task_of(folder: Path) -> str:
    """The task, without the variant."""
    return folder.name.partition("@")[0]


def variant_of(folder: Path) -> str:
    """The versions and settings that the runs were made with."""
    name = folder.name.partition("@")[2]
    return VARIANTS.get(name, name)


# -- tables --------------------------------------------------------------------------------------


def table(folder: Path) -> list[str]:
    """Transitions of one agent and task: each seed's score, steps and minutes, then random's."""
    rows = ["| seed | steps | minutes | score | interval | far above random |"]
    rows += ["|---:|---:|---:|---:|---|---|"]
    random = read_results(folder / "random.json")
    for path in seeds(folder):
        lines = read_metrics(path)
        minutes = max(record.get("time/wall_s", 0.0) for record in lines) / 60
        score = read_results(path / "results.json")
        before = f"| {path.name.removeprefix('seed')} | {lines[-1]['env_step']:,.0f}"
        far = "yes" if far_above(score, random) else "no"
        rows.append(f"{before} | {minutes:.0f} | {scored(score)} | {far} |")
    rows.append(f"| random | | | {scored(random)} | |")
    return rows


def scored(score: Evaluation) -> str:
    """Mean and interval, as two cells."""
    low, high = score.interval
    return f"{score.mean:.1f} | {low:.1f} to {high:.1f}"


def far_above(score: Evaluation, random: Evaluation) -> bool:
    """The lower end of the 95 % interval is above twice the upper end of random's."""
    return score.interval[0] > 2 * random.interval[1]


def row(folder: Path) -> str:
    """One line of the comparison."""
    random = read_results(folder / "random.json")
    runs = [read_results(path / "results.json") for path in seeds(folder)]
    means, mine, published = [run.mean for run in runs], ours(folder), theirs(folder)
    far = sum(far_above(run, random) for run in runs)
    steps = min(read_metrics(path)[-1]["env_step"] for path in seeds(folder))
    cells = [f"{NAMES[folder.parent.name]}, {variant_of(folder)}", task_of(folder), f"{steps:,.0f}"]
    cells += [spread(means), f"{random.mean:.0f}", f"{far} of {len(runs)}"]
    if mine is None:
        cells += ["", ""]
    else:
        last = bounded(mine.mean[-1], mine.low[-1], mine.high[-1])
        pairs = zip((last, f"{mine.mean.mean():.0f}"), at_equal_steps(mine, published), strict=True)
        cells += [f"{own}; authors {other}" if other else own for own, other in pairs]
    return f"| {' | '.join([*cells, final(folder)])} |"


def at_equal_steps(mine: Curve, published: Curve | None) -> list[str]:
    """The published returns at the same steps: the last bin, and the mean of all bins so far."""
    if published is None:
        return ["", ""]
    here = np.isin(published.steps, mine.steps)
    last = [curve[here][-1] for curve in (published.mean, published.low, published.high)]
    return [bounded(*last), f"{published.mean[here].mean():.0f}"]


def spread(values: Sequence[float]) -> str:
    """Mean of the seeds, lowest and highest."""
    return bounded(float(np.mean(values)), min(values), max(values))


def bounded(mean: float, low: float, high: float) -> str:
    """A mean with its bounds, where there are several seeds."""
    return f"{mean:.0f}" if low == high else f"{mean:.0f} ({low:.0f} to {high:.0f})"


HEAD = [
    "| agent, preset | task | steps | policy | random | far above random | last bin | area "
    "| published, end |",
    "|---|---|---:|---|---:|---|---|---|---|",
]


def comparison() -> str:
    """The table of agent x task."""
    return "\n".join([*HEAD, *map(row, standing())]) + "\n"


def earlier() -> str:
    """The table of settings that others have taken the place of."""
    return "\n".join([*HEAD, *map(row, filter(is_earlier, folders()))]) + "\n"


def standing() -> list[Path]:
    """The folders that the page shows: no earlier settings, agents of other libraries last."""
    shown = [folder for folder in folders() if not is_earlier(folder)]
    return sorted(shown, key=lambda folder: folder.name.endswith("@sb3"))


def is_earlier(folder: Path) -> bool:
    """Whether it has one of the earlier variants, and its task another one."""
    task, _, variant = folder.name.partition("@")
    others = {path.name.partition("@")[2] for path in folder.parent.glob(f"{task}*")}
    return variant in EARLIER and bool(others - EARLIER)


def details() -> str:
    """The page of all seeds."""
    made = "Made by `python docs/results/build.py`; [results](../results.md) say how to read it."
    parts = ["# Every seed", "", made, ""]
    for folder in folders():
        name = "/".join(folder.parts[-2:])
        parts += [f"## {NAMES[folder.parent.name]}, {task_of(folder)}: {variant_of(folder)}", ""]
        parts += [*table(folder), "", *commands(folder), f"![{name}]({name}/curve.png)", ""]
    return "\n".join(parts)


def commands(folder: Path) -> list[str]:
    """The kept commands of an agent's task."""
    found = [path / "command.txt" for path in seeds(folder) if (path / "command.txt").is_file()]
    lines = [path.read_text(encoding="utf-8").strip() for path in found]
    return ["```", *lines, "```", ""] if lines else []


# the same settings without it, from before there was any
NOT_STANDARDISED = {
    "walker-walk": "stopped/dreamer_walker_0.jsonl",
    "cheetah-run": "dreamer/cheetah-run@raw/seed0/metrics.jsonl",
    "reacher-easy": "stopped/dreamer_reacher_0.jsonl",
    "cartpole-swingup": "dreamer/cartpole-swingup@raw/seed0/metrics.jsonl",
}


def trial() -> str:
    """Training returns by task and form of standardising, and the policy's score where it is."""
    rows = ["| task | standardize | 10,000 | 20,000 | 30,000 | policy, 20 episodes |"]
    rows += ["|---|---|---:|---:|---:|---|"]
    for task, raw in NOT_STANDARDISED.items():
        for form in ("none", "prefill", "running"):
            path = ROOT / (raw if form == "none" else f"standardize/{task}_{form}.jsonl")
            if path.is_file():
                rows.append(trial_row(task, form, path))
    return "\n".join(rows) + "\n"


def trial_row(task: str, form: str, path: Path) -> str:
    """One run: the first three bins, then its newest policy's score."""
    lines, scored_at = read_metrics(path), path.with_suffix(".json")
    bins = binned(lines)
    cells = [f"{bins[step]:.0f}" if step in bins else "" for step in (BIN, 2 * BIN, 3 * BIN)]
    policy = ""
    if scored_at.is_file():
        score = read_results(scored_at)
        low, high = score.interval
        policy = f"{score.mean:.0f} ({low:.0f} to {high:.0f}) at {lines[-1]['env_step']:,.0f}"
    return f"| {task} | `{form}` | {' | '.join(cells)} | {policy} |"


# -- pictures ------------------------------------------------------------------------------------


def draw(folder: Path) -> None:
    """Evaluation and collection of all seeds, beside random and what was published."""
    baselines = {"random": read_results(folder / "random.json").mean}
    agent, task = folder.parent.name, task_of(folder)
    finals = PUBLISHED["finals"].get(agent, {})
    if task in finals:
        name = f"authors, {sees(finals)}, {finals['steps'] / 1e6:g}M steps"
        baselines[name] = finals[task]
    title = f"{NAMES[agent]} in {task}, {variant_of(folder)}"
    learning_curve(seeds(folder), folder / "curve.png", baselines=baselines, title=title)


def draw_all() -> None:
    """One picture of what the page shows: our curves and, where there is one, the authors'."""
    from matplotlib.figure import Figure

    shown = [(folder, curve) for folder in standing() if (curve := ours(folder)) is not None]
    columns = 4
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.5 * lines), layout="constrained")
    panels = np.atleast_1d(figure.subplots(lines, columns)).ravel()
    for panel, (folder, curve) in zip(panels, shown, strict=False):
        published = theirs(folder)
        if published is not None:
            here = published.steps <= curve.steps[-1]
            band(panel, Curve(*(part[here] for part in published)), "0.35", "authors'")
        own = "the library's" if variant_of(folder) == VARIANTS["sb3"] else "ours"
        band(panel, curve, "#1f5fa8", own)
        panel.axhline(
            read_results(folder / "random.json").mean, color="#e08a1e", ls=":", label="random"
        )
        title = f"{NAMES[folder.parent.name]}, {folder.name.removesuffix('@sb3')}"
        panel.set_title(title, fontsize="small", wrap=True)
        panel.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.25)
        panel.legend(fontsize="x-small", frameon=False)
    for panel in panels[len(shown) :]:
        panel.set_visible(False)
    figure.savefig(ROOT / "curves.png", dpi=110)


def band(panel: Any, curve: Curve, color: str, label: str) -> None:
    """A mean within its lowest and highest seed."""
    panel.fill_between(curve.steps, curve.low, curve.high, color=color, alpha=0.2, lw=0)
    panel.plot(curve.steps, curve.mean, color=color, marker=".", label=label)


def filled(page: str, name: str, text: str) -> str:
    """The page with the text between the markers of this name."""
    begin, end = MARKERS[0].format(name), MARKERS[1]
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return "".join([before, begin, text, end, after])


def main(runs: Sequence[str], variant: str | None) -> None:
    """Keep the runs, draw what they belong to (all, where none is given), write both pages."""
    for folder in sorted({keep(Path(run), variant) for run in runs}) or folders():
        draw(folder)
    draw_all()
    SEEDS.write_text(details(), encoding="utf-8")
    for page, name, text in (
        (PAGE, "comparison", comparison()),
        (TRIALS, "earlier", earlier()),
        (TRIALS, "standardize", trial()),
    ):
        page.write_text(filled(page.read_text(encoding="utf-8"), name, text), encoding="utf-8")
    print(comparison())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", help="folders that `agentzoo learn` left")
    parser.add_argument("--variant", choices=[*VARIANTS][1:], help="what tells them from others")
    given = parser.parse_args()
    main(given.runs, given.variant)
