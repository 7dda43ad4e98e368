"""The protocols' own keys, which share a map with a policy's observations.

An observation of such a name could not be told from them, so its policy is refused when it is
loaded. vla-eval keeps both apart.
"""

from ..errors import ConfigError
from ..spec import PolicySpec

ADDRESS = "noise_address"
WHOSE = {"inputs": "state_in_policy", "outputs": "state_out_policy"}  # sha256 of a state's policy
OPENPI = (
    "is_first",
    "is_last",
    "deterministic",
    "seed",
    "step",
    "session_id",
    "timeout_s",
    "carried",
    "seq",
)
IGNORED = ("prompt",)  # what the examples of openpi send to language-conditioned policies
INFERENCE = ("is_first", "deterministic", ADDRESS)  # and state_in_*, state_out_*
STATES = ("state_in_", "state_out_")
TAKEN = frozenset((*OPENPI, *IGNORED, *INFERENCE))


def check_names(model: str, spec: PolicySpec) -> None:
    """Refuse a policy that reads an observation of a name that is taken.

    Raises:
        ConfigError: naming it.
    """
    for key in spec.obs:
        if key in TAKEN or key.startswith(STATES):
            raise ConfigError(
                f'{model} reads the observation "{key}", a name that the protocols need '
                f"themselves (also {', '.join(sorted(TAKEN - {key}))}, state_in_*, state_out_*): "
                "rename it in the environment and learn again; runtime.load_policy runs it as it is"
            )
