"""The model card: read from the results, in the form that leaderboards read."""

import ast
import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from agentzoo.hub.card import OWN, dataset, spelled, write_card
from agentzoo.hub.naming import parse
from agentzoo.hub.package import read_package
from agentzoo.runtime.evaluation.rollout import Evaluation
from tests.unit_runtime.bundles import replace


def card(folder: Path, address: str = "me/walker") -> str:
    package = read_package(folder, without=["replay.mp4", "learning_curve.png"])
    return write_card(package, parse(address), "apache-2.0").read_text()


def rescore(folder: Path, **changes: object) -> None:
    path = folder / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_model_index_is_what_leaderboards_read(folder: Path) -> None:
    rescore(folder, returns=[100.0, 200.0, 400.0, *[300.0] * 7])
    front = yaml.safe_load(card(folder).split("---\n")[1])
    assert front["model-index"] == [
        {
            "name": "Dreamer",
            "results": [
                {
                    "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
                    "dataset": {
                        "name": "CartPole-v1",
                        "type": "CartPole-v1",
                        "args": {
                            "environment": "gym:CartPole-v1?repeat=1",
                            "episodes": 10,
                            "seeds": "1000 to 1009",
                            "action_repeat": 1,
                            "deterministic": False,
                        },
                    },
                    "metrics": [
                        {
                            "type": "mean_reward",
                            "value": "280.00 +/- 74.83",
                            "name": "mean_reward",
                            "verified": False,
                        }
                    ],
                }
            ],
        }
    ]
    assert front["library_name"] == "agentzoo"
    assert front["license"] == "apache-2.0"
    assert front["pipeline_tag"] == "reinforcement-learning"
    assert {"deep-reinforcement-learning", "reinforcement-learning", "dreamer", "CartPole-v1",
            "agentzoo", "arxiv:1912.01603"} <= {*front["tags"]}  # fmt: skip


def test_the_client_reads_it_back(folder: Path) -> None:
    read = ModelCard(card(folder))
    (result,) = read.data.eval_results
    assert (result.metric_type, result.metric_value) == ("mean_reward", "500.00 +/- 0.00")
    assert result.dataset_args["episodes"] == 10
    assert read.text.lstrip().startswith(OWN)
    front = yaml.safe_load(read.content.split("---\n")[1])  # what a leaderboard has of it
    name, again = model_index_to_eval_results(front["model-index"])
    assert (name, again) == ("Dreamer", [result])


def test_the_text_holds_what_the_results_say(folder: Path) -> None:
    rescore(folder, returns=[100.0, 200.0, 400.0, *[300.0] * 7])
    text = card(folder)
    found = Evaluation.from_json(json.loads((folder / "results.json").read_text()))
    low, high = found.interval
    assert "| mean return | 280.00 ± 74.83 " in text
    assert f"| {low:.2f} to {high:.2f} |" in text
    assert "| episodes | 10, seeds 1000 to 1009 |" in text
    assert "| actions | sampled |" in text
    assert "![learning curve](learning_curve.png)" in text
    assert '<video src="replay.mp4"' in text


def test_what_the_suite_makes_of_the_episodes_is_said(folder: Path) -> None:
    plain = card(folder)
    rescore(folder, scores={"crafter_score": 3.1416, "success/eat_cow": 50.0,
                            "success/sleep": 0.0, "success/wake_up": 100.0})  # fmt: skip
    text = card(folder)
    rows = "| `crafter_score` | 3.14 |\n| `success` | eat_cow 50.00, wake_up 100.00 |\n"
    assert text.count(rows) == 1
    assert text.replace(rows, "") == plain
    assert re.search(r"^\| 95 % .*\n\| `crafter_score`", text, re.M), "within the table"


def test_the_snippets_parse_and_the_commands_name_the_repo(folder: Path) -> None:
    text = card(folder, "me/walker")
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        ast.parse(snippet)
        assert '"me/walker"' in snippet
    assert "agentzoo evaluate me/walker --check" in text
    assert (
        "agentzoo learn dreamer gym:CartPole-v1,repeat=1 \\\n"
        "  --steps 50000 --preset cpu --seed 0 \\\n  --set batch_size=32\n"
    ) in text
    assert 'pip install "agentzoo-rl[onnx]"' in text
    assert "| `batch_size` | 50 | 32 |" in text
    assert "$" not in text


def test_a_text_of_ones_own_stays_below_metadata_that_are_made_anew(folder: Path) -> None:
    mine = "---\nlicense: mit\n---\n# My walker\n\nIt walks.\n"
    (folder / "README.md").write_text(mine)
    text = card(folder)
    assert text.endswith("---\n# My walker\n\nIt walks.\n")
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "apache-2.0"
    assert card(folder) == text


def test_a_made_card_is_made_again(folder: Path) -> None:
    first = card(folder)
    assert OWN in first
    rescore(folder, returns=[1.0, 3.0] * 5)
    assert "| 2.00 ± 1.00 " in card(folder)


def test_without_pictures_and_without_a_history_it_says_less(folder: Path) -> None:
    (folder / "replay.mp4").unlink()
    (folder / "learning_curve.png").unlink()
    settings = json.loads((folder / "config.json").read_text())
    del settings["training"]
    replace(folder, "config.json", json.dumps(settings).encode())
    text = card(folder)
    assert "<video" not in text
    assert "learning curve" not in text
    assert "The folder does not say; exported on 2026-11-22 with agentzoo 0.1.0" in text


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ("gym:CartPole-v1?repeat=1", "CartPole-v1"),
        ("dmc:walker-walk?obs=state", "dmc-walker-walk"),
        ("", "own-environment"),
    ],
)
def test_environments_have_the_names_that_leaderboards_use(env: str, name: str) -> None:
    assert dataset(env) == name


def test_seeds_are_said_shortly() -> None:
    assert spelled((3, 4, 5)) == "3 to 5"
    assert spelled((3, 5, 4)) == "3, 5, 4"
    assert spelled((7,)) == "7"


@pytest.mark.parametrize(
    ("took", "sentence"),
    [
        ("best", "It is the run's best policy by evaluation, over other episodes than the score"),
        ("newest", "It is the run's last policy."),
    ],
    ids=["best", "newest"],
)
def test_which_policy_of_its_run_it_is(folder: Path, took: str, sentence: str) -> None:
    assert sentence not in card(folder)
    settings = json.loads((folder / "config.json").read_text())
    replace(folder, "config.json", json.dumps({**settings, "took": took}).encode())
    assert sentence in card(folder)


def test_a_policy_that_was_continued_counts_its_parents_steps(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    total = settings["training"]["env_steps"]
    parent = {"sha256": "ab" * 32, "env": "gym:CartPole-v1?repeat=1", "env_steps": total - 300,
              "has_optimizer": True, "has_replay": False}  # fmt: skip
    replace(folder, "config.json", json.dumps({**settings, "parent": parent}).encode())
    text = card(folder)
    assert "--steps 300 " in text
    assert f"{total:,} environment steps" in text
    assert f"{total - 300:,} of them before this run, in `gym:CartPole-v1?repeat=1`" in text
    assert "sha256 `abababababababab`" in text
    assert "of which only" not in " ".join(text.split())
    partly = {**settings, "parent": {**parent, "parts": ["reward"]}}
    replace(folder, "config.json", json.dumps(partly).encode())
    assert "of which only `reward` learned on" in " ".join(card(folder).split())
