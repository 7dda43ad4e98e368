"""The whole road on this machine in minutes: learn, export, run without PyTorch, score.

`make demo` and `agentzoo quickstart` run this. The budget is a number of environment steps, never
of minutes, so that a seed gives the same policy again.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from agentzoo.runtime.errors import MissingExtraError, RunError

from .doctor import opengl

if TYPE_CHECKING:
    from agentzoo.runtime import Evaluation

TASK = "dmc:cartpole-swingup,obs=state"
STEPS = 50_000  # environment steps, repeat included
PRESET = "cpu"
MINUTES = 8  # what STEPS take on two cores
SMOKE_STEPS = 2_000  # two episodes: every stage runs, nothing is learned
EPISODES = 20
FIRST_SEED = 1_000_000  # of the scored episodes; training draws its own from the run's seed
# Dreamer, 5e6 environment steps, pixels: Hafner et al. 2020 (arXiv:1912.01603v3), appendix table
PAPER_SCORE = 833.66

# proves that nothing in the process needs torch, not merely that nothing happened to import it
KEEP_TORCH_OUT = """
import sys
class KeepOut:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("torch is kept out of this process", name="torch")
sys.meta_path.insert(0, KeepOut())
"""
SCORE = (
    KEEP_TORCH_OUT
    + """
from agentzoo.cli.quickstart import score
score(*sys.argv[1:])
"""
)


@dataclass(frozen=True)
class Score:
    """A policy's mean return over the scored episodes, with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Paths:
    """The files that a quickstart leaves behind, in one folder."""

    out: Path

    @property
    def run(self) -> Path:
        """Logs and checkpoints."""
        return self.out / "run"

    @property
    def bundle(self) -> Path:
        """The exported policy."""
        return self.out / "bundle"

    @property
    def scores(self) -> Path:
        """The learned and the random policy's scores."""
        return self.out / "scores.json"

    @property
    def curve(self) -> Path:
        """The learning curve."""
        return self.out / "learning_curve.png"

    @property
    def video(self) -> Path:
        """One episode of the exported policy."""
        return self.bundle / "replay.mp4"


def run(out: Path, *, steps: int | None = None, seed: int = 0, smoke: bool = False) -> int:
    """Learn, export, score without PyTorch, and say where everything is.

    Args:
        out: the folder for all of it; a finished run in it is scored again, a stopped one goes on.
        steps: environment steps; None is the fixed budget.
        seed: of the run.
        smoke: seconds instead of minutes: the debug preset, and scores are not judged.

    Returns:
        The exit code: 0; 1 where a check of the scores failed; 130 or 143 where Ctrl-C or SIGTERM
        ended the learning.
    """
    require_packages()
    budget = steps or (SMOKE_STEPS if smoke else STEPS)
    paths, missing = Paths(out), opengl()
    say(announcement(budget, seed, smoke))
    if missing:
        say(f"There will be no video: {missing}.")
    try:
        learn(paths, budget, seed, "debug" if smoke else PRESET)
    except (KeyboardInterrupt, SystemExit) as stopped:
        say(stopped_at(paths.run, budget))
        return 130 if isinstance(stopped, KeyboardInterrupt) else int(str(stopped.code))
    learned, random = score_apart(paths, video=not missing)
    draw(paths, random)
    say(table(learned, random))
    passed = judge(learned, random, smoke)
    say(directions(paths))
    return 0 if passed else 1


def require_packages() -> None:
    """Refuse to begin what cannot end here.

    Raises:
        MissingExtraError: naming the first package that is missing, and all that is needed.
    """
    for package in ("torch", "matplotlib", "onnx", "onnxruntime", "dm_control"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "train,onnx,video,dmc")


def announcement(budget: int, seed: int, smoke: bool) -> str:
    """The announcement: the steps to come, and how long they take."""
    time = "seconds" if smoke else f"about {max(1, round(MINUTES * budget / STEPS))} min"
    kind = " This is the shortened run: it shows that the road works, not that it learns."
    return (
        f"Dreamer learns {TASK} for {budget:,} environment steps with seed {seed} "
        f"({time} on two cores), is exported to ONNX, and is scored over {EPISODES} fresh episodes "
        f"by ONNX Runtime in a process without PyTorch, beside a random policy."
    ) + (kind if smoke else "")


def learn(paths: Paths, budget: int, seed: int, preset: str) -> None:
    """Learn in the run's folder and export the result.

    Raises:
        RunError: if the run was stopped before its end.
    """
    import torch

    from .. import Dreamer

    # networks this small gain nothing from a second thread, which rounds differently and waits for
    # whatever else runs: with one, a seed gives the same policy and an update takes its usual time
    torch.set_num_threads(1)
    agent = Dreamer(TASK, preset=preset, device="cpu", seed=seed)
    agent.learn(budget, run=paths.run)
    require_whole(paths.run, budget)
    say("Exporting to ONNX, and comparing ONNX Runtime's actions with PyTorch's.")
    agent.export(paths.bundle)


def require_whole(run: Path, budget: int) -> None:
    """Refuse to score a run that was ended early.

    Raises:
        RunError: saying how to go on.
    """
    if steps_of(run) < budget:
        raise RunError(stopped_at(run, budget))


