"""Run a served policy with openpi's own client (pip install openpi-client typing_extensions).

agentzoo serve cartpole &
python examples/act_with_openpi.py
"""

import sys
from collections.abc import Iterable

import numpy as np


def main(observations: Iterable[np.ndarray] = (), host: str = "127.0.0.1", port: int = 8000):
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    client = WebsocketClientPolicy(host, port)
    key, space = next(iter(client.get_server_metadata()["observation_space"].items()))
    actions = []
    for t, observation in enumerate(observations or np.zeros((3, *space["source"]), np.float32)):
        # its client knows no episodes: the first observation of each has to say so
        reply = client.infer({key: observation, "is_first": t == 0})
        actions.append(reply["actions"][0])
    print(f"{len(actions)} actions, the last is {actions[-1]}")
    return actions


if __name__ == "__main__":
    main(port=int(sys.argv[1]) if sys.argv[1:] else 8000)
