"""Time of one Dreamer update from state: ours, and sheeprl's `dreamer_v1` at the same sizes.

    python benchmarks/dreamer_update.py --peer-python PEER/bin/python [--rounds 10] [--updates 2]

An update is one gradient step of model, actor and value on a prepared random batch, in float32,
without compilation. Ours and the peer take turns (paired_timing.py). Without --peer-python, ours is
measured alone.
"""

import torch
from models import ACTION_SIZE, STATE_SIZE, WALKER_STATE, box, setting, untrained
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

from agentzoo.agents.dreamer import DreamerConfig
from agentzoo.algorithm import Batch

SIZES = ("batch_size", "batch_length", "horizon", "units", "state_layers", "reward_layers",
         "value_layers", "actor_layers", "stoch", "deter", "hidden")  # fmt: skip


def batch(config: DreamerConfig, seed: int) -> Batch:
    """Random transitions as replay gives them; each window begins an episode."""
    draw = torch.Generator().manual_seed(seed)
    lead = config.batch_size, config.batch_length
    never = torch.zeros(lead, dtype=torch.bool)
    is_first = never.clone()
    is_first[:, 0] = True
    return {
        "state": torch.randn(*lead, STATE_SIZE, generator=draw),
        "prev_action": 2 * torch.rand(*lead, ACTION_SIZE, generator=draw) - 1,
        "reward": torch.rand(*lead, generator=draw),
        "is_first": is_first,
        "is_last": never,
        "is_terminal": never,
    }


def main() -> None:
    given = arguments("How long one Dreamer update from state takes.", 10, 2).parse_args()
    torch.set_num_threads(given.threads)
    algorithm = untrained("dmc_state", WALKER_STATE, box(ACTION_SIZE))
    config = algorithm.config
    sides: dict[str, Side] = {OURS: Ours(algorithm, [batch(config, k) for k in range(BATCHES)])}
    if given.peer_python:
        sizes = {**{name: getattr(config, name) for name in SIZES}, "obs": STATE_SIZE}
        sizes["action"] = ACTION_SIZE
        sides[PEER] = Peer("sheeprl_dreamer_v1.py", given.peer_python, sizes, given.threads)
    times = measure(sides, given.rounds, given.updates)
    print(setting(given.threads, "torch"), "\n")
    print(HEAD, *rows(sides, times), "", footnote(times, peer=PEER in sides), sep="\n")


if __name__ == "__main__":
    main()
