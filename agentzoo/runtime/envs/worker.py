"""The program of a process that holds one environment; `subprocess_env` starts it and talks to it.

It imports what the environment needs and nothing of the learner: neither torch nor its main script.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, cast

import gymnasium as gym

from .backend import KEPT, StepResult, begun, reset_env, step_env
from .suite import Env
from .time_limit import time_limit
from .worker_process import connect

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LIFELINE = 0  # standard input: a pipe that the learner holds open and never writes to

Request = (
    tuple[Literal["reset"], int | None, dict[str, Any] | None]
    | tuple[Literal["step"], Any]
    | tuple[Literal["render"]]
    | tuple[Literal["close"]]
)
Answer = tuple[Literal["done"], Any] | tuple[Literal["failed"], str, str]  # sentence, traceback


def serve(where: str, *, infos: bool = False) -> None:
    """Make an environment and do what the connection asks, until it closes.

    Args:
        where: the connection is.
        infos: whether whole infos are sent, or only what transitions are made of.
    """
    connection: Connection[Answer, Any] = connect(where, LIFELINE)
    die_with_the_learner()
    try:
        env = _made(connection.recv().fn)
        spaces = env.observation_space, env.action_space
        connection.send(("done", (*spaces, env.metadata, time_limit(env))))
        while (request := connection.recv())[0] != "close":
            connection.send(("done", _result(env, request, infos)))
        env.close()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # nobody is there to be told
    except Exception as error:
        sentence = f"{type(error).__name__}: {error}"
        connection.send(("failed", sentence, traceback.format_exc()))


def die_with_the_learner() -> None:
    """End this process once the learner is gone.

    A process that only waits sees its connection close. This one is for those inside a step that
    never ends, which run no code of ours. On Linux the kernel kills the process and its children;
    elsewhere a thread ends the process alone, as soon as the step lets threads run.
    """
    if fcntl is not None and sys.platform == "linux":
        fcntl.fcntl(LIFELINE, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(LIFELINE, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(LIFELINE, fcntl.F_GETFL)
        fcntl.fcntl(LIFELINE, fcntl.F_SETFL, flags | os.O_ASYNC)
    else:
        threading.Thread(target=_end_at_the_end, daemon=True).start()


def _end_at_the_end() -> None:
    while os.read(LIFELINE, 1):
        pass
    os._exit(1)


def _made(make: Callable[[], object]) -> Env:
    env = make()
    if not isinstance(env, gym.Env):
        raise TypeError(
            f"the function made a {type(env).__name__}, expected a gymnasium.Env; return one"
        )
    return cast("Env", env)


def _result(env: Env, request: Request, infos: bool) -> Any:
    match request:
        case ("reset", seed, options):
            outcome = begun(*reset_env(env, seed, options))
        case ("step", action):
            outcome = StepResult(*step_env(env, action))
        case _:
            return env.render()
    kept = outcome.info if infos else {k: outcome.info[k] for k in KEPT if k in outcome.info}
    return tuple(outcome._replace(info=dict(kept)))
