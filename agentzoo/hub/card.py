"""The model card: everything in it is read from the bundle, nothing is typed by hand."""

import html
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from huggingface_hub import EvalResult, ModelCardData

from agentzoo.runtime.bundle.agent_config import Library, TrainingRecord
from agentzoo.runtime.envs import EnvName, package_of
from agentzoo.runtime.errors import BundleError
from agentzoo.runtime.evaluation.rollout import Evaluation
from agentzoo.runtime.evaluation.statistics import succeeded
from agentzoo.runtime.files import open_plain, stands, write_plain
from agentzoo.runtime.printable import printable

from .naming import Address
from .package import CARD, CURVE, LIMITS, VIDEO, Package, check_size

TASK = "reinforcement-learning"
OWN = "<!-- made by agentzoo; remove this line to keep a text of your own -->"
FRONT = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
PIN = "`@` and a commit behind the name pin the version. "
TOOK = {
    "": "",
    "newest": " It is the run's last policy.",
    "best": " It is the run's best policy by evaluation, over other episodes than the score's.",
}
DIFFERS = "## What differs from the paper\n\n"
TEMPLATE = Path(__file__).parent / "templates" / "card.md"


def write_card(package: Package, address: Address, license_id: str) -> Path:
    """Write README.md into the bundle's folder.

    A text of the user's own stays, below metadata that are always made anew: a card without the
    line that says who made it is theirs.

    Args:
        package: what is to be published.
        address: under which name.
        license_id: identifier of the weights' licence, as the Hub spells it.

    Returns:
        The card's path.

    Raises:
        BundleError: if a text of the user's own is too large, no UTF-8, or a link.
    """
    path = package.folder / CARD
    there = _text(path) if stands(path) else OWN
    text = f"{OWN}\n\n{body(package, address)}" if OWN in there else FRONT.sub("", there)
    data = metadata(package, license_id)
    front = f"---\n{data.to_yaml()}\n---\n"  # pyright: ignore[reportUnknownMemberType]
    return write_plain(path, front + text)


def _text(path: Path) -> str:
    with open_plain(path) as file:
        content = file.read(LIMITS[CARD] + 1)
    check_size(CARD, len(content))
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is not a text in UTF-8 ({error}); mend or remove it") from error


def metadata(package: Package, license_id: str) -> ModelCardData:
    """The card's front matter, with a model-index that leaderboards read.

    Source: the fields and "{mean:.2f} +/- {std:.2f}" as in DLR-RM/rl-baselines3-zoo's cards.
    """
    results, agent = package.results, package.settings.agent
    name = dataset(results.env)
    values = {"mean_reward": f"{results.mean:.2f} +/- {results.std:.2f}"}
    if results.success_rate is not None:
        values["success_rate"] = f"{results.success_rate:.2f}"
    scores = [
        EvalResult(
            task_type=TASK,
            task_name=TASK,
            dataset_type=name,
            dataset_name=name,
            dataset_args={
                "environment": results.env or "an object of the author's own",
                "episodes": len(results.returns),
                "seeds": spelled(results.seeds),
                "action_repeat": results.repeat,
                "deterministic": results.deterministic,
            },
            metric_type=metric,
            metric_name=metric,
            metric_value=value,
            verified=False,
        )
        for metric, value in values.items()
    ]
    library = package.settings.library
    kind = "world-model" if library is None else library.name or "pytorch"
    tags = ["agentzoo", "deep-reinforcement-learning", TASK, kind, agent.lower(), name]
    return ModelCardData(
        license=license_id,
        library_name="agentzoo",
        pipeline_tag=TASK,
        tags=[*tags, "onnx", *_arxiv(package.settings.training)],
        model_name=agent,
        eval_results=scores,
    )


def dataset(env: str) -> str:
    """An environment as leaderboards name it: `CartPole-v1`, `dmc-walker-walk`."""
    name = EnvName.read(env)
    if not name.task:
        return "own-environment"
    return name.task if name.suite == "gym" else f"{name.suite}-{name.task}"


