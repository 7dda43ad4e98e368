"""Training: collect, store, update, and whatever is due, until the step budget is spent."""

import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType

import numpy as np
import torch

from agentzoo.runtime.envs import Adapter
from agentzoo.runtime.errors import RunError
from agentzoo.runtime.policy.noise import derive_seed
from agentzoo.runtime.policy.spaces import describe_spaces

from ..algorithm import Algorithm, Metrics, Pooling, module
from ..blocks.optim import Adam
from ..compiling import wanted
from ..config import AgentConfig, to_json
from ..contract import check_collecting, check_names, check_schedule, first_update
from ..ranks import LostRankError, ranks
from ..replay.buffer import ReplayBuffer
from ..replay.prefetch import Batches
from . import checkpoint
from .checkpoint import Counters
from .collector import Collector, Episode
from .cuda_graph import updater
from .events import Callback, Learner
from .logger import Logger
from .parent import WARMUP, Parent
from .progress import ProgressBar, duration
from .sinks.sink import RunFacts, Sink

TIMED_UPDATES = 5  # updates timed before the whole run's duration is told
SLOW_UPDATE_S = 2.0  # an update slower than this on a CPU is meant for a GPU
GRACE = 10_000  # steps of an environment without a time limit before its episode is cut


@dataclass
class Training:
    """One sitting of a run; callbacks are given this object.

    Attributes:
        learner: what learns, and how it is saved.
        folder: the run's folder.
        adapter: the environments.
        replay: what was collected so far.
        counters: where the run stands.
        logger: metrics.jsonl, and the sinks that show it elsewhere.
        bar: the line in the terminal.
        callbacks: told about every event.
        returns: (env_step, return) of finished collection episodes of this sitting.
        stop: set to end the run after the current update, with a checkpoint.
        signalled: the signal that asked for it, SIGINT or SIGTERM; None where none did.
    """

    learner: Learner
    folder: Path
    adapter: Adapter
    replay: ReplayBuffer
    counters: Counters
    logger: Logger
    bar: ProgressBar
    callbacks: Sequence[Callback]
    returns: list[tuple[int, float]] = field(default_factory=list)
    stop: bool = False
    signalled: signal.Signals | None = None

    def __post_init__(self) -> None:
        """Wire the collector and the schedule from the agent's configuration."""
        config, parent = self.learner.config, self.learner.parent
        self.ranks = ranks()
        self.counters.ranks = self.ranks.count
        self._envs = self.ranks.count * len(self.adapter)  # of all learners
        # a policy that can act needs no random actions; with its replay, no waiting either
        prefill = config.prefill if parent is None else 0
        scheduled = config
        if parent is not None and parent.has_replay:
            scheduled = replace(config, prefill=0, pretrain=0)
        self.schedule = scheduled.schedule(self.adapter.repeat)
        check_schedule(config, self.schedule)
        if parent is not None and not parent.has_optimizer:
            for optimizer in self.learner.algorithm.optimizers().values():
                if isinstance(optimizer, Adam):
                    optimizer.warmup = max(optimizer.warmup, WARMUP)  # some agents have their own
        self.collector = Collector(
            self.learner.algorithm,
            self.adapter,
            self.replay,
            self.counters,
            self.learner.seed,
            prefill,
            self.learner.device,
            first_env=self.ranks.rank * len(self.adapter),
        )
        self.batches = Batches(
            self.replay,
            self.learner.algorithm.sampler,
            self.ranks.part("batch_size", config.batch_size),
            config.batch_length,
            self.ranks.seed(self.learner.seed),
            self.learner.device,
        )
        on = wanted(config) == "on"
        self._learn = updater(
            self.learner.algorithm, self.learner.device, config.capture, compiled=on
        )
        self._metrics: list[Metrics] = []
        self._finished: list[Episode] = []
        self._update_seconds: list[float] = []
        self._interval = config.checkpoint_every * self._envs
        self._due_checkpoint = self._next(self._interval)
        self._grace = checkpoint_grace(config, self.adapter)
        self._overlong = 0  # episodes longer than replay that were told of
        self._overdue = 0  # steps that each environment may have taken since a checkpoint was due
        self._due_log = self._next(config.log_every)
        self._first_update = self.counters.updates
        self._logged = (time.monotonic(), self.counters.env_step, self.counters.updates)

    def run(self, total: int) -> None:
        """Go on until `total` environment steps of the run, or until stopped.

        A stopped run leaves a checkpoint marked interrupted.

        Raises:
            RunError: if it has diverged, or another learner is lost.
        """
        if self.ranks.first:
            self._forget_later_best()
        try:
            self._run(total)
        except LostRankError as error:
            raise RunError(
                f"{error}; this run stops at step {self.counters.env_step:,}{self._standing()}. "
                "Start all processes again with the same command and run= (--run)"
            ) from error

    def _run(self, total: int) -> None:
        self.collector.total_steps = total
        self._require_same_weights()
        self._pool()
        self._tell("on_start")
        self._say_grace()
        with interruptible(self):
            with self.batches:
                if self.counters.checkpoints == 0:
                    self._checkpoint()
                while self.counters.env_step < total and not self._stopping():
                    self._advance(total)
                self.counters.final_due = False
                if self.counters.env_step >= total:
                    self.stop = self.signalled is not None  # a callback has nothing left to end
                    self._tell("on_total")
            self.counters.interrupted = self.counters.env_step < total
            if self.counters.interrupted:
                self._cut()
            if self.ranks.any(bool(self._finished or self._metrics)):
                self._log()
            self._checkpoint(last=True)
            self._tell("on_end")

    def _advance(self, total: int) -> None:
        """One decision of every environment, and all that it makes due."""
        counters = self.counters
        counters.env_step += self.ranks.total(self._collect())
        self._wait()
        overdue = self.collector.holding and self._overdue >= self._grace
        if counters.env_step >= total or overdue:
            self.collector.cut()
        self._decide()
        self._tell("on_step")
        self._hold(total)
        if counters.env_step < total and not self.stop:
            self.collector.dispatch()  # environments in processes step while updates are made
        self._pay()
        if counters.env_step >= self._due_log:
            self._log()
        self._maybe_checkpoint(total)

    def _collect(self) -> int:
        """Bring this learner's environments to their next observations; the environment steps."""
        if not self.collector.can_advance:
            return 0  # all are held back, and wait for other learners'
        steps = self.collector.advance()
        for env, why in self.collector.lost.items():
            self.bar.warn(f"the world of environment {env} was lost, the next begins: {why}")
        return steps

    def _stopping(self) -> bool:
        """Whether a learner was asked to stop; here all of them learn of it."""
        asked = self.ranks.most(int(self.signalled or self.stop))
        if asked:
            self.stop = True
        if asked > 1 and self.ranks.count > 1:
            self.signalled = signal.Signals(asked)
        return self.stop

    def _pool(self) -> None:
        """Bring together what learners have measured of what each has collected."""
        if self.ranks.count > 1:
            for part in module(self.learner.algorithm).modules():
                if isinstance(part, Pooling):
                    part.pool()

    def _decide(self) -> None:
        finished = self.collector.decide()
        self._pool()
        for episode in finished:
            self.counters.episodes += 1
            self._finished.append(episode)
            self.returns.append((self.counters.env_step, episode.total_reward))
            self._tell("on_episode", episode)
        self.counters.episodes += self.ranks.total(len(finished)) - len(finished)
        if self.counters.env_step <= self.schedule.prefill:
            self.counters.prefill_episodes = self.counters.episodes
        self._show()

    def _pay(self) -> None:
        """Do the updates that are due, as soon as the replay has a window."""
        counters, config = self.counters, self.learner.config
        due = self.schedule.due(counters.env_step, counters.episodes - counters.prefill_episodes)
        sampler = self.learner.algorithm.sampler
        while counters.updates < due and not self._stopping():
            if not self.ranks.all(sampler.ready(self.replay, config.batch_length)):
                return
            self._update(more=counters.updates + 1 < due)
        self.batches.drop()

    def _update(self, *, more: bool) -> None:
        """One update; with `more` another one follows before replay gets more."""
        started, counters, learner = time.monotonic(), self.counters, self.learner
        batch, drawn = self.batches.take(counters.updates, more=more)
        measured = self._learn.warm
        seed = derive_seed(learner.seed, "update", counters.updates)
        if counters.updates == self._first_update:
            metrics, back = first_update(learner.algorithm, self._learn, batch, seed)
        else:
            metrics, back = self._learn(batch, seed)
        if back:
            self.replay.write_back(drawn, {n: t.cpu().numpy() for n, t in back.items()})
        counters.updates += 1
        self._metrics.append(metrics)
        self._tell("on_update", metrics)
        self._show()
        if measured and len(self._update_seconds) < TIMED_UPDATES:
            if learner.device.type == "cuda":
                torch.cuda.synchronize(learner.device)  # these few alone are waited for
            self._announce(time.monotonic() - started)

    def _announce(self, seconds: float) -> None:
        """After the first updates, say how long the whole run will take."""
        self._update_seconds.append(seconds)
        if len(self._update_seconds) != TIMED_UPDATES:
            return
        median = float(np.median(self._update_seconds))
        ahead = self._updates_ahead()
        if ahead is not None:
            self.bar.note(
                f"about {duration(ahead * median)} of updates ahead: {ahead:,} of {median:.2f} s "
                "each"
            )
        if self.learner.device.type == "cpu" and median > SLOW_UPDATE_S:
            self.bar.note(
                f"an update takes {median:.1f} s here: this preset is meant for a GPU; "
                'preset="cpu" learns small tasks on a CPU in minutes'
            )

    def _updates_ahead(self) -> int | None:
        """Updates that are left, where the steps alone decide."""
        if not self.schedule.counts_steps:
            return None
        return self.schedule.due(self.bar.total, 0) - self.counters.updates

    def _log(self) -> None:
        """Write one line: means over the updates and the episodes since the last one."""
        now, counters = time.monotonic(), self.counters
        then, env_step, updates = self._logged
        seconds = max(now - then, 1e-9)
        waited = self.ranks.total(counters.waited)
        collected = self.ranks.total(sum(counters.transitions))
        finished = episodes_of_all(self._finished)
        line = {
            "time/updates": counters.updates,
            "time/episodes": counters.episodes,
            "time/fps": (counters.env_step - env_step) / seconds,
            "time/updates_per_s": (counters.updates - updates) / seconds,
            "time/checkpoint_wait": waited / max(waited + collected, 1),
            "replay/rows": self.ranks.total(len(self.replay)),
        }
        if finished:
            rewards = [episode.total_reward for episode in finished]
            line["rollout/ep_rew_mean"] = float(np.mean(rewards))
            line["rollout/ep_len_mean"] = float(np.mean([e.length - 1 for e in finished]))
            line |= reached(finished)
        learned = means_of_all(self._metrics)
        self.log(line | learned)
        self._require_finite(learned)
        if self.replay.unsealed:
            self.bar.warn(
                f"{self.replay.folder} has no room: {self.replay.unsealed / 1e6:,.0f} MB "
                "wait in memory; make room on the disk"
            )
        if self.replay.overlong > self._overlong:
            self._overlong = self.replay.overlong
            self.bar.warn(
                f"episodes longer than the {self.replay.capacity:,} transitions that replay holds "
                f"of an environment: {self._overlong:,} in this sitting; their beginnings are "
                "gone, and what learns from whole episodes leaves them out; set replay_rows "
                "higher, or envs lower"
            )
        self._metrics, self._finished = [], []
        self._logged = (now, counters.env_step, counters.updates)
        self._due_log = self._next(self.learner.config.log_every)

    def log(self, metrics: Mapping[str, float]) -> None:
        """Write a line of the log at this step, and tell the callbacks."""
        self.logger.write(self.counters.env_step, metrics)
        self._tell("on_log", {"env_step": self.counters.env_step, **metrics})

    def _hold(self, total: int) -> None:
        """Hold environments at their episode's end when a checkpoint is due."""
        late = self.counters.env_step - self._due_checkpoint
        if self._interval and self.counters.env_step < total and late >= 0:
            if not self.collector.holding:
                self._overdue = late // self._envs
            self.collector.holding = True

    def _wait(self) -> None:
        """Count what a due checkpoint costs: steps it is overdue, decisions that are let pass."""
        if self.collector.holding:
            self._overdue += self.adapter.repeat
            self.counters.waited += len(self.adapter) - len(self.collector.active)

    def _say_grace(self) -> None:
        """Say where an episode may be cut although nobody knows how long it would have been."""
        config, unknown = self.learner.config, self.adapter.time_limit is None
        if config.checkpoint_every and config.checkpoint_grace is None and unknown:
            self.bar.note(
                f"the environment names no time limit: an episode still open {GRACE:,} of its "
                "steps after a checkpoint is due is cut there; set checkpoint_grace if episodes "
                "are longer"
            )

    def _maybe_checkpoint(self, total: int) -> None:
        """Take a checkpoint when all environments are held; at the end comes one in any case."""
        due = self.collector.holding and self.counters.env_step < total
        if due and self.ranks.all(not self.collector.active):
            self._checkpoint()
            self.collector.holding, self._overdue = False, 0

    def _cut(self) -> None:
        """End open episodes where they stand; what is stored is whole episodes."""
        self.collector.holding = True  # no new episode begins here
        if self.ranks.any(bool(self.collector.active)):
            self.counters.env_step += self.ranks.total(self._collect())
            self.collector.cut()
            self._decide()

    def _require_finite(self, metrics: Mapping[str, float]) -> None:
        """Stop a run whose losses or weights are no numbers any more, before they are kept.

        Actions do not show it: the largest of NaNs is the first, which is an action like any other.

        Raises:
            RunError: naming them, and the checkpoint that stands.
        """
        lost = [f"{name} is {m}" for name, m in metrics.items()
                if name.startswith("loss/") and not math.isfinite(m)]  # fmt: skip
        lost += [f"{name} holds NaN or infinity" for name in not_finite(self.learner.algorithm)]
        if not lost:
            return
        named = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        raise RunError(
            f"the run has diverged by step {self.counters.env_step:,}: {named}; it "
            f"stops here{self._standing()}. Look for observations or rewards of extreme size, or "
            "begin another run with smaller learning rates"
        )

    def _standing(self) -> str:
        """The checkpoint that a run which ends here leaves, as the end of a clause."""
        newest = checkpoint.newest(self.folder / "checkpoints")
        if newest is None:
            return ""
        step = Counters.read(newest / "training").env_step
        return f", and the checkpoint {newest} of step {step:,} stands"

    def _checkpoint(self, *, last: bool = False) -> None:
        self._require_finite(means_of_all(self._metrics))
        self._require_same_weights()
        self.counters.checkpoints += 1
        self._due_checkpoint = self._next(self._interval)
        self.collector.reset_annotation()
        root = self.folder / "checkpoints"
        try:
            path = self._save(root)
        except OSError as error:
            self._lose_checkpoint(error, checkpoint.newest(root), last)
        else:
            if self.ranks.first:
                checkpoint.keep_newest(self.folder / "best", 1)
            self._tell("on_checkpoint", path)

    def _save(self, root: Path) -> Path:
        """Write a checkpoint: rank 0 the whole, into which it moves the parts of the others.

        Raises:
            OSError: if a part or the whole cannot be written; then all learners raise it.
        """
        number = self.counters.checkpoints
        if self.ranks.count == 1:
            return checkpoint.save(root, number, self._write_checkpoint)
        on_ranks(self._write_part)
        on_ranks(lambda: checkpoint.save(root, number, self._write_checkpoint), first=True)
        return root / f"{number:06d}"

    def _write_part(self) -> None:
        """This learner's replay and counters, where rank 0 finds them."""
        if self.ranks.first:
            return
        part = self.ranks.own(self.folder) / "part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        self.replay.save(part / "replay")
        self.counters.write(part)

    def _require_same_weights(self) -> None:
        algorithm = self.learner.algorithm
        self.ranks.require_same(module(algorithm).state_dict(), "the weights")
        for name, optimizer in algorithm.optimizers().items():
            self.ranks.require_same(optimizer.state_dict(), f"the numbers of the optimiser {name}")

    def _forget_later_best(self) -> None:
        """Remove best policies of evaluations that the checkpoint does not know of."""
        checkpoint.remove_beyond(self.folder / "best", self.counters.evaluations)
        if checkpoint.newest(self.folder / "best") is None:
            self.counters.best_return = None  # an earlier version kept none but the last

    def keep_best(self, mean_reward: float) -> bool:
        """Keep these weights as `best/` if no evaluation before had so high a mean return."""
        counters = self.counters
        if counters.best_return is not None and mean_reward < counters.best_return:
            return False
        counters.best_return, counters.best_step = mean_reward, counters.env_step

        def write(folder: Path) -> None:
            self.learner.save(folder, counters.env_step)

        try:
            # the one before stands until a checkpoint knows of this one
            checkpoint.save(self.folder / "best", counters.evaluations, write, kept=None)
        except OSError as error:
            self.bar.warn(f"the best policy so far cannot be kept: {error}; make room on the disk")
        return True

    def _lose_checkpoint(self, error: OSError, newest: Path | None, last: bool) -> None:
        """Go on without a checkpoint that cannot be written, where an earlier one stands.

        The environments were held and reset for it all the same, so the run stays what it was.
        """
        said = f"checkpoint {self.counters.checkpoints} cannot be written: {error}"
        if newest is None:
            raise RunError(f"{said}; make room, or let the run have another folder") from error
        step = Counters.read(newest / "training").env_step
        stands = f"{newest} of step {step:,} stands"
        if last:
            raise RunError(
                f"{said}; {stands}: make room and go on from there with run={str(self.folder)!r}, "
                "or save the agent elsewhere"
            ) from error
        self.bar.warn(
            f"{said}; the run goes on, and {stands}; make room before the next one is due, at step "
            f"{self._due_checkpoint:,}"
        )

    def _write_checkpoint(self, folder: Path) -> None:
        self.learner.save(folder, self.counters.env_step)
        training = folder / "training"
        training.mkdir()
        for name, optimizer in self.learner.algorithm.optimizers().items():
            checkpoint.write_tensors(training / f"{name}.safetensors", optimizer.state_dict())
        self.replay.save(training / "replay")
        self.counters.write(training)
        for rank in range(1, self.ranks.count):
            other = replace(self.ranks, rank=rank)
            (other.own(self.folder) / "part").rename(other.own(training))

    def restore(self, folder: Path) -> None:
        """Take optimisers and replay from a checkpoint; the agent took its weights already."""
        training = folder / "training"
        for name, optimizer in self.learner.algorithm.optimizers().items():
            optimizer.load_state_dict(checkpoint.read_tensors(training / f"{name}.safetensors"))
        self.replay.restore(self.ranks.own(training) / "replay")

    def inherit(self, folder: Path, parent: Parent) -> None:
        """Begin with what a parent's checkpoint holds; the agent took its weights already."""
        checkpoint.require_whole(folder)
        training = folder / "training"
        if parent.has_optimizer:
            for name, optimizer in self.learner.algorithm.optimizers().items():
                optimizer.load_state_dict(checkpoint.read_tensors(training / f"{name}.safetensors"))
        if parent.has_replay:
            self.replay.restore(training / "replay")

    def _next(self, every: int) -> int:
        """The next multiple of `every` environment steps."""
        return (self.counters.env_step // every + 1) * every if every else 0

    def _show(self) -> None:
        learning = self.counters.updates > self._first_update
        self.bar.update(
            self.counters.env_step,
            updates=self.counters.updates - self._first_update,
            last_return=self.returns[-1][1] if self.returns else None,
            phase="learning" if learning else "prefill",
        )

    def _tell(self, event: str, *args: object) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *args)


