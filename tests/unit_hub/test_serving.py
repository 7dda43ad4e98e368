"""A published policy is served; these need what serving needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentzoo import hub as publishing
from agentzoo.hub import load_policy, push
from agentzoo.runtime import RemotePolicy
from agentzoo.runtime import load_policy as open_folder
from tests.unit_hub.standin import StandIn

REPO = "me/dreamer-gym-CartPole-v1"
ROOT = Path(publishing.__file__).parents[1]


@pytest.fixture
def published(hub: StandIn, folder: Path) -> str:
    """The address of a bundle, commit included."""
    return push(folder, REPO)


@pytest.mark.parametrize("pinned", [True, False])
def test_a_server_starts_from_a_warm_cache_without_a_network(
    published: str, folder: Path, tmp_path: Path, pinned: bool
) -> None:
    load_policy(REPO)  # what a server needs, and no more
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from agentzoo.cli.main import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "serve", f"walker={published if pinned else REPO}",
               "--port", "0", "--drain", "0", "--provider", "cpu"]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "cache"),
                   "HF_ENDPOINT": "http://127.0.0.1:9"}  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if line.startswith("ready on "):
                    break
            assert said[-1].startswith("ready on "), said
            policy = RemotePolicy(f"ws://{said[-1].rsplit('/', 1)[1].strip()}")
            assert policy.digest == open_folder(folder, provider="cpu").digest
            policy.close()
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
