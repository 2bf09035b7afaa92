"""The training loop: shuffled batches, Adam, early stopping on validation, best state restored."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmrec_ext import Csr

from ..config import NLL, Config, TrainingConfig
from ..errors import DmrecError
from ..eval.ranking import evaluate, mean_nll
from ..models.base import Step, TrainedModel, TrainingData
from ..runs.checkpoint import Checkpoint, save_checkpoint
from ..runs.run import Run
from ..runtime import Runtime
from ..sharding.items import keyed_seed
from ..sharding.ranks import agreed
from .observer import Observer
from .optimiser import ShardedOptimiser, optimiser_of
from .order import batches_of_epoch
from .signals import GracefulInterrupt, Stopped
from .state import TrainState, checkpoint_of, restore, restored_state
from .timing import TRAINING, PhaseTimer


@dataclass(frozen=True)
class FitResult:
    """How the training went. The model holds its best state."""

    best_epoch: int
    epochs: int
    phases: dict[str, float]  # mean seconds of an epoch by phase
    validation: dict[str, float]
    best_in_phases: tuple[int, ...]  # the last epoch of each phase that was the best so far, counted within it; 0: none
    score: float  # of the best state in the monitored metric; higher is better

    @property
    def seconds_per_epoch(self) -> float:
        """Seconds of training alone, for each epoch."""
        return sum(self.phases[phase] for phase in TRAINING)

    @property
    def seconds(self) -> float:
        """Seconds of everything."""
        return self.epochs * sum(self.phases.values())


def fit(
    model: TrainedModel,
    config: Config,
    data: TrainingData,
    valid: Csr | None,
    run: Run,
    metadata: dict[str, Any],
    runtime: Runtime,
    observers: Sequence[Observer] = (),
    interrupt: GracefulInterrupt | None = None,
    resume: Checkpoint | None = None,
) -> FitResult:
    """Trains to the best validation score, saving each best state. Dropout and noise follow torch's global seed.

    Phases (`Config.schedule`) follow each other; each begins from the best state so far, with a fresh optimiser.
    Without ``valid`` each is trained for exactly its epochs, and the last state is kept.

    A run that is resumed from a checkpoint ends bit for bit like one that was never stopped. Where ``interrupt`` asks
    for it, `Stopped` is raised after a checkpoint.
    """
    training = _Training(
        model, config, data, valid, run, metadata, runtime, observers, interrupt or GracefulInterrupt()
    )
    return training.run_all(resume)


class _Training:
    """`fit`, with what its parts share."""

    def __init__(
        self,
        model: TrainedModel,
        config: Config,
        data: TrainingData,
        valid: Csr | None,
        run: Run,
        metadata: dict[str, Any],
        runtime: Runtime,
        observers: Sequence[Observer],
        interrupt: GracefulInterrupt,
    ) -> None:
        self.model, self.config, self.data, self.valid = model, config, data, valid
        self.run, self.metadata, self.runtime = run, metadata, runtime
        self.observers, self.interrupt = observers, interrupt
        self.schedule = config.schedule
        self.optimiser: torch.optim.Optimizer | ShardedOptimiser | None = None  # after the last phase
        self.items, self.ranks = data.items, runtime.ranks
        self.shuffle = torch.Generator().manual_seed(seed_of("shuffle", config.training.seed))
        self.state = TrainState()
        self.saved = time.perf_counter()

    def run_all(self, resume: Checkpoint | None) -> FitResult:
        """All phases, from the beginning or from a checkpoint."""
        state = self.state
        if resume is not None:
            state = self.state = restored_state(resume, self.run, self.runtime, self.config.epochs)
        self.timer = PhaseTimer(state.spent)
        if state.phase < len(self.schedule):
            self._enter_phase()
        if resume is not None:
            restore(resume, self.model, self.optimiser, self.shuffle, self.runtime, self.run)
        for observer in self.observers:
            observer.on_start(self.run, self.config, state.epoch)
        while state.phase < len(self.schedule):
            self._epoch()
        state.finish_epoch()
        if self.valid is not None:
            self._load_best()
            if self.config.training.monitor == NLL:
                state.validation |= self._ranked(self.valid)
        epochs = state.epoch - 1
        phases = {phase: round(seconds / epochs, 4) for phase, seconds in state.phases.items()}
        best = tuple(state.best_in_phases)
        return FitResult(state.best_epoch, epochs, phases, state.validation, best, state.best_score)

    def _enter_phase(self) -> None:
        """Options, model and optimiser of the phase that the state names."""
        self.phase, self.settings = self.schedule[self.state.phase]
        self.model.begin_phase(self.phase)
        self.optimiser = optimiser_of(self.model, self.settings)
        self.learning = [self.model.learning(epoch) for epoch in range(1, self.settings.epochs + 1)]

    def _epoch(self) -> None:
        """One epoch, what is left of it after a stop, and what follows it."""
        model, state, timer, settings = self.model, self.state, self.timer, self.settings
        assert self.optimiser is not None
        before = self.shuffle.get_state()
        model.train()
        timer.restart()
        model.begin_epoch(state.epoch_of_phase)
        timer.lap("data")
        n_batches = -(-model.n_examples // settings.batch_size)
        batches = self._read_batches(settings.batch_size)
        for _ in range(state.batch, n_batches):
            if not self.items.is_whole:  # equal on all ranks, however many there are and wherever they began
                torch.manual_seed(keyed_seed("step", settings.seed, state.step))
            batch = self.runtime.move(next(batches))
            timer.lap("data")
            step = Step(state.step, state.epoch, settings.annealing.at(state.step))
            self._set_learning_rates(n_batches)
            state.add(train_step(model, batch, step, self.optimiser, self.runtime, timer, settings.clip))
            if state.step % settings.log_terms_every == 0:
                state.terms = model.metrics()
            state.step, state.batch = state.step + 1, state.batch + 1
            timer.lap("other")
            if state.batch < n_batches:
                self._save_if_due(before)
        ended = model.end_epoch(state.epoch_of_phase)
        means = {name: float(total) / n_batches for name, total in state.sums.items()}
        terms = {name: float(value) for name, value in state.terms.items()}
        if any(self.ranks.any(not all(bool(torch.isfinite(p).all()) for p in model.parameters()))):
            raise agreed(
                FloatingPointError(
                    f"a weight became NaN or infinite in epoch {state.epoch}; lower training.learning_rate"
                )
            )
        timer.lap("other")
        phases = {phase: round(state.spent[phase], 4) for phase in TRAINING if phase in state.spent}
        values = {"seconds": round(sum(phases.values()), 4), "phases": phases, **means, **terms, **ended}
        if len(self.schedule) > 1:
            values["phase"] = state.phase + 1
        self.run.log("epoch", epoch=state.epoch, **values)
        for observer in self.observers:
            observer.on_epoch(state.epoch, values)
        last = state.epoch_of_phase == settings.epochs or ended.get("churn", 1.0) < self.phase.until_churn
        over = self._evaluated(last) or last
        state.next_epoch()
        if over:
            self._next_phase()
        self._save_if_due(self.shuffle.get_state())

    def _read_batches(self, size: int) -> Iterator[Any]:
        """What `TrainedModel.batch` makes of the batches that are left of this epoch.

        Where items are cut, data may be on disk: the next batch is read by a thread while a step is computed.
        """
        model, state = self.model, self.state
        if self.items.is_whole:
            shuffled = shuffled_batches(model.n_examples, size, self.shuffle)
            yield from map(model.batch, islice(shuffled, state.batch, None))
            return
        order = batches_of_epoch(model.n_examples, size, self.config.training.seed, state.epoch)
        left = islice(order, state.batch, None)
        if model.draws_batches:  # from the generator that belongs to the step
            yield from map(model.batch, left)
            return
        with ThreadPoolExecutor(1) as reader:
            ahead = None
            for index in left:
                following = reader.submit(model.batch, index)
                if ahead is not None:
                    yield ahead.result()
                ahead = following
            if ahead is not None:
                yield ahead.result()

    def _evaluated(self, last: bool) -> bool:
        """Measures the model where it is time for that, keeps its state if it is the best; whether to stop early.

        ``last``: whether the phase ends here. Without a validation split the last state of all is kept.
        """
        model, state, settings = self.model, self.state, self.settings
        epoch = state.epoch_of_phase
        if self.valid is None:
            if last and state.phase + 1 == len(self.schedule):
                self._keep()
            return False
        if epoch % settings.evaluate_every and not last:
            return False
        validation = {} if settings.monitor == NLL else self._ranked(self.valid)
        if self.config.model.has_likelihood:
            validation[NLL] = mean_nll(model, self.data, self.valid)
        validation = self.ranks.tell(validation)  # what follows from it must follow everywhere
        self.run.log("evaluation", epoch=state.epoch, seconds=round(self.timer.lap("evaluation"), 4), **validation)
        score = -validation[NLL] if settings.monitor == NLL else validation[settings.monitor]
        if score > state.best_score:
            state.best_score, state.validation = score, validation
            self._keep()
        for observer in self.observers:
            observer.on_evaluation(state.epoch, validation, score, state.best_score)
        since = epoch - state.best_in_phases[-1]
        return since >= settings.patience * settings.evaluate_every

    def _ranked(self, valid: Csr) -> dict[str, float]:
        """Metrics of the rankings of all users that have held-out items."""
        metrics, options = all_metrics(self.config), self.config.evaluation
        seen, users = options.exclude_seen, options.users
        return evaluate(self.model, self.data, valid, metrics, exclude_seen=seen, n_users=users).means

    def _keep(self) -> None:
        """The state of the model is the best so far."""
        state = self.state
        state.best_epoch, state.best_in_phases[-1] = state.epoch, state.epoch_of_phase
        weights = self.model.state_dict()
        if self.items.is_whole:  # else there is no room for a second copy, and it is read from the disk
            weights = state.best_state = copy.deepcopy(weights)
        self.run.save(weights, {**self.metadata, "epoch": state.epoch})
        self.timer.lap("saving")

    def _load_best(self) -> None:
        """Puts the best state into the model."""
        if self.items.is_whole:
            self.model.load_state_dict(self.state.best_state)
            return
        weights, metadata = self.run.load()
        if metadata["epoch"] != self.state.best_epoch:
            raise agreed(
                DmrecError(
                    f"{self.run.folder} has the model of epoch {metadata['epoch']}, not of {self.state.best_epoch}: it "
                    "was resumed where other bits come out, on other hardware or threads; train again"
                )
            )
        self.model.load_state_dict(weights)

    def _next_phase(self) -> None:
        """From the best state; after the last phase, nothing."""
        state = self.state
        state.phase += 1
        if state.phase == len(self.schedule):
            self.optimiser = None
            return
        state.epochs_before, state.best_in_phases = state.epoch - 1, [*state.best_in_phases, 0]
        if self.valid is not None:
            self._load_best()
        self._enter_phase()

    def _set_learning_rates(self, steps_per_epoch: int) -> None:
        """Of each group, by the schedule over the epochs of this phase in which it learns."""
        state = self.state
        assert self.optimiser is not None
        for group in self.optimiser.param_groups:
            own = [names is None or group.get("name") in names for names in self.learning]
            step = sum(own[: state.epoch_of_phase - 1]) * steps_per_epoch + state.batch
            factor = learning_rate_factor(self.settings, step, max(sum(own), 1) * steps_per_epoch)
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * factor

    def _save_if_due(self, shuffle_before: Tensor) -> None:
        """A checkpoint, where it is time or asked for. It holds the generator before this epoch's permutation."""
        late = time.perf_counter() - self.saved >= 60 * self.config.training.checkpoint_minutes
        asked, due = self.ranks.any(self.interrupt.requested, late and self.ranks.is_first)
        if not asked and not due:
            return
        self.timer.restart()
        metadata = {**self.metadata, "config": self.config.model_dump(mode="json")}
        random = {**self.runtime.random_state(), "shuffle": shuffle_before} if self.items.is_whole else {}
        checkpoint = checkpoint_of(self.state, self.model, self.optimiser, random, self.run, metadata)
        save_checkpoint(self.run.folder, checkpoint, self.items)
        self.timer.lap("saving")
        self.saved = time.perf_counter()
        if asked:
            raise agreed(Stopped())