def spelled(seeds: Sequence[int]) -> str:
    """Seeds in one line: `0 to 9`, or each of them."""
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))) and len(seeds) > 1:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def body(package: Package, address: Address) -> str:
    """The card's text."""
    results, training = package.results, package.settings.training
    low, high = results.interval
    graphs = ", ".join(f"`{name}`" for name in package.manifest.graphs)
    scored = graphs if package.manifest.policy.plan is None else f"{graphs} and the plan"
    paper = training.paper if training else ""
    has_env, episodes = bool(results.env), f"episodes={len(results.returns)}"
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        agent=plain(results.agent),
        task=plain(EnvName.read(results.env).head) or "an environment of its author's own",
        paper=f" ({plain(paper)})" if paper else "",
        mean=f"{results.mean:.2f}",
        std=f"{results.std:.2f}",
        low=f"{low:.2f}",
        high=f"{high:.2f}",
        episodes=len(results.returns),
        seeds=spelled(results.seeds),
        actions="the distribution's mode" if results.deterministic else "sampled",
        env=code(EnvName.read(results.env).shell) or "an object of the author's own",
        repeat=results.repeat,
        scored=scored,
        sha256=results.policy_sha256[:16],
        pictures=_pictures(package.files),
        address=address.plain,
        use=_use_torch(package, address, episodes),
        maker=_maker(package.settings.library),
        onnx=_install("onnx", results.env),
        pin="" if address.kind == "zoo" else PIN,
        run="\nfrom agentzoo.runtime import evaluate\n" if has_env else "\n",
        scores=_scores(results.scores) + _success(results),
        unplanned=_unplanned(package.unplanned),
        try_policy=f"print(evaluate(policy, {episodes}).mean)" if has_env else "policy.act(obs)",
        training=_training(package, training),
        differs="" if package.settings.library else f"{DIFFERS}{_differs(training)}\n\n",
    )


def _use_torch(package: Package, address: Address, episodes: str) -> str:
    """Lines that load the agent itself; nothing of a policy that another library trained."""
    if package.settings.library is not None:
        return ""
    env = package.results.env
    call = f"print(agent.evaluate({episodes}).mean)" if env else "agent.act(obs)"
    return (
        f"```python\nimport agentzoo                              # {_install('train', env)}\n\n"
        f'agent = agentzoo.load("{address.plain}")\n{call}\n```\n\nWithout PyTorch:\n\n'
    )


def _maker(library: Library | None) -> str:
    """The clause that says who trained and who exported a policy."""
    if library is None:
        return "trained and exported by agentzoo"
    name = plain(f"{library.name} {library.version}") if library.name else "its author's own code"
    return f"trained by {name} and exported by agentzoo"


def plain(text: str) -> str:
    """A text of the publisher's as Markdown shows it: no HTML, no heading, no cell of its own."""
    escaped = html.escape(printable(text), quote=False)
    return re.sub(r"([\\`*|\[\]~])", r"\\\1", escaped)


def code(text: str) -> str:
    """A text of the publisher's between backticks, in a table or not."""
    return printable(text).replace("`", "'").replace("|", "\\|")


def command(package: Package, training: TrainingRecord) -> str:
    """The command that trains the agent again."""
    settings, seed = package.settings, str(package.settings.seed)
    before = 0 if settings.parent is None else settings.parent.env_steps
    offline = settings.offline
    steps = str(offline.updates if offline else training.env_steps - before)
    lines = [
        ["agentzoo", "learn", settings.agent.lower(), EnvName.read(settings.env).shell],
        *([["--offline", offline.dataset]] if offline else []),
        ["--steps", steps, "--preset", training.preset, "--seed", seed],
        *(["--set", override] for override in training.overrides),
    ]
    return " \\\n  ".join(shlex.join(map(printable, line)) for line in lines)


def _arxiv(training: TrainingRecord | None) -> list[str]:
    return [
        f"arxiv:{one}"
        for one in re.findall(r"arXiv:(\d+\.\d+)", training.paper if training else "")
    ]


