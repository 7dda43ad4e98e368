"""Drive one harness' own client; runs in that client's environment, not in this project's.

python drive_harness_client.py NAME PORT < task.json: prints what came back as JSON.
"""

import asyncio
import contextlib
import json
import sys

import numpy as np


def openpi(port, task):
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    client = WebsocketClientPolicy(task.get("host", "127.0.0.1"), port, api_key=task.get("key"))
    actions = []
    for episode in task["episodes"]:
        client.reset()  # sends nothing: hence the flag
        for t, vector in enumerate(episode):
            obs = {"observation": np.asarray(vector, np.float32), "prompt": "balance"}
            reply = client.infer({**obs, "is_first": True} if t == 0 else obs)
            actions.append(reply["actions"][0].tolist())
    said = ""
    try:
        client.infer({"observation": np.full(4, np.nan)})
    except RuntimeError as error:
        said = str(error)
    return {"actions": actions, "metadata": client.get_server_metadata()["model_id"], "said": said}


def openpi_image(port, task):
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    client = WebsocketClientPolicy("127.0.0.1", port)
    obs = {key: np.asarray(value) for key, value in task["obs"].items()}
    obs["image"] = obs["image"].astype(np.uint8)
    return {"actions": client.infer(obs)["actions"][0].tolist()}


def vla_eval(port, task):
    return asyncio.run(_vla_eval(port, task))


async def _vla_eval(port, task):
    from vla_eval.connection import Connection

    actions = []
    async with Connection(f"ws://127.0.0.1:{port}/vla") as connection:
        for episode in task["episodes"]:
            await connection.start_episode({"task": "balance"})
            for vector in episode:
                obs = {"observation": np.asarray(vector, np.float32), "task_description": "x"}
                actions.append((await connection.act(obs))["actions"].tolist())
            await connection.end_episode({"success": True})
        await connection.start_episode({})
        said = ""
        try:
            await connection.act({"observation": np.full(4, np.nan)})
        except RuntimeError as error:
            said = str(error)
        again = await connection.act({"observation": np.zeros(4, np.float32)})
        server = connection.server_info["model_server"]
    return {
        "actions": actions,
        "said": said,
        "server": server,
        "again": again["actions"].tolist(),
    }


def vla_eval_full(port, task):
    return asyncio.run(_vla_eval_full(port, task))


async def _vla_eval_full(port, task):
    """Three episodes; while the second wants to begin, somebody else has the only place."""
    from vla_eval.connection import Connection

    actions, said = [], ""
    url = f"ws://127.0.0.1:{port}/vla"
    async with Connection(url) as connection, Connection(url) as other:
        for number, episode in enumerate(task["episodes"]):
            if number == 1:
                await other.start_episode({})
                await other.act({"observation": np.zeros(4, np.float32)})
            await connection.start_episode({"seed": number})
            for vector in episode:
                try:
                    found = await connection.act({"observation": np.asarray(vector, np.float32)})
                    actions.append(found["actions"].tolist())
                except RuntimeError as error:
                    said = str(error)
            await connection.end_episode({})
            if number == 1:
                await other.end_episode({})
                with contextlib.suppress(RuntimeError):  # answered once the place is free
                    await other.act({"observation": np.zeros(4, np.float32)})
    return {"actions": actions, "said": said}


def vla_eval_image(port, task):
    return asyncio.run(_vla_eval_image(port, task))


async def _vla_eval_image(port, task):
    from vla_eval.connection import Connection

    obs = {key: np.asarray(value) for key, value in task["obs"].items()}
    payload = {"images": {"front": obs.pop("image").astype(np.uint8)}, **obs}  # sent as PNG
    async with Connection(f"ws://127.0.0.1:{port}/vla") as connection:
        await connection.start_episode({})
        return {"actions": (await connection.act(payload))["actions"].tolist()}


def triton(port, task):
    import tritonclient.http as http
    from tritonclient.utils import InferenceServerException

    client = http.InferenceServerClient(f"127.0.0.1:{port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("a")
    actions = []
    for number, episode in enumerate(task["episodes"], start=1):
        for t, vector in enumerate(episode):
            sent = http.InferInput("observation", [1, len(vector)], "FP32")
            binary = number % 2 == 1  # both ways of writing a tensor
            sent.set_data_from_numpy(np.asarray([vector], np.float32), binary_data=binary)
            wanted = [http.InferRequestedOutput("action", binary_data=binary)] if t % 2 else None
            found = client.infer(
                "a",
                [sent],
                outputs=wanted,
                request_id=f"{number}_{t}",
                sequence_id=number if binary else f"s{number}",
                sequence_start=t == 0,
                sequence_end=t == len(episode) - 1,
            )
            assert found.get_response()["id"] == f"{number}_{t}"
            actions.append(found.as_numpy("action")[0].tolist())
    said = ""
    try:
        client.infer("a", [sent], sequence_id=99)
    except InferenceServerException as error:
        said = error.message()
    return {
        "actions": actions,
        "said": said,
        "inputs": [one["name"] for one in client.get_model_metadata("a")["inputs"]],
        "server": client.get_server_metadata()["name"],
        "index": client.get_model_repository_index(),
        "stateless": _stateless(http, client, task["episodes"][0]),
    }


def _stateless(http, client, observations):
    """The client carries the state, two elements at a time."""
    carried, actions = [], []
    for t in range(0, len(observations), 2):
        sent = http.InferInput("observation", [2, len(observations[0])], "FP32")
        sent.set_data_from_numpy(np.asarray(observations[t : t + 2], np.float32))
        found = client.infer("a", [sent, *carried])
        actions.append(found.as_numpy("action").tolist())
        carried = []
        for one in found.get_response()["outputs"]:
            if one["name"] != "action":
                name = one["name"].replace("state_out", "state_in")
                carried.append(http.InferInput(name, one["shape"], one["datatype"]))
                carried[-1].set_data_from_numpy(found.as_numpy(one["name"]))
    return actions


if __name__ == "__main__":
    name, port = sys.argv[1:]
    print(json.dumps(globals()[name](int(port), json.load(sys.stdin))))