def checkpoint_grace(config: AgentConfig, adapter: Adapter) -> int:
    """Steps of an environment after a checkpoint is due, at which its open episode is cut.

    By the task's own time limit every episode has ended; a decision more, so that none is cut whose
    last step is that one.
    """
    if config.checkpoint_grace is not None:
        return config.checkpoint_grace
    return GRACE if adapter.time_limit is None else adapter.time_limit + adapter.repeat


def reached(episodes: Sequence[Episode]) -> dict[str, float]:
    """Success rate and achievements of episodes, in the names of a line; often nothing.

    `rollout/success_rate` is a share; `rollout/success/NAME` are per cent, as Crafter's are.
    """
    line: dict[str, float] = {}
    if any(one.success is not None for one in episodes):
        line["rollout/success_rate"] = float(np.mean([bool(one.success) for one in episodes]))
    for name in sorted({name for one in episodes for name in one.unlocked}):
        share = float(np.mean([one.unlocked.get(name, False) for one in episodes]))
        line[f"rollout/success/{name}"] = 100.0 * share
    return line


def episodes_of_all(mine: Sequence[Episode]) -> list[Episode]:
    """The episodes of every learner."""
    if ranks().count == 1:
        return list(mine)
    said = ranks().exchange([asdict(episode) for episode in mine])
    return [Episode(**episode) for theirs in said for episode in theirs]


