"""Environments in processes on systems that hand no descriptors on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentzoo.runtime.envs import ProcessVectorEnv, worker_process
from agentzoo.runtime.errors import WorkerError
from tests.unit_runtime.envs.test_observe import Cameras
from tests.unit_runtime.envs.test_subprocess_env import is_gone

# what Windows' Python lacks, missing here as well, in every process
SITE = """
import asyncio  # on Unix it asks os.sysconf itself since Python 3.12
import os, sys
for name in ("fcntl", "termios"):
    sys.modules[name] = None
for name in ("sysconf", "nice", "killpg", "getpgid"):
    delattr(os, name)
"""
LEARN = """
from agentzoo.runtime.envs import worker_process
from agentzoo.train.run_folder import read_total
worker_process.INHERITS = False
from agentzoo import Dreamer
fields = {"prefill": 200, "final_episodes": 0, "eval_every": 0, "report_every": 0}
agent = Dreamer("gym:Pendulum-v1", preset="debug", device="cpu", seed=0, envs=2, **fields)
agent.learn(800, run="run", progress=False)
assert read_total(agent.run) == 800 and (agent.run / "checkpoints").is_dir()
print("learned", agent.env_steps)
"""


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "INHERITS", False)


@pytest.mark.usefixtures("sockets")
def test_a_worker_connects_to_a_socket_and_is_gone_after_close() -> None:
    envs = ProcessVectorEnv(Cameras, 1)
    observation, _ = envs.reset(seed=0)
    assert observation["eye"].shape == (1, 48, 32, 3)
    (process,) = envs.processes
    envs.close()
    assert is_gone(process)
    assert not envs.processes


@pytest.mark.usefixtures("sockets")
def test_a_worker_that_never_connects_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "BOOT", "raise SystemExit(3)")
    with pytest.raises(WorkerError, match="for an environment did not connect"):
        ProcessVectorEnv(Cameras, 1)


def test_learning_needs_nothing_that_only_unix_has(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "sitecustomize.py").write_text(SITE)
    root = Path(__file__).parents[3]
    paths = os.pathsep.join([str(tmp_path), str(root)])
    done = subprocess.run(
        [sys.executable, "-c", LEARN],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "learned 800\n"), done.stderr
