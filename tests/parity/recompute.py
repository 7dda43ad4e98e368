"""Our agent's numbers of a case, under the names that the case's file has for them."""

import sys
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from tests.parity.case import Arrays, Case, Script


def recomputed(case: Case, overrides: Mapping[str, object]) -> Arrays:
    """Every term of the case: learned with `case.updates` updates, then acted afresh."""
    return {**learn(case, overrides), **act(case, overrides)}


class Recorder:
    """Keeps arrays by name, of the first time that each is seen."""

    def __init__(self) -> None:
        self.arrays: Arrays = {}

    def keep(self, prefix: str, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.arrays.setdefault(prefix + name, value.detach().clone().numpy())


def learn(case: Case, overrides: Mapping[str, object]) -> Arrays:
    """Metrics of each update, what led to the first step, weights after each.

    Losses of single transitions, returns and gradients are no results of `update`; the parts that
    compute them are watched: `losses` of the decoder, `loss` of a head's prediction, `kl` of the
    latent, the module's `lambda_return`, and `step` of the optimisers.
    """
    algorithm, recorder = case.build(overrides), Recorder()
    watch_losses(algorithm, recorder)
    watch_gradients(algorithm, recorder)
    metrics: dict[str, list[float]] = {}
    returns: list[Tensor] = []
    with watched_returns(algorithm, returns):
        for update in range(1, case.updates + 1):
            script = Script(case)
            found, write_back = algorithm.update(case.tensors("batch/"), script)
            assert not script.left, f"draws that update() did not ask for: {script.left}"
            for name, value in found.items():
                metrics.setdefault(name, []).append(value.item())
            recorder.keep("write_back/", write_back)
            recorder.keep(f"after/{update}/", algorithm.state_dict())
    recorder.keep("return/", {str(i): one for i, one in enumerate(returns)})
    recorder.keep("metric/", {name: torch.tensor(one) for name, one in metrics.items()})
    return recorder.arrays


def watch_losses(algorithm: Any, recorder: Recorder) -> None:
    """Record each transition's losses, before means and free nats."""
    watched = [
        (algorithm.decoder, "losses", "decoder."),
        (algorithm.rssm.latent, "kl", "kl"),
    ]

    def losses(name: str) -> Callable[[Any, Any], None]:
        return lambda _, loss: recorder.keep(
            f"rows/{name}", loss if isinstance(loss, dict) else {"": loss}
        )

    for owner, method, name in watched:
        setattr(owner, method, spied(getattr(owner, method), losses(name)))
    for name in ("reward", "cont"):
        if (head := getattr(algorithm, name, None)) is not None:
            head.prediction = watched_prediction(head.prediction, losses(name))


def watched_prediction(
    predict: Callable[[Tensor], Any], seen: Callable[[Any, Any], object]
) -> Callable[[Tensor], Any]:
    """A head's `prediction`, of which `seen` gets every loss."""

    class Watched:
        def __init__(self, stats: Tensor) -> None:
            self._inner = predict(stats)

        def loss(self, *targets: Any) -> Tensor:
            return spied(self._inner.loss, seen)(*targets)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    return Watched


def watch_gradients(algorithm: Any, recorder: Recorder) -> None:
    """Record gradients as the optimisers get them, before clipping."""

    def named(names: list[str]) -> Callable[[Any, Any], None]:
        return lambda args, _: recorder.keep("grad/", dict(zip(names, args[0], strict=True)))

    for optimizer in algorithm.optimizers().values():
        optimizer.step = spied(optimizer.step, named(optimizer.names))


def watched_returns(algorithm: Any, returns: list[Tensor]) -> Any:
    """Record what the recipe's `lambda_return` gives; a planner has none."""
    module = sys.modules[type(algorithm).__module__]
    function = getattr(module, "lambda_return", None)
    spy = None if function is None else spied(function, lambda _, ret: returns.append(ret))
    return mock.patch.object(module, "lambda_return", spy, create=True)


def spied(function: Callable[..., Any], seen: Callable[[Any, Any], object]) -> Callable[..., Any]:
    """The function; `seen` gets each call's arguments and result."""

    def spy(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        seen(args, result)
        return result

    return spy


@torch.no_grad()
def act(case: Case, overrides: Mapping[str, object]) -> Arrays:
    """Decide with the first weights: the mode and a sample, or a plan; then explore."""
    algorithm, recorder = case.build(overrides), Recorder()
    carry, obs, noise = (case.tensors(f"act/{kind}/") for kind in ("carry", "obs", "noise"))
    after: dict[str, Tensor] = {}
    for name, greedy in (("greedy", True), ("sample", False)):
        deterministic = torch.full(obs["is_first"].shape, greedy)
        after, _ = algorithm.step(carry, obs, noise, deterministic)
        recorder.keep("action/", {name: after["prev_action"]})
    recorder.keep("carry/", {name: after[name] for name in ("deter", "stoch")})
    if "explore" in noise:
        # a planner's action is neither greedy nor a sample
        recorder.keep("action/", {"planned": after["prev_action"]})
        explored = algorithm.explore(after, noise, 0, 1)[0]
        recorder.keep("action/", {"explored": explored["prev_action"]})
    return recorder.arrays
