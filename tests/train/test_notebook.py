"""Display of a notebook without a call: a bar that moves, a score with its interval and its film.

The notebook runs in a real kernel, of the interpreter that `.ci/trackers VENV` makes.
"""

import base64
import json
import os
import re
import subprocess
from pathlib import Path

from agentzoo.runtime.evaluation.rollout import Evaluation
from tests.train.test_trackers import ROOT, interpreter

__all__ = ["interpreter"]  # a fixture
RUNNER = Path(__file__).with_name("notebook.py")


def test_a_bar_moves_and_an_evaluation_plays_its_film(interpreter: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [interpreter, str(RUNNER), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    bar, score = json.loads(done.stdout)
    assert [one["output_type"] for one in bar] == ["display_data", "stream"]  # nothing is red
    assert bar[1] == {"output_type": "stream", "name": "stdout", "text": "a remark <b>\n"}
    shown = bar[0]["data"]["text/html"]  # one output, which was changed where it stands
    assert '<progress value="600" max="1000">' in shown
    assert "600 of 1,000 steps (60 %), learning" in shown
    (result,) = score
    page = result["data"]["text/html"]
    assert "<b>6.0</b> mean return of 3 episodes (95 % interval 6.0 to 6.0)" in page
    film = re.search(r'<video [^>]*src="data:video/mp4;base64,([^"]+)"', page)
    assert film is not None
    assert base64.b64decode(film[1]) == (tmp_path / "film.mp4").read_bytes()


def scored(agent: str = "A") -> Evaluation:
    return Evaluation(
        agent=agent, env="", returns=(1.0, 2.0), lengths=(3, 4), seeds=(0, 1), deterministic=True
    )


def test_what_a_policy_says_of_itself_is_text() -> None:
    page = scored("<img src=x onerror=alert(1)>")._repr_html_()
    assert "<img" not in page
    assert "&lt;img src=x" in page
    assert "<video" not in page


def test_a_film_that_is_gone_is_said_and_stays_out_of_results(tmp_path: Path) -> None:
    result = scored().filmed(tmp_path / "gone.mp4")
    assert "gone.mp4 is not there any more" in result._repr_html_()
    assert "film" not in result.to_json()
    assert Evaluation.from_json(result.to_json()).film is None
    assert Evaluation.from_json(result.to_json()) == result
