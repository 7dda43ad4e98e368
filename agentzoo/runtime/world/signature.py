"""The signature of an exported world model, and the names of its graphs' tensors.

Beside a policy's graphs a bundle may hold two more. `world_imagine.onnx` takes a state and an
action to the next state and judges it; `world_decode.onnx` draws a state as observations and
judges it, too. Both leave the batch open.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import BundleError
from ..policy.onnx_session import GraphSpec, Port, Ports, numbered, single
from ..spec import MEMORY, ObsSpec, PolicySpec, TensorSpec

IMAGINE, DECODE, TRACE = "world_imagine.onnx", "world_decode.onnx", "world_golden.npz"
FILES = (IMAGINE, DECODE, TRACE)
Judgement = Literal["reward", "continue", "value"]
JUDGEMENTS: tuple[Judgement, ...] = get_args(Judgement)


@dataclass(frozen=True, kw_only=True)
class WorldSpec:
    """The parts of a world model beside its dynamics and its decoder; what it lacks is absent.

    Attributes:
        judges: of `reward` (on arriving), `continue` (the probability that the episode goes on)
            and `value` (what the critic expects), those it has.
        acts: whether an imagined step also gives the policy's action in the state it leads to;
            planning agents find theirs by planning.
    """

    judges: tuple[str, ...]
    acts: bool


def check_world(spec: WorldSpec) -> None:
    """Refuse judgements that this version does not know.

    Raises:
        BundleError: naming the first one.
    """
    for name in spec.judges:
        if name not in JUDGEMENTS or spec.judges.count(name) > 1:
            raise BundleError(
                f'the manifest\'s world model judges "{name:.40}", expected each of '
                f"{', '.join(JUDGEMENTS)} at most once; export it again"
            )


def world_graph_specs(spec: PolicySpec, world: WorldSpec) -> dict[str, GraphSpec]:
    """Every tensor's name in the two graphs of a world model."""
    latent = latent_tensors(spec)
    roles = ("latent", "action") if world.acts else ("latent",)
    noise = {key: TensorSpec(shape=one.shape) for key, one in spec.noise.items()}
    ports = numbered("noise", "noise", noise)
    inputs = (
        numbered("state_in", "carry", latent)
        | single("action", (spec.action.size,), "float32")
        | {name: port for name, port in ports.items() if spec.noise[port.key].role in roles}
    )
    outputs = numbered("state_out", "carry", latent) | _judged(world.judges)
    if world.acts:
        inputs |= single("deterministic", (), "bool")
        outputs |= {"policy_action": Port(role="action", key="policy", shape=(spec.action.size,),
                                          dtype="float32")}  # fmt: skip
    drawn = {key: TensorSpec(shape=one.shape) for key, one in spec.obs.items()}
    return {
        IMAGINE: GraphSpec(inputs=inputs, outputs=outputs),
        DECODE: GraphSpec(
            inputs=numbered("state_in", "carry", latent),
            outputs=numbered("obs", "obs", drawn) | _judged(world.judges),
        ),
    }


def latent_tensors(spec: PolicySpec) -> dict[str, TensorSpec]:
    """The carry without the action, which a dream replaces, and a planner's plan."""
    own = ("prev_action",) if spec.plan is None else ("prev_action", MEMORY)
    return {name: one for name, one in spec.carry.items() if name not in own}


def dream_noise(spec: PolicySpec) -> tuple[str, ...]:
    """Names of the noise a dreaming step may draw: all but what an observation draws."""
    return tuple(name for name, one in spec.noise.items() if one.role != "dequantise")


def _judged(judges: Sequence[str]) -> Ports:
    return {name: Port(role="judgement", key=name, shape=(), dtype="float32") for name in judges}


def decoded_shape(spec: ObsSpec) -> tuple[int, ...]:
    """Shape of what the decoder gives for an observation: that of the step's own tensor."""
    return spec.shape
