"""Time of one DreamerV2 update on Atari: ours, and sheeprl's `dreamer_v2`, the same sizes.

    python benchmarks/dreamer_v2_update.py --peer-python PEER/bin/python [--batches 16 50]
        [--rounds 4] [--updates 1]

An update is one gradient step of model, actor and value on a prepared random batch of 64x64 grey
images with 18 actions, in float32, without compilation; windows of 50 transitions, 16 of them as
in the released code and 50 as in the paper. Ours and the peer take turns (paired_timing.py).
Without --peer-python, ours is measured alone.
"""

import torch
from models import setting
from paired_timing import (
    BATCHES,
    HEAD,
    OURS,
    PEER,
    Ours,
    Peer,
    Side,
    arguments,
    footnote,
    measure,
    rows,
)

from agentzoo.agents.dreamer_v2 import DreamerV2, DreamerV2Algorithm, DreamerV2Config
from agentzoo.algorithm import Batch
from agentzoo.config import configure
from agentzoo.runtime.spec import ActionSpec, ObsSpec

ACTIONS = 18  # all of the console's
IMAGE = (64, 64, 1)
GREY = {"image": ObsSpec(kind="image", shape=IMAGE, source=IMAGE)}
JOYSTICK = ActionSpec(
    kind="discrete", size=ACTIONS, shape=(), dtype="int64", nvec=(ACTIONS,), start=(0,)
)
SIZES = ("batch_size", "batch_length", "horizon", "units", "layers", "depth", "stoch", "classes",
         "deter", "hidden")  # fmt: skip


def batch(config: DreamerV2Config, seed: int) -> Batch:
    """Random transitions as replay gives them; each window begins an episode."""
    draw = torch.Generator().manual_seed(seed)
    lead = config.batch_size, config.batch_length
    never = torch.zeros(lead, dtype=torch.bool)
    is_first = never.clone()
    is_first[:, 0] = True
    chosen = torch.randint(ACTIONS, lead, generator=draw)
    return {
        "image": torch.randint(256, (*lead, *IMAGE), dtype=torch.uint8, generator=draw),
        "prev_action": torch.nn.functional.one_hot(chosen, ACTIONS).float(),
        "reward": torch.rand(*lead, generator=draw),
        "is_first": is_first,
        "is_last": never,
        "is_terminal": never,
    }


def ours(windows: int) -> Ours:
    """DreamerV2 of the paper's sizes with the weights of seed 0, and that many windows a batch."""
    preset = DreamerV2.presets["atari_paper"]
    config = configure(DreamerV2Config, preset, {"batch_size": windows}, name="DreamerV2")
    torch.manual_seed(0)
    algorithm = DreamerV2Algorithm(GREY, JOYSTICK, config)
    return Ours(algorithm, [batch(config, seed) for seed in range(BATCHES)])


def sizes(windows: int) -> dict[str, int]:
    """The peer's settings."""
    config = configure(DreamerV2Config, DreamerV2.presets["atari_paper"], {"batch_size": windows})
    return {**{name: getattr(config, name) for name in SIZES}, "action": ACTIONS}


def main() -> None:
    parser = arguments("How long one DreamerV2 update on Atari takes.", 4, 1)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 50], help="windows in each")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(setting(given.threads, "torch"), "\n")
    print(HEAD)
    times = {}
    for windows in given.batches:
        sides: dict[str, Side] = {OURS: ours(windows)}
        if given.peer_python:
            peer = Peer("sheeprl_dreamer_v2.py", given.peer_python, sizes(windows), given.threads)
            sides[PEER] = peer
        times = measure(sides, given.rounds, given.updates)
        print(*rows(sides, times, f"{windows}x50"), sep="\n", flush=True)
        if given.peer_python:
            peer.close()
    print("", footnote(times, peer=bool(given.peer_python)), sep="\n")


if __name__ == "__main__":
    main()