def _scores(scores: Mapping[str, float]) -> str:
    """A row for each of the suite's scores; those below one name share one, zeros left out."""
    rows: dict[str, list[str]] = {}
    for name, value in scores.items():
        group, slash, member = name.partition("/")
        if not slash:
            rows[name] = [f"{value:.2f}"]
        elif value:
            rows.setdefault(group, []).append(f"{plain(member)} {value:.2f}")
    return "".join(f"| `{code(name)}` | {', '.join(values)} |\n" for name, values in rows.items())


def _unplanned(found: Evaluation | None) -> str:
    """The row of a planner's policy network by itself."""
    if found is None:
        return ""
    low, high = found.interval
    score = f"{found.mean:.2f} ± {found.std:.2f}, interval {low:.2f} to {high:.2f}"
    return f'| without planning, `plan="off"` | {score}, {len(found.returns)} episodes |\n'


def _success(results: Evaluation) -> str:
    """A row with the success rate, where the environment knows of one."""
    rate = succeeded(results)
    return f"| `success_rate` | {rate} |\n" if rate else ""


def _pictures(files: Sequence[str]) -> str:
    lines: list[str] = []
    if VIDEO in files:
        lines.append(f'<video src="{VIDEO}" controls loop muted width="256"></video>\n')
    if CURVE in files:
        lines.append(f"![learning curve]({CURVE})\n")
    return "\n".join([*lines, ""]) if lines else ""


def _training(package: Package, training: TrainingRecord | None) -> str:
    made = _made(package.manifest.provenance)
    if package.settings.library is not None:
        steps = training.env_steps if training else 0
        known = f"{steps:,} environment steps" if steps else "a number of steps that is not known"
        maker = _maker(package.settings.library)
        return f"It was {maker}, after {known}; {made}."
    if training is None:
        return f"The folder does not say; {made}."
    if not package.settings.env:
        how = (
            f"In an environment object of its author's own, for {training.env_steps:,} steps, with "
            f"the preset `{code(training.preset)}` and seed {package.settings.seed}."
        )
    else:
        how = f"```\n{command(package, training)}\n```"
    steps = f"{training.env_steps:,} environment steps, action repeat included"
    if (parent := package.settings.parent) is not None:
        where = code(parent.env or "an environment object")
        steps += (
            f", {parent.env_steps:,} of them before this run, in `{where}`, by the policy that "
            f"it continues from (weights with sha256 `{code(parent.sha256[:16])}`)"
        )
        if parent.parts:
            parts = ", ".join(f"`{code(part)}`" for part in parent.parts)
            steps += f", of which only {parts} learned on"
    return f"{how}\n\n{steps}; {made}.{TOOK[package.settings.took]}"


def _made(provenance: Mapping[str, str]) -> str:
    packages = ", ".join(
        plain(f"{name} {one}") for name, one in provenance.items() if name != "date"
    )
    return f"exported on {plain(provenance.get('date', 'an unknown date'))} with {packages}"


def _install(extra: str, env: str) -> str:
    """The command that installs agentzoo and what brings the policy's environment."""
    suite = EnvName.read(env).suite
    brings = package_of(suite) if suite else ""
    also = f",{suite}" if brings == "" and suite not in ("", "gym") else ""
    line = f'pip install "agentzoo-rl[{extra}{also}]"'
    if brings is None:
        return f"{line}, and what brings {suite}:"
    return f"{line} {brings}" if brings else line


def _differs(training: TrainingRecord | None) -> str:
    page = (
        "What the implementation itself does otherwise than the paper and its authors' code stands "
        "in agentzoo's documentation, on the agent's page under *Deviations*."
    )
    if training is None or not training.paper:
        return "There is no paper to compare with, or the folder does not name it."
    if not training.differs:
        return f"The settings are the paper's. {page}"
    rows = [
        f"| `{code(name)}` | {' | '.join(plain(one) for one in pair)} |"
        for name, pair in training.differs.items()
    ]
    table = "\n".join(["| setting | paper's preset | here |", "|---|---|---|", *rows])
    return f"{table}\n\n{page}"
