"""TD-MPC2 by itself: sizes beside the authors', pictures of several decisions, planner settings."""

import pytest
import torch

from agentzoo import TDMPC2
from agentzoo.agents.tdmpc2 import (
    SIZES,
    TDMPC2Algorithm,
    TDMPC2Config,
    policy_loss,
    world_model_loss,
)
from agentzoo.config import configure
from agentzoo.runtime.envs import settings_of
from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.policy.planners import can_leave_out
from agentzoo.runtime.spec import ActionSpec, MPPISpec, ObsSpec

STATE = {"state": ObsSpec(kind="vector", shape=(24,), source=(24,))}
PICTURE = ObsSpec(kind="image", shape=(64, 64, 3), source=(64, 64, 3))
PICTURES = {"image": PICTURE, "image_1": PICTURE, "image_2": PICTURE}
WALKER = ActionSpec(
    kind="box", size=6, shape=(6,), dtype="float32", low=(-1.0,) * 6, high=(1.0,) * 6
)
# counted in nicklashansen/tdmpc2 common/world_model.py:WorldModel for 24 numbers and 6 actions
THEIRS = {
    "1m": {"encoder": 40_064, "dynamics": 250_752, "reward": 240_101, "pi": 203_532, "q": 480_202},
    "5m": {
        **{"encoder": 139_520, "dynamics": 794_112, "reward": 582_245, "pi": 533_516},
        "q": 2_911_225,
    },
    "19m": {
        **{"encoder": 1_868_032, "dynamics": 2_636_032, "reward": 1_950_821, "pi": 1_853_452},
        "q": 9_754_105,
    },
}
THEIR_CONVOLUTIONS = 58_272  # of three pictures joined, at 5M


def algorithm(obs: dict[str, ObsSpec], **fields: object) -> TDMPC2Algorithm:
    with torch.device("meta"):
        return TDMPC2Algorithm(obs, WALKER, configure(TDMPC2Config, fields, name="TDMPC2"))


def counts(of: TDMPC2Algorithm) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, parameter in of.named_parameters():
        part = name.partition(".")[0]
        if part != "target_q":
            found[part] = found.get(part, 0) + parameter.numel()
    return found


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_the_authors(size: str) -> None:
    assert counts(algorithm(STATE, size=size)) == THEIRS[size]


def test_five_million_is_the_default_and_sees_nine_channels_as_theirs() -> None:
    found = counts(algorithm(PICTURES))
    assert found == {**THEIRS["5m"], "encoder": THEIR_CONVOLUTIONS}


def test_both_kinds_have_both_encoders() -> None:
    found = counts(algorithm({**PICTURES, **STATE}))
    assert found["encoder"] == THEIR_CONVOLUTIONS + THEIRS["5m"]["encoder"]


def test_a_wrong_size_is_named() -> None:
    with pytest.raises(ConfigError, match="size='5M' is not known; did you mean \"5m\""):
        TDMPC2Config(size="5M")


def test_pixels_are_of_three_decisions_unless_the_string_says_otherwise() -> None:
    pytest.importorskip("dm_control")
    for env, shown in (
        ("dmc:pendulum-swingup?size=64", ["image", "image_1", "image_2"]),
        ("dmc:pendulum-swingup?frames=1", ["image"]),
    ):
        agent = TDMPC2(env, preset="debug", device="cpu")
        assert list(agent.spec.obs) == shown
        assert settings_of(agent.env)["frames"] == len(shown)


def test_the_policy_can_act_alone_and_the_planner_is_mppi() -> None:
    agent = TDMPC2("gym:Pendulum-v1", preset="debug", device="cpu", candidates=20, horizon=2)
    assert isinstance(agent.spec.plan, MPPISpec)
    assert (agent.spec.plan.candidates, agent.spec.plan.horizon) == (20, 2)
    assert can_leave_out(agent.spec)


def test_the_world_model_loss_counts_later_steps_less_and_none_across_a_seam() -> None:
    losses = {
        "consistency": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "termination": torch.tensor([[1.0, 1.0], [1.0, 5.0]]),
    }
    inside = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    scales = {"consistency": 20.0, "termination": 1.0}
    loss, means = world_model_loss(losses, inside, scales=scales, rho=0.5)
    # step 0: mean of 1 and 3; step 1: mean of 2 and the 4 across the seam, at weight a half
    assert means["consistency"].item() == (2 + 0.5 * 1) / 2
    assert means["termination"].item() == (1 + 1 + 1 + 0) / 4
    assert loss.item() == 20 * 1.25 + 0.75


def test_the_policy_s_loss_is_in_units_of_the_values_spread() -> None:
    entropy, value = torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0]])
    loss = policy_loss(entropy, value, torch.tensor(2.0), entropy_scale=0.5, rho=0.5)
    assert loss.item() == -((1.5 + 3) + 0.5 * (2 + 4)) / 2
