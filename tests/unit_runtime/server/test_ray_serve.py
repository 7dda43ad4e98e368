"""The application under Ray Serve: two nodes, two replicas, one of them killed under load.

AGENTZOO_RAY_PYTHON names the interpreter; `.ci/ray_tune VENV PYTHON` makes one.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.interpreters import interpreter_of
from tests.unit_runtime.bundles import linear

ROOT = Path(__file__).parents[3]
DRIVER = Path(__file__).with_name("drive_ray_serve.py")
ALONE = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
MIDDLEWARES = "agentzoo.runtime.server.ray_proxy:middlewares"  # as in docs/cluster.md
DRAIN_S = 4
GONE = "the replica that kept this sequence is gone, and the sequence with it: begin another"


@pytest.fixture(scope="module")
def interpreter() -> Path:
    return Path(interpreter_of("AGENTZOO_RAY_PYTHON", ".ci/ray_tune"))


@pytest.fixture(scope="module")
def seen(interpreter: Path, made: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The answers that clients of a cluster saw, in a network of its own."""
    if subprocess.run([*ALONE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs a network of its own (unshare --net): Ray listens on every address")
    home = tmp_path_factory.mktemp("ray")
    other = linear(home / "other", scale=-1)  # acts the other way
    text = (ROOT / "examples" / "ray_serve.yaml").read_text(encoding="utf-8")
    for given, wanted in (
        ("walker=runs/export/walker #", f"a={made} #"),
        ("cpus: 1", "cpus: 0.8"),  # more than half of what a node has
        ("drain_s: 20", f"drain_s: {DRAIN_S}\n      deadline_s: 60"),
    ):
        assert text.count(given) == 1
        text = text.replace(given, wanted)
    # the lines that the example has as a comment
    swap = f"user_config: {{model: a={made}}}, num_replicas: 2"
    text += f"    deployments: [{{name: agentzoo, {swap}}}]\n"
    swapped = text.replace(f"{{model: a={made}}}", f"{{model: a={other}}}")
    fewer = swapped.replace("num_replicas: 2", "num_replicas: 1")
    changed = text.partition("    deployments: [")[0]
    for given, wanted in (("replicas: 2", "replicas: 1"), ("1024 #", "6 #")):
        assert changed.count(given) == 1
        changed = changed.replace(given, wanted)
    configs = [text, swapped, fewer, changed]
    files = [home / f"{name}.yaml" for name in ("first", "swapped", "fewer", "changed")]
    for file, content in zip(files, configs, strict=True):
        file.write_text(content, encoding="utf-8")
    command = [*ALONE, interpreter, DRIVER, interpreter.with_name("serve"), *files, made, other]
    done = subprocess.run(
        [str(one) for one in command],
        cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False,
        env={**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT),
             "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
             "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": MIDDLEWARES,
             # on a busy machine a proxy takes longer than 5 s to start, and a replica longer than
             # 0.1 s to say how busy it is, and then gets nothing while another one is known
             "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
             "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout.splitlines()[-1])


# in one worker: `seen` runs once, and no second cluster beside it
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray_serve")]


def test_sessions_stay_with_their_replicas(seen: Any) -> None:
    assert seen["nodes"] == 2
    assert seen["before"].keys() == {"right"}


def test_a_killed_replica_loses_its_own_sequences_and_says_so(seen: Any) -> None:
    lost = [said for was_there, said in seen["sequences"] if was_there]
    kept = [said for was_there, said in seen["sequences"] if not was_there]
    assert lost
    assert all(said.startswith(f"session_lost: {GONE}") for said in lost), lost
    assert set(kept) == {"right"}


def test_a_killed_replica_loses_its_own_websockets_and_says_so(seen: Any) -> None:
    ended = [said for said in seen["episodes"] if said != "right"]
    assert 0 < len(ended) < len(seen["episodes"])
    for said in ended:
        assert said.startswith("session_lost: ")
        assert "ended without a goodbye" in said
        assert "reset and begin an episode" in said


def test_no_session_moves_when_a_replica_joins(seen: Any) -> None:
    assert seen["joining"].keys() == {"right"}
    assert seen["joined"].keys() == {"right"}


def test_stateless_clients_lose_nothing(seen: Any) -> None:
    assert seen["load"].keys() == {"right"}
    assert seen["load"]["right"] > 20


def test_requests_under_way_at_a_killed_replica_are_answered_by_another(seen: Any) -> None:
    assert seen["under_way"] == {"right": 8}


def test_who_lost_a_session_begins_another(seen: Any) -> None:
    assert seen["begun"].keys() == {"right"}


def test_a_swap_inside_the_replicas_leaves_sessions_their_version(seen: Any) -> None:
    assert seen["swapped"].keys() == {"right"}


@pytest.mark.parametrize("step", ["fewer", "redeploy"])
def test_open_websockets_go_on_while_their_replica_is_to_end(seen: Any, step: str) -> None:
    ended = {said: n for said, n in seen[step]["answers"].items() if said != "right"}
    assert seen[step]["ends"]
    assert min(seen[step]["ends"]) > DRAIN_S
    assert sum(ended.values()) == len(seen[step]["ends"])
    assert all("ended without a goodbye" in said for said in ended), ended
    assert (seen[step]["went_on"] > 0) == (step == "fewer")


@pytest.mark.parametrize("step", ["fewer", "redeploy"])
def test_sequences_of_a_replica_that_is_to_end_are_lost_and_told_so(seen: Any, step: str) -> None:
    lost = {said for said in seen[step]["sequences"] if said != "right"}
    assert all(said.startswith(f"session_lost: {GONE}") for said in lost), lost
    assert ("right" in seen[step]["sequences"]) == (step == "fewer")


def test_after_a_redeploy_with_other_arguments_everybody_begins_anew(seen: Any) -> None:
    assert seen["redeploy"]["begun"] == {"right": 2}
    assert seen["redeploy"]["load"].keys() == {"right", "later"}


def test_requests_under_way_follow_the_session_limit(seen: Any) -> None:
    """So the replica refuses the seventh session, and nobody waits."""
    assert seen["settings"]["max_ongoing_requests"] == 6 + 1024
    assert seen["settings"]["graceful_shutdown_timeout_s"] == DRAIN_S
    *open_ones, refused = seen["sessions"]
    assert open_ones == ["right"] * 4  # and two before
    assert refused.startswith("sessions_full: ")
