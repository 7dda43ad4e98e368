"""A vector environment of the user's own making, in whichever way it resets itself."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import iterate

from ..errors import ConfigError, EpisodeError
from ..policy.spaces import Observation, action_spec, env_action
from ..spec import Array
from .backend import NOTHING, Spaces, StepResult
from .time_limit import spec_limit

SEED_REFUSALS = (TypeError, ValueError, gym.error.Error)  # of a list where one seed is taken
VectorEnv = gym.vector.VectorEnv[Any, Any, Any]


class Vector:
    """All environments of a vector environment, which step together.

    DISABLED: an ended episode's environment is reset by mask and seed before the next step.
    SAME_STEP: the step that ends an episode brings the next one's first observation.
    NEXT_STEP: the step after it does, and ignores that environment's action.

    Where all environments are to begin, all are reset with seeds, whatever the mode: at the start
    and after each checkpoint, and whenever all episodes end together. Environments that wait while
    others go on are stepped without anybody looking. Where `reset` takes one seed and no list, it
    is that of the first environment to begin.
    """

    def __init__(self, venv: VectorEnv) -> None:
        """Take a vector environment; the caller closes it.

        Raises:
            ConfigError: if it does not say how it resets itself.
        """
        self._venv, self._mode = cast("Any", venv), _mode(venv)  # its spaces are untyped
        self.sync_reset = self._mode is not AutoresetMode.NEXT_STEP
        action = action_spec(self._venv.single_action_space)
        self._idle = env_action(action, np.zeros(action.size))
        self._over = np.ones(len(self), np.bool_)
        self._takes_list = (
            True  # of seeds; Gymnasium's own for one task, such as CartPole's, do not
        )
        self._first: dict[int, Observation] = {}  # SAME_STEP's, of the episodes it began
        self._actions: Mapping[int, Array] = {}
        self._seeds: Mapping[int, int] = {}

    def __len__(self) -> int:
        return self._venv.num_envs

    @property
    def spaces(self) -> Sequence[Spaces]:
        """Observation and action space, one pair for all."""
        return [(self._venv.single_observation_space, self._venv.single_action_space)]

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Empty: side observations are not taken out of a vector environment's infos."""
        return NOTHING

    @property
    def time_limit(self) -> int | None:
        """The one that its environments were registered with."""
        return spec_limit(self._venv)

    @property
    def processes(self) -> Sequence[int]:
        """No processes: those there are belong to the user's vector environment."""
        return ()

    def send(self, actions: Mapping[int, Array], seeds: Mapping[int, int]) -> None:
        """Remember what to do; at once, environments are stepped or reset, not both."""
        assert not (self.sync_reset and actions and seeds), (list(actions), list(seeds))
        self._actions, self._seeds = actions, seeds

    def receive(self) -> dict[int, StepResult]:
        """Do it.

        Raises:
            EpisodeError: if a final observation is missing that the mode promises.
        """
        actions, seeds = self._actions, self._seeds
        if len(seeds) == len(self):
            return self._reset(seeds)
        if seeds and self.sync_reset:
            return self._reset(seeds) if self._mode is AutoresetMode.DISABLED else self._begun()
        return self._step(actions) if actions else {}

    def render(self, index: int) -> object:
        """The picture of one environment."""
        frames = self._venv.render()
        return None if frames is None else frames[index]

    def close(self) -> None:
        """Leave the environment open: it is the user's."""

    def _reset(self, seeds: Mapping[int, int]) -> dict[int, StepResult]:
        mask = np.isin(np.arange(len(self)), list(seeds))
        # all at once without a mask, which only DISABLED is sure to know
        options = None if mask.all() else {"reset_mask": mask}
        listed = [seeds.get(i) for i in range(len(self))]
        observations, _ = self._seeded(listed, options)
        self._over[mask] = False
        found = self._split(observations)
        return {i: StepResult(found[i]) for i in seeds}

    def _seeded(self, seeds: list[int | None], options: dict[str, Any] | None) -> Any:
        """Reset with a seed for each environment, or for all where it takes one alone."""
        if self._takes_list:
            try:
                return self._venv.reset(seed=seeds, options=options)
            except SEED_REFUSALS:
                self._takes_list = False
        first = next((seed for seed in seeds if seed is not None), None)
        return self._venv.reset(seed=first, options=options)

    def _begun(self) -> dict[int, StepResult]:
        return {i: StepResult(self._first[i]) for i in self._seeds}

    def _step(self, actions: Mapping[int, Array]) -> dict[int, StepResult]:
        began = self._over.copy()  # NEXT_STEP resets these now
        if self._mode is AutoresetMode.DISABLED and began.any():
            self._reset_unseen(began)
        batch = np.stack([actions.get(i, self._idle) for i in range(len(self))])
        observations, rewards, terminated, truncated, infos = self._venv.step(batch)
        self._over = np.logical_or(terminated, truncated)
        found = self._split(observations)
        if self._mode is AutoresetMode.SAME_STEP:
            self._first = {int(i): deepcopy(found[i]) for i in np.flatnonzero(self._over)}
            for i in self._first:
                found[i] = self._final(infos, i)
        outcomes = {
            i: StepResult(found[i], rewards[i], bool(terminated[i]), bool(truncated[i]))
            for i in actions
        }
        for i in self._seeds:
            assert began[i], f"environment {i} was to begin, but its episode goes on"
            outcomes[i] = StepResult(found[i])
        return outcomes

    def _reset_unseen(self, mask: Array) -> None:
        self._seeded([None] * len(self), {"reset_mask": mask})

    def _split(self, observations: Any) -> list[Observation]:
        return list(cast("Any", iterate(self._venv.observation_space, observations)))

    def _final(self, infos: Mapping[str, Any], index: int) -> Observation:
        final = infos.get("final_obs")
        if isinstance(final, Mapping):  # of a Dict space: one array a key, masks beside them
            given = cast("Mapping[str, Any]", final)
            return {key: given[key][index] for key in self._venv.single_observation_space}
        if final is None or final[index] is None:
            raise EpisodeError(
                f"environment {index} ended its episode, but the vector environment gave no "
                'infos["final_obs"], as AutoresetMode.SAME_STEP promises; give it, or use another '
                "mode"
            )
        return final[index]


def _mode(venv: VectorEnv) -> AutoresetMode:
    mode = venv.metadata.get("autoreset_mode")
    if mode in list(AutoresetMode) or mode in [each.value for each in AutoresetMode]:
        return AutoresetMode(mode)
    raise ConfigError(
        f"the vector environment does not say how it resets itself (its metadata has "
        f"autoreset_mode={mode!r}); set it to gymnasium.vector.AutoresetMode.NEXT_STEP, SAME_STEP "
        "or DISABLED, whichever it does"
    )