def means_of_all(metrics: Sequence[Metrics]) -> dict[str, float]:
    """Means over updates and learners, who have made the same number of updates."""
    mine = means(metrics)
    if ranks().count == 1:
        return mine
    said = ranks().exchange(mine)
    return {name: math.fsum(one[name] for one in said) / len(said) for name in mine}


def on_ranks(write: Callable[[], object], *, first: bool = False) -> None:
    """Let every learner write, or the first one alone, and wait until all have.

    Raises:
        OSError: on every learner, if it fails on one.
    """
    failed = ""
    if ranks().first or not first:
        try:
            write()
        except OSError as error:
            failed = str(error)
    for rank, error in enumerate(ranks().exchange(failed)):
        if error:
            raise OSError(f"{error} (rank {rank})")


def means(metrics: Sequence[Metrics]) -> dict[str, float]:
    """Means over updates, fetched from the device at once."""
    if not metrics:
        return {}
    check_names(metrics)
    names = list(metrics[0])
    table = torch.stack([torch.stack([m[name].float() for name in names]) for m in metrics])
    return dict(zip(names, table.mean(0).tolist(), strict=True))


def not_finite(algorithm: Algorithm) -> list[str]:
    """The names of weights that hold NaN or infinity, fetched from the device at once."""
    weights = {n: t for n, t in module(algorithm).state_dict().items() if t.is_floating_point()}
    if not weights:
        return []
    finite = torch.stack([tensor.isfinite().all() for tensor in weights.values()]).tolist()
    return [name for name, whole in zip(weights, finite, strict=True) if not whole]


