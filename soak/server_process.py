"""`agentzoo serve` in a process of its own, watched from outside; and the log of a soak."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[1]
SERVE = "import sys; from agentzoo.cli.main import main; main(sys.argv[1:])"
TIMEOUT_S = 30.0


class ServerProcess:
    """`agentzoo serve` on a free port."""

    def __init__(self, folder: Path, log: Path, *arguments: str) -> None:
        """Start it and wait until it is ready."""
        self.log = log
        command = [sys.executable, "-c", SERVE, "serve", f"a={folder}", "--port", "0",
                   "--drain", "0", "--provider", "cpu", *arguments]  # fmt: skip
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=file)
        limit = time.monotonic() + 120
        while not (ready := re.search(r"ready on http://\S+:(\d+)", log.read_text())):
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < limit, "the server did not become ready"
            time.sleep(0.05)
        self.port = int(ready[1])

    def memory_mb(self) -> float:
        """Resident memory (Linux)."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 2**20

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        client = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        client.request("GET", "/metrics")
        text = client.getresponse().read().decode()
        client.close()
        lines = [line for line in text.splitlines() if re.match(rf"{name}(\{{|\s)", line)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def stop(self) -> int:
        """End it, and say its exit code."""
        self.process.terminate()
        return self.process.wait(30)


def write(log: TextIO, entry: Mapping[str, object]) -> None:
    """One JSON object a line, on the disk at once and on the terminal."""
    line = json.dumps(entry)
    log.write(line + "\n")
    log.flush()
    print(line, flush=True)
