"""Success of an episode, as environments say it in their infos.

`is_success` is Stable-Baselines3's word and Gymnasium-Robotics': the last one of an episode counts.
The others are those of Meta-World and ManiSkill (`success`), MyoSuite (`solved`) and the hands of
D4RL (`goal_achieved`), whose tables count an episode in which it was true once.
"""

from collections.abc import Mapping, Sequence

import numpy as np

AT_THE_END = "is_success"
ONCE = ("success", "solved", "goal_achieved")
SPELLINGS = (AT_THE_END, *ONCE)


class Success:
    """Follows one episode; `reached` is None as long as its environment says nothing."""

    def __init__(self) -> None:
        self.reached: bool | None = None

    def take(self, info: Mapping[str, object]) -> None:
        """Take in the info of a step."""
        if AT_THE_END in info:
            last = _truth(info[AT_THE_END])
            self.reached = self.reached if last is None else last
            return
        found = [_truth(info[name]) for name in ONCE if name in info]
        said = [one for one in found if one is not None]
        if said:
            self.reached = bool(self.reached) or any(said)


def told_once(info: Mapping[str, object]) -> dict[str, bool]:
    """The flags of an info that count if they were true once, where they are true."""
    return {name: True for name in ONCE if name in info and _truth(info[name])}


def successes(episodes: Sequence[Success]) -> tuple[bool, ...]:
    """Success of each episode; empty where the environment says nothing at all."""
    if all(one.reached is None for one in episodes):
        return ()
    return tuple(bool(one.reached) for one in episodes)


def _truth(value: object) -> bool | None:
    """A number or flag as what it says; None for what is neither."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        return None
    return bool(array.item() > 0)
