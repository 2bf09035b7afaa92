"""The training loop: shuffled batches, Adam, early stopping on validation, best state restored."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmrec_ext import Csr

from ..config import Config, TrainingConfig
from ..eval.ranking import evaluate
from ..models.base import Step, TrainedModel, TrainingData
from ..runs.checkpoint import Checkpoint, save_checkpoint
from ..runs.run import Run
from ..runtime import Runtime
from .observer import Observer
from .signals import GracefulInterrupt, Stopped
from .state import TrainState, checkpoint_of, restore
from .timing import TRAINING, PhaseTimer


@dataclass(frozen=True)
class FitResult:
    """How the training went. The model holds its best state."""

    best_epoch: int
    epochs: int
    phases: dict[str, float]  # mean seconds of an epoch by phase
    validation: dict[str, float]

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

    Without ``valid`` it trains for exactly the configured epochs, and the last state is kept.

    A run that is resumed from a checkpoint ends bit for bit like one that was never stopped. Where ``interrupt`` asks
    for it, `Stopped` is raised after a checkpoint.
    """
    settings = config.training
    interrupt = interrupt or GracefulInterrupt()
    metrics = all_metrics(config)
    run_metadata = {**metadata, "config": config.model_dump(mode="json")}
    shuffle = torch.Generator().manual_seed(seed_of("shuffle", settings.seed))
    optimiser = optimiser_of(model, settings)
    state = TrainState()
    if resume is not None:
        state = restore(resume, model, optimiser, shuffle, runtime, run)
    timer = PhaseTimer(state.spent)
    saved = time.perf_counter()
    for observer in observers:
        observer.on_start(run, config, state.epoch)

    def save_if_due(shuffle_before: Tensor) -> None:
        nonlocal saved
        asked = interrupt.requested
        if not asked and time.perf_counter() - saved < 60 * settings.checkpoint_minutes:
            return
        timer.restart()
        save_checkpoint(run.folder, checkpoint_of(state, model, optimiser, shuffle_before, runtime, run, run_metadata))
        timer.lap("saving")
        saved = time.perf_counter()
        if asked:
            raise Stopped

    while state.epoch <= settings.epochs and not state.stopped_early:
        before = shuffle.get_state()
        model.train()
        model.begin_epoch(state.epoch)
        timer.restart()
        batches = list(shuffled_batches(model.n_examples, settings.batch_size, shuffle))
        for index in batches[state.batch :]:
            batch = runtime.move(model.batch(index))
            timer.lap("data")
            step = Step(state.step, state.epoch, settings.annealing.at(state.step))
            set_learning_rates(optimiser, learning_rate_factor(settings, state.step, len(batches)))
            state.add(train_step(model, batch, step, optimiser, runtime, timer, settings.clip))
            if state.step % settings.log_terms_every == 0:
                state.terms = model.metrics()
            state.step, state.batch = state.step + 1, state.batch + 1
            timer.lap("other")
            if state.batch < len(batches):
                save_if_due(before)
        model.end_epoch(state.epoch)
        means = {name: float(total) / len(batches) for name, total in state.sums.items()}
        terms = {name: float(value) for name, value in state.terms.items()}
        if not all(torch.isfinite(p).all() for p in model.parameters()):
            raise FloatingPointError(
                f"a weight became NaN or infinite in epoch {state.epoch}; lower training.learning_rate"
            )
        timer.lap("other")
        phases = {phase: round(state.spent[phase], 4) for phase in TRAINING}
        values = {"seconds": round(sum(phases.values()), 4), "phases": phases, **means, **terms}
        run.log("epoch", epoch=state.epoch, **values)
        for observer in observers:
            observer.on_epoch(state.epoch, values)

        if valid is None and state.epoch == settings.epochs:
            state.best_epoch, state.best_state = state.epoch, copy.deepcopy(model.state_dict())
            run.save(state.best_state, {**metadata, "epoch": state.epoch})
            timer.lap("saving")
        elif valid is not None and (state.epoch % settings.evaluate_every == 0 or state.epoch == settings.epochs):
            validation = evaluate(model, data, valid, metrics, exclude_seen=config.evaluation.exclude_seen).means
            run.log("evaluation", epoch=state.epoch, seconds=round(timer.lap("evaluation"), 4), **validation)
            score = validation[settings.monitor]
            if score > state.best_score:
                state.best_epoch, state.best_score, state.validation = state.epoch, score, validation
                state.best_state = copy.deepcopy(model.state_dict())
                run.save(state.best_state, {**metadata, "epoch": state.epoch})
                timer.lap("saving")
            for observer in observers:
                observer.on_evaluation(state.epoch, validation, score, state.best_score)
            state.stopped_early = state.epoch - state.best_epoch >= settings.patience * settings.evaluate_every
        state.next_epoch()
        save_if_due(shuffle.get_state())

    state.finish_epoch()
    model.load_state_dict(state.best_state)
    epochs = state.epoch - 1
    phases = {phase: round(seconds / epochs, 4) for phase, seconds in state.phases.items()}
    return FitResult(state.best_epoch, epochs, phases, state.validation)


def train_step(
    model: TrainedModel,
    batch: Any,
    step: Step,
    optimiser: torch.optim.Optimizer,
    runtime: Runtime,
    timer: PhaseTimer,
    clip: float | None = None,
) -> dict[str, Tensor]:
    """Loss, gradients, one step of the optimiser; returns the losses. The device is not waited for.

    ``clip``: the largest norm of the gradient of all weights.
    """
    with runtime.autocast():
        losses = model.loss(batch, step)
    timer.lap("forward")
    optimiser.zero_grad(set_to_none=True)
    losses["loss"].backward()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    timer.lap("backward")
    optimiser.step()
    timer.lap("optimiser")
    return losses


def optimiser_of(model: TrainedModel, settings: TrainingConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over the model's parameter groups, in one fused pass where the device has it."""
    groups = model.parameter_groups(settings.learning_rate)
    kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
    fused = model.device.type in ("cpu", "cuda")
    return kind(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused)


def learning_rate_factor(settings: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """What the learning rates are multiplied by in a step, counted from 0: a function of it alone."""
    total = settings.epochs * steps_per_epoch
    warmup = settings.warmup * total
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if settings.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


def set_learning_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Each group's own rate times ``factor``."""
    for group in optimiser.param_groups:
        group.setdefault("initial_lr", group["lr"])
        group["lr"] = group["initial_lr"] * factor


def all_metrics(config: Config) -> tuple[str, ...]:
    """What is measured on validation: the configured metrics and the monitored one."""
    return tuple(dict.fromkeys((*config.evaluation.metrics, config.training.monitor)))


def seed_of(purpose: str, seed: int) -> int:
    """A seed for one purpose, independent of the seeds for others."""
    entropy = [seed, *purpose.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def shuffled_batches(n_examples: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """All examples in random order, in batches of int64 numbers; the last may be smaller."""
    return iter(torch.randperm(n_examples, generator=generator).split(batch_size))