@contextmanager
def interruptible(training: Training) -> Iterator[None]:
    """Ctrl-C or SIGTERM asks the run to stop after the current update; a second one stops at once.

    Signals reach the main thread alone. A SIGTERM that the program handles itself is left to it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if training.signalled is not None:
            if ranks().count > 1:
                return  # torchrun passes on what a terminal sends, and kills those that stay
            raise interruption(signal.Signals(number))
        training.signalled, training.stop = signal.Signals(number), True
        again = "press Ctrl-C again" if number == signal.SIGINT else "send SIGTERM again"
        at_once = f"; {again} to stop at once" if ranks().count == 1 else ""
        training.bar.note(f"stopping after this update{at_once}")

    numbers = [signal.SIGINT]
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        numbers.append(signal.SIGTERM)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interruption(number: signal.Signals) -> BaseException:
    """The exception of an uncaught signal: KeyboardInterrupt, or the end of the process."""
    if number == signal.SIGINT:
        return KeyboardInterrupt("learning was stopped by Ctrl-C; the last checkpoint stands")
    return SystemExit(128 + number)  # what a shell says of a process that SIGTERM ended


def train(
    learner: Learner,
    folder: Path,
    adapter: Adapter,
    counters: Counters,
    newest: Path | None,
    total: int,
    callbacks: Sequence[Callback],
    sinks: Sequence[Sink],
    progress: bool,
) -> signal.Signals | None:
    """One sitting: learn until `total` environment steps of the run.

    Args:
        learner: what learns; its weights are those of `newest` where there is one.
        folder: the run's.
        adapter: the environments.
        counters: where the run stands.
        newest: the checkpoint to go on from.
        total: environment steps of the whole run.
        callbacks: told about every event.
        sinks: where the log goes beside metrics.jsonl.
        progress: show a progress bar.

    Returns:
        The signal that stopped it before, if one did.
    """
    check_collecting(learner.algorithm)
    spec, replay = learner.policy.spec, open_replay(learner, folder)
    resume = None if newest is None else counters.env_step
    facts = run_facts(learner, folder)
    first = ranks().first
    bar = ProgressBar(total, start=counters.env_step, enabled=progress and first)
    log = Logger(folder, sinks=sinks, facts=facts, resume_step=resume, enabled=first)
    with log as logger, bar:
        training = Training(learner, folder, adapter, replay, counters, logger, bar, callbacks)
        if newest is not None:
            training.restore(newest)
            bar.note(f"resumed from step {counters.env_step:,} of {folder}")
        elif learner.parent is not None and learner.loaded is not None:
            training.inherit(learner.loaded, learner.parent)
            before = learner.parent.env_steps
            bar.note(f"continues from weights that learned for {before:,} steps")
        decisions = (total - counters.env_step) // adapter.repeat // ranks().count
        bar.note(f"reads {describe_spaces(spec.obs, spec.action)}")
        bar.note(f"replay: {require_space(training, decisions)}")
        training.run(total)
        if counters.interrupted:
            bar.note(
                f"stopped at step {counters.env_step:,}; to go on: "
                f'agent.learn({total}, run="{folder}")'
            )
    return training.signalled


def open_replay(learner: Learner, folder: Path) -> ReplayBuffer:
    """The replay of a learner's run, with nothing in it yet."""
    config = learner.config
    return ReplayBuffer(
        ranks().own(folder) / "replay",
        learner.policy.spec.obs,
        learner.policy.spec.action,
        learner.algorithm.columns,
        envs=ranks().part("envs", config.envs),
        capacity=config.replay_rows // ranks().count,
    )


def run_facts(learner: Learner, folder: Path) -> RunFacts:
    """A learner's run as sinks are told of it."""
    return RunFacts(
        folder=folder,
        agent=learner.policy.spec.agent,
        env=learner.env,
        seed=learner.seed,
        settings=to_json(learner.config),
    )


def require_space(training: Training, decisions: int) -> str:
    """Check that transitions and checkpoints fit; what the replay will hold, for people."""
    config, algorithm = training.learner.config, training.learner.algorithm
    assert isinstance(algorithm, torch.nn.Module), type(algorithm)
    learned = [algorithm, *algorithm.optimizers().values()]
    size = sum(t.nbytes for one in learned for t in one.state_dict().values())
    best = 2 * sum(t.nbytes for t in algorithm.state_dict().values())
    checkpoints = checkpoint.KEPT + 1  # one more while it is written
    there = checkpoint.size_of_copies(training.folder / "checkpoints")
    return training.replay.require_space(
        decisions,
        2 * config.checkpoint_every * len(training.adapter) // training.adapter.repeat,
        checkpoints=checkpoints,
        beside=checkpoints * size + best - there,
    )
