"""Publishing takes no memory that grows with the bundle."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from agentzoo import hub as publishing
from tests.unit_hub.standin import StandIn
from tests.unit_runtime.bundles import linear, replace

MB = 1 << 20
# both beyond the client's own buffers, 10 MB a file; its threads and libraries swing by 30 MB
SMALL, LARGE = 24 * MB, 160 * MB
CODE = """
import sys
from pathlib import Path
from agentzoo import hub
folder, repo, cache = sys.argv[1:]
hub.push(folder, repo)
hub.pull(repo, cache_dir=cache)
# getrusage would count the process that started this one as well
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def heavy(folder: Path, ballast: int) -> Path:
    """A bundle with so many bytes of ballast in its weights, and again in its graph."""
    linear(folder, padding=ballast)
    model = onnx.load(folder / "policy.onnx")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(ballast, np.uint8), "ballast"))
    replace(folder, "policy.onnx", model.SerializeToString())
    results = json.loads((folder / "results.json").read_text())
    manifest = json.loads((folder / "manifest.json").read_text())
    results["policy_sha256"] = manifest["files"]["policy.onnx"]["sha256"]
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def peak(folder: Path, tmp_path: Path) -> int:
    """Bytes that a process had in memory at most, while it pushed and pulled."""
    arguments = [str(folder), f"me/{folder.name}", str(tmp_path / "other cache")]
    root = Path(publishing.__file__).parents[1]
    command = [sys.executable, "-c", CODE, *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return 1024 * int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's /proc/self/status")
def test_memory_does_not_grow_with_the_bundle(hub: StandIn, tmp_path: Path) -> None:
    small = peak(heavy(tmp_path / "small", SMALL), tmp_path)
    large = peak(heavy(tmp_path / "large", LARGE), tmp_path)
    assert len(hub.files("me/large")["policy.onnx"]) > LARGE
    assert large - small < (LARGE - SMALL) / 3, f"{small / MB:.0f} MB, then {large / MB:.0f} MB"
