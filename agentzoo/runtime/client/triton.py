"""A policy behind NVIDIA Triton Inference Server, from its client's side.

Triton keeps the recurrent state and runs the graph. What is left to the client is here: encoding
observations, drawing the noise of each step by its address, and knowing when a sequence starts.
Which client library carries the tensors is the caller's choice.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..bundle.spec_check import check_spec
from ..errors import BundleError
from ..policy.noise import draw
from ..policy.onnx_session import graph_specs
from ..policy.policy import NEXT_STEP
from ..policy.spaces import Observation, encode
from ..spec import Array, Arrays, PolicySpec
from ..strict_json import read_fields

SIGNATURE = "sequence.json"


@dataclass(frozen=True, kw_only=True)
class TritonSignature:
    """A model as its clients have to know it; `sequence.json` beside its config.pbtxt.

    Attributes:
        latents: "sample" where noise is among the inputs, "mode" where there is none.
        policy: what the policy reads, keeps, draws and gives.
        format: version of the file.
    """

    latents: Literal["sample", "mode"]
    policy: PolicySpec
    format: int = 1


class TritonSession:
    """One sequence after another of one environment: episodes, as `Policy.act` plays them.

    With the same seed and observations, actions are those of `load_policy(bundle, seed=seed)`.

    Attributes:
        is_first: whether the next request begins a sequence, as Triton's `sequence_start` says it.

    Example:
        >>> session = TritonSession("models/dreamer_dmc_cartpole_swingup")
        >>> feeds = session.inputs(obs)  # to tritonclient's InferInput, by name
        >>> result = client.infer(..., sequence_id=7, sequence_start=session.is_first)
        >>> action = session.action(result.as_numpy("action"))
        >>> session.reset()  # at the episode's end
    """

    def __init__(
        self, model: str | Path, *, seed: int | None = None, deterministic: bool | None = None
    ) -> None:
        """A session at the start of its first episode.

        Args:
            model: the model's folder in the repository, or a copy of its `sequence.json`.
            seed: keys the noise; None is the policy's.
            deterministic: whether actions are the distribution's mode; None is the protocol. Has
                no effect on a model whose latents are modes.

        Raises:
            BundleError: if there is no such file, or it is damaged or of another version.
        """
        self.signature = read_signature(Path(model))
        spec = self.spec = self.signature.policy
        self.is_first = True
        self._mode = spec.deterministic if deterministic is None else deterministic
        self._address = np.array([[spec.seed if seed is None else seed, 0, 0]], np.int64)
        self._ports = graph_specs(spec)["policy.onnx"].inputs

    def inputs(self, obs: Observation) -> Arrays:
        """The inputs of one step by the model's names, (1, ...) each.

        Args:
            obs: one observation as the environment gives it, without a batch axis.

        Raises:
            ObservationError: if the observation is not what the spec says.
        """
        values = {"obs": encode(self.spec.obs, obs, batched=False)}
        if self.signature.latents == "sample":
            values["noise"] = draw(self.spec.noise, self._address)
            values["deterministic"] = {"": np.array([self._mode])}
        return {
            name: values[port.role][port.key].reshape(1, *(port.shape or (1,)))
            for name, port in self._ports.items()
            if port.role in values
        }

    def action(self, output: Array) -> Array:
        """The environment's action from the model's output (1, ...); the step is over with it."""
        self.is_first = False
        self._address = self._address + NEXT_STEP
        spec = self.spec.action
        return output.reshape(spec.shape).astype(spec.dtype)

    def reset(self) -> None:
        """Start a new episode, and so a new sequence; the noise goes on."""
        self.is_first = True


def read_signature(model: Path) -> TritonSignature:
    """The signature of a model, by its folder or by the file itself.

    Raises:
        BundleError: if there is no such file, or it is damaged or of another version.
    """
    path = model / SIGNATURE if model.is_dir() else model
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path} cannot be read: {error}; agentzoo export --triton writes it beside the model"
        ) from error
    found = read_fields(TritonSignature, value, SIGNATURE)
    if found.format != 1:
        raise BundleError(f"{path} has format {found.format}, this version reads 1")
    check_spec(found.policy)
    return found