def train_step(
    model: TrainedModel,
    batch: Any,
    step: Step,
    optimiser: torch.optim.Optimizer | ShardedOptimiser,
    runtime: Runtime,
    timer: PhaseTimer,
    clip: float | None = None,
) -> dict[str, Tensor]:
    """Loss, gradients, one step of the optimiser; returns the losses. The device is not waited for.

    ``clip``: the largest norm of the gradient of all weights, or of all in groups of one name.
    """
    with runtime.autocast():
        losses = model.loss(batch, step)
    timer.lap("forward")
    optimiser.zero_grad(set_to_none=True)
    losses["loss"].backward()
    if clip is not None:
        for parameters in _by_name(optimiser).values():
            torch.nn.utils.clip_grad_norm_(parameters, clip)
    timer.lap("backward")
    optimiser.step()
    timer.lap("optimiser")
    return losses


def _by_name(optimiser: torch.optim.Optimizer | ShardedOptimiser) -> dict[str | None, list[Tensor]]:
    """The parameters in groups of one name."""
    found: dict[str | None, list[Tensor]] = {}
    for group in optimiser.param_groups:
        found.setdefault(group.get("name"), []).extend(group["params"])
    return found


def learning_rate_factor(settings: TrainingConfig, step: int, total: int) -> float:
    """What learning rates are multiplied by in a step of ``total``, counted from 0: a function of these alone."""
    warmup = settings.warmup * total
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if settings.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


def all_metrics(config: Config) -> tuple[str, ...]:
    """The metrics of rankings that are measured on validation: the configured ones and the monitored one."""
    return tuple(name for name in dict.fromkeys((*config.evaluation.metrics, config.training.monitor)) if name != NLL)


def seed_of(purpose: str, seed: int) -> int:
    """A seed for one purpose, independent of the seeds for others."""
    entropy = [seed, *purpose.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def shuffled_batches(n_examples: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """All examples in random order, in batches of int64 numbers; the last may be smaller."""
    return iter(torch.randperm(n_examples, generator=generator).split(batch_size))