def steps_of(run: Path) -> int:
    """Environment steps of a run's newest checkpoint; 0 where there is none."""
    from ..train.checkpoint import Counters, newest

    checkpoint = newest(run / "checkpoints")
    return 0 if checkpoint is None else Counters.read(checkpoint / "training").env_step


def stopped_at(run: Path, budget: int) -> str:
    """Message of a stopped run: its step, and the way to go on."""
    return (
        f"stopped at step {steps_of(run):,} of {budget:,}, so there is nothing to score yet; "
        "the same command goes on from there"
    )


def score_apart(paths: Paths, *, video: bool) -> tuple[Score, Score]:
    """Score the bundle and a random policy in a process that cannot import torch.

    Raises:
        RunError: if that process failed; it has said why.
    """
    say(f"Scoring over seeds {FIRST_SEED} to {FIRST_SEED + EPISODES - 1}, without PyTorch.")
    film = [str(paths.video)] if video else []
    arguments = [str(paths.bundle), str(paths.scores), *film]
    done = subprocess.run([sys.executable, "-c", SCORE, *arguments], check=False)
    if done.returncode != 0:
        raise RunError(
            f"the bundle {paths.bundle} could not be scored without PyTorch; "
            "the lines above say why, and agentzoo doctor says what this machine lacks"
        )
    scores = json.loads(paths.scores.read_text())
    return Score(**scores["learned"]), Score(**scores["random"])


def score(bundle: str, result: str, video: str | None = None) -> None:
    """Run the bundle and a random policy over the same seeds and write both scores as JSON."""
    from agentzoo.runtime import evaluate, evaluate_random, load_policy

    policy = load_policy(bundle)
    learned = evaluate(policy, episodes=EPISODES, seed=FIRST_SEED, video=video)
    random = evaluate_random(policy.spec.env, episodes=EPISODES, seed=FIRST_SEED)
    record(learned, Path(bundle))
    scores = {
        name: {"mean": found.mean, "low": found.interval[0], "high": found.interval[1]}
        for name, found in (("learned", learned), ("random", random))
    }
    Path(result).write_text(json.dumps(scores, indent=1))


def record(learned: "Evaluation", bundle: Path) -> None:
    """Write the bundle's score, in place of one that is there."""
    from agentzoo.runtime.bundle.manifest import RESULTS
    from agentzoo.runtime.evaluation.results import write_results

    (bundle / RESULTS).unlink(missing_ok=True)  # one of more episodes would be kept
    write_results(learned, bundle)


def draw(paths: Paths, random: Score) -> None:
    """The learning curve beside the random policy and the paper's score."""
    from ..train.plots import learning_curve

    baselines = {"random": random.mean, "paper, 5M steps": PAPER_SCORE}
    learning_curve(paths.run, paths.curve, baselines=baselines, title=f"Dreamer on {TASK}")


def table(learned: Score, random: Score) -> str:
    """Table of both scores, and the paper's."""
    rows = [("learned, by ONNX Runtime", learned), ("random", random)]
    lines = [f"{'policy':28}{'mean':>8}   95 % interval"]
    lines += [f"{n:28}{s.mean:8.1f}   {s.low:.1f} to {s.high:.1f}" for n, s in rows]
    return "\n".join([*lines, f"{'paper, 5M steps of pixels':28}{PAPER_SCORE:8.1f}"])


def checks(learned: Score, random: Score) -> list[tuple[str, bool]]:
    """The checks of a learned policy, and whether each holds."""
    half = PAPER_SCORE / 2
    return [
        (
            f"lower end above the upper end of random's: {learned.low:.1f} > {random.high:.1f}",
            learned.low > random.high,
        ),
        (
            f"lower end above half the paper's score: {learned.low:.1f} > {half:.1f}",
            learned.low > half,
        ),
    ]


def judge(learned: Score, random: Score, smoke: bool) -> bool:
    """Say which checks hold; a shortened run is not judged."""
    if smoke:
        say("Shortened run: the scores above are not judged.")
        return True
    found = checks(learned, random)
    say("\n".join(f"{'passed' if held else 'FAILED'}  {claim}" for claim, held in found))
    return all(held for _, held in found)


def directions(paths: Paths) -> str:
    """Text of the files made, and of the commands to type next."""
    places = [
        ("the policy", paths.bundle),
        ("learning curve", paths.curve),
        ("an episode", paths.video),
        ("logs and checkpoints", paths.run),
    ]
    lines = [f"{name:22}{path}" for name, path in places if path.exists()]
    commands = [
        f"agentzoo evaluate {paths.bundle} --episodes 50",
        f"agentzoo inspect {paths.bundle}",
        f"agentzoo verify {paths.bundle}",
        f"tensorboard --logdir {paths.run}",
        "agentzoo learn tdmpc2 dmc:reacher-easy,obs=state --preset cpu --steps 5e4",
    ]
    return "\n".join([*lines, "", "What to type next:", *(f"  {line}" for line in commands)])


def say(text: str) -> None:
    """A paragraph on standard output, at once."""
    print(f"\n{text}", flush=True)
