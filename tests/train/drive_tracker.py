"""Log a run in two sittings through the real client of a tracker, and say what it kept, as JSON.

drive_tracker.py wandb|mlflow|trackio FOLDER: run by an interpreter that has them, without torch.
"""

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from agentzoo.train.logger import Logger
from agentzoo.train.sinks.sink import Film, RunFacts, chosen_sinks

FRAMES = np.zeros((3, 8, 8, 3), np.uint8)


def sitting(name: str, folder: Path, resume: int | None, *steps: int) -> None:
    picture, video = folder / "learning_curve.png", folder / "dream_image.mp4"
    Image.new("RGB", (4, 4), (255, 0, 0)).save(picture)
    video.write_bytes(b"\0\0\0\x18ftypmp42")
    facts = RunFacts(
        folder=folder, agent="Dreamer", env="dmc:walker-walk?repeat=2", seed=3,
        settings={"lr": 1e-3, "units": (3, 4)},
    )  # fmt: skip
    sinks = chosen_sinks(name)
    with Logger(folder, sinks=sinks, facts=facts, resume_step=resume) as logger:
        for step in steps:
            logger.write(step, {"loss/dyn": step / 10, "odd": float("nan")})
        logger.picture(steps[-1], "learning_curve", picture)
        logger.film(steps[-1], "dream_image", Film(frames=FRAMES, fps=10, path=video))


def wandb_records(path: Path) -> Iterator[bytes]:
    """The records of a W&B log: LevelDB's blocks, after seven bytes of its own."""
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:  # a block's last bytes hold no header
            at += 2**15 - at % 2**15
            continue
        length, kind = struct.unpack_from("<4xHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def wandb_kept(folder: Path) -> dict[str, object]:
    from wandb.proto import wandb_internal_pb2

    def records(path: Path) -> Iterator[wandb_internal_pb2.Record]:
        for data in wandb_records(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            yield record

    def whole(path: Path) -> bool:
        return any(record.WhichOneof("record_type") == "exit" for record in records(path))

    kept: dict[str, list[object]] = {"runs": [], "titles": [], "config": [], "lines": []}
    paths = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    patience = time.monotonic() + 60  # W&B's own process may still be writing
    while not all(whole(path) for path in paths) and time.monotonic() < patience:
        time.sleep(0.05)
    for path in paths:
        for record in records(path):
            if record.WhichOneof("record_type") == "run":
                kept["runs"].append(record.run.run_id)
                kept["titles"].append(record.run.display_name)
                given = {one.key: json.loads(one.value_json) for one in record.run.config.update}
                kept["config"].append({key: given[key] for key in given if key[0] != "_"})
            elif record.WhichOneof("record_type") == "history":
                line = {one.key or "/".join(one.nested_key): json.loads(one.value_json)
                        for one in record.history.item}  # fmt: skip
                if "loss/dyn" in line:
                    kept["lines"].append([line["env_step"], line["loss/dyn"]])
    media = folder.glob("wandb/offline-run-*/files/media/*/*")
    return {**kept, "media": sorted(path.suffix for path in media)}


def mlflow_kept(folder: Path) -> dict[str, object]:
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("agentzoo")
    runs = client.search_runs([experiment.experiment_id])
    run = runs[0]
    history = client.get_metric_history(run.info.run_id, "loss/dyn")
    return {
        "runs": len(runs),
        "title": run.info.run_name,
        "status": run.info.status,
        "params": run.data.params,
        "lines": [[one.step, one.value] for one in sorted(history, key=lambda one: one.step)],
        "files": [one.path for part in ("pictures", "films")
                  for one in client.list_artifacts(run.info.run_id, part)],
    }  # fmt: skip


def trackio_kept(folder: Path) -> dict[str, object]:
    from trackio.sqlite_storage import SQLiteStorage

    runs = SQLiteStorage.get_runs("agentzoo")
    logs = SQLiteStorage.get_logs("agentzoo", runs[0])
    return {
        "runs": runs,
        "config": SQLiteStorage.get_run_config("agentzoo", runs[0]),
        "lines": [[one["step"], one["loss/dyn"]] for one in logs if "loss/dyn" in one],
        "media": sorted(one[key]["_type"] for one in logs for key in one
                        if isinstance(one[key], dict)),
    }  # fmt: skip


if __name__ == "__main__":
    name, place = sys.argv[1], Path(sys.argv[2])
    sitting(name, place, None, 10, 20, 30)
    ended = int(time.time())
    while int(time.time()) == ended:  # W&B names a sitting's folder by the second it began in
        time.sleep(0.02)
    sitting(name, place, 20, 25)
    kept = {"wandb": wandb_kept, "mlflow": mlflow_kept, "trackio": trackio_kept}[name]
    print(json.dumps(kept(place)))
