"""The cost of `push` and `pull` beside the bare client, in seconds and in memory.

    python benchmarks/publishing.py [--rounds 5] [--megabytes 20 200]

A bundle whose weights are padded goes to the tests' stand-in for the Hub, on loopback, and back.
The contenders take turns, each in a process of its own, which times the call alone and says its
peak of memory. The bare client sends the same files as one commit and fetches the whole snapshot;
the aim is its time and two passes of sha256 over the bundle.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "publishing")]

VERBS = ("push", "pull")
CONTENDERS = ("bare", "hub")
REPO = "me/bundle"


def bare_push(folder: Path, cache: Path) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    api.create_repo(REPO, exist_ok=True)
    files = [CommitOperationAdd(path.name, path) for path in sorted(folder.iterdir())]
    api.create_commit(REPO, files, commit_message="bare")


def bare_pull(folder: Path, cache: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(REPO, cache_dir=cache)


def hub_push(folder: Path, cache: Path) -> None:
    from agentzoo import hub

    hub.push(folder, REPO)


def hub_pull(folder: Path, cache: Path) -> None:
    from agentzoo import hub

    hub.pull(REPO, cache_dir=cache)


CALLS = {
    ("bare", "push"): bare_push,
    ("bare", "pull"): bare_pull,
    ("hub", "push"): hub_push,
    ("hub", "pull"): hub_pull,
}


def child(who: str, verb: str, folder: Path, cache: Path) -> None:
    """Time one call in this process; print seconds and the peak of memory in MB."""
    import agentzoo.hub.download
    import agentzoo.hub.upload  # noqa: F401  imports are not what is measured

    started = time.perf_counter()
    CALLS[who, verb](folder, cache)
    seconds = time.perf_counter() - started
    print(json.dumps([seconds, peak_mb()]))


def peak_mb() -> float:
    """Most memory this process had; Linux's getrusage would count the one that started it too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def apart(url: str, who: str, verb: str, folder: Path, cache: Path) -> tuple[float, float]:
    """The same in a process of its own."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_TOKEN": "hf_standin",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, __file__, "--child", who, verb, str(folder), str(cache)]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=300
    )
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def one_round(scratch: Path, folder: Path, turn: int) -> dict[tuple[str, str], tuple[float, float]]:
    """Every contender once, with a repo and a cache that hold nothing."""
    from standin import serving

    found: dict[tuple[str, str], tuple[float, float]] = {}
    order = CONTENDERS if turn % 2 == 0 else CONTENDERS[::-1]
    for who in order:
        place = scratch / who
        with serving(place / "hub") as standin:
            for verb in VERBS:
                found[who, verb] = apart(standin.url, who, verb, folder, place / "cache")
        shutil.rmtree(place)
    return found


def sha256_seconds(folder: Path) -> float:
    """One pass over the bundle's files, which lie in the page cache."""
    started = time.perf_counter()
    for path in folder.iterdir():
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[20, 200])
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        who, verb, folder, cache = asked.child
        child(who, verb, Path(folder), Path(cache))
        return
    print(
        "| MB | | bare client, s | hub, s | sha256 pass, s | hub - bare, passes "
        "| peak MB: bare | hub |"
    )
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for megabytes in asked.megabytes:
        measure(megabytes, asked.rounds)


def measure(megabytes: int, rounds: int) -> None:
    """One size: medians of rounds, differences round by round."""
    from bundles import linear

    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = linear(scratch / "bundle", padding=megabytes << 20)
        turns = [one_round(scratch, folder, turn) for turn in range(rounds)]
        hashing = median(sha256_seconds(folder) for _ in range(rounds))
    for verb in VERBS:
        bare, ours = ([turn[who, verb] for turn in turns] for who in CONTENDERS)
        more = median(mine[0] - theirs[0] for theirs, mine in zip(bare, ours, strict=True))
        times = [median(one[0] for one in each) for each in (bare, ours)]
        peaks = [max(one[1] for one in each) for each in (bare, ours)]
        print(
            f"| {megabytes} | {verb} | {times[0]:.2f} | {times[1]:.2f} | {hashing:.2f} | "
            f"{more / hashing:.1f} | {peaks[0]:.0f} | {peaks[1]:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
