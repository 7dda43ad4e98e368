"""A state that a client carries, read back without trusting it.

A state is of one policy: its numbers mean nothing to another one, be it another model or what
replaced this one while the client acted. So it names its policy by the sha256 that metadata and
replies name, and is refused elsewhere; any replica of the same bundle goes on with it.
"""

from collections.abc import Mapping

import numpy as np

from ..client.msgpack_arrays import is_array, malformed
from ..errors import NotFiniteError, ServingError
from ..policy.policy import PolicyState
from ..spec import Array, Arrays, PolicySpec


def check_policy(given: object, digest: str) -> None:
    """Refuse the state of another policy.

    Args:
        given: sha256 that came with the state.
        digest: sha256 of the policy that is asked.

    Raises:
        ServingError: "malformed" if none came, "other_version" if it is another's.
    """
    if not isinstance(given, str) or not given:
        raise malformed("the state does not say whose it is; send back all that the server gave")
    if given != digest:
        raise ServingError(
            f"the state is of the policy {given[:12]}, and {digest[:12]} is served here by now; "
            "begin an episode",
            "other_version",
        )


def read_state(spec: PolicySpec, carry: Mapping[str, object], address: object) -> PolicyState:
    """The state of B batch elements from what a client sent.

    Args:
        spec: the policy's, which says what a carry is.
        carry: name -> array (B, *shape), for all of the carry's names.
        address: (B, 3) int64 array, none below 0.

    Raises:
        ServingError: "malformed", if a part is missing or of another shape or type.
        NotFiniteError: if the carry holds NaN or infinity.
    """
    if not is_array(address) or address.dtype != np.int64:
        raise malformed("the state's address is no int64 array; send back what the server gave")
    if address.ndim != 2 or address.shape[1] != 3 or (address < 0).any():
        raise malformed(f"the state's address has shape {address.shape}, expected (batch, 3)")
    if carry.keys() != spec.carry.keys():
        raise malformed(
            f"the state holds {', '.join(carry)[:80]}, expected {', '.join(spec.carry)}"
        )
    read: Arrays = {
        name: _tensor(name, carry[name], (len(address), *one.shape), one.dtype)
        for name, one in spec.carry.items()
    }
    return PolicyState(read, address)


def _tensor(name: str, value: object, shape: tuple[int, ...], dtype: str) -> Array:
    if not is_array(value) or (value.shape, str(value.dtype)) != (shape, dtype):
        raise malformed(f"the state's {name} is not a {dtype} array of shape {shape}")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise NotFiniteError(f"the state's {name} holds NaN or infinity; begin an episode")
    return value
