"""The job of a worker of the page."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Job:
    """A worker's job.

    Attributes:
        view: "watch" or "play".
        folder: the bundle's.
        seed: of the environment and of all noise.
        deterministic: whether the policy's actions are the mode; None is its protocol.
        plan: changes of its planner's settings; "" is none.
        context: observations before a dream begins.
        fps: decisions a second; None is the environment's own pace.
    """

    view: str
    folder: str
    seed: int = 0
    deterministic: bool | None = None
    plan: str = ""
    context: int = 5
    fps: float | None = None
