"""The training loop: shuffled batches, Adam, early stopping on validation, best state restored."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dmrec_ext import Csr

from ..config import Config
from ..errors import DmrecError
from ..eval.ranking import evaluate
from ..models.backbone import Moment
from .board import Board
from .checkpoint import Checkpoint, part_of, save_checkpoint
from .clock import TRAINING, Clock
from .progress import Progress
from .run import Run
from .stopping import Stopped, StopRequest
from .tasks import Task


@dataclass(frozen=True)
class Fitted:
    """How the training went. The model holds its best state."""

    best_epoch: int
    epochs: int
    phases: dict[str, float]  # mean seconds of an epoch by phase
    validation: dict[str, float]

    @property
    def seconds_per_epoch(self) -> float:
        """Of training alone."""
        return sum(self.phases[phase] for phase in TRAINING)

    @property
    def seconds(self) -> float:
        """Of all of it."""
        return self.epochs * sum(self.phases.values())


def fit(
    task: Task,
    config: Config,
    train: Csr,
    valid: Csr,
    run: Run,
    about: dict[str, Any],
    progress: Progress,
    stop: StopRequest | None = None,
    resume: Checkpoint | None = None,
    board: Board | None = None,
) -> Fitted:
    """Trains to the best validation score, saving each best state. Dropout and noise follow torch's global seed.

    From ``resume`` it goes on as if it had never stopped, to the bit. `Stopped` is raised after a checkpoint where
    ``stop`` asks for it.
    """
    settings = config.training
    stop, board = stop or StopRequest(), board or Board(None, 1)
    metrics = all_metrics(config)
    about_run = {**about, "config": config.model_dump(mode="json")}
    shuffle = torch.Generator().manual_seed(seed_of("shuffle", settings.seed))
    groups = task.parameter_groups(settings.learning_rate)
    optimiser = torch.optim.Adam(groups, lr=settings.learning_rate, fused=True)
    at = Place() if resume is None else restore(resume, task.module, optimiser, shuffle, run)
    clock = Clock(at.spent)
    saved = time.perf_counter()

    def log(event: str, **values: Any) -> None:
        run.log(event, epoch=at.epoch, **values)
        board.add(event, at.epoch, values)

    def save_if_due(shuffle_before: Tensor) -> None:
        nonlocal saved
        asked = stop.requested
        if not asked and time.perf_counter() - saved < 60 * settings.checkpoint_minutes:
            return
        clock.restart()
        save_checkpoint(run.folder, checkpoint_of(at, task.module, optimiser, shuffle_before, run, about_run))
        clock.lap("saving")
        saved = time.perf_counter()
        if asked:
            raise Stopped

    while at.epoch <= settings.epochs and not at.stopped_early:
        before = shuffle.get_state()
        task.module.train()
        clock.restart()
        batches = list(shuffled_batches(task.n_rows, settings.batch_size, shuffle))
        for rows in batches[at.batch :]:
            batch = task.batch(rows)
            clock.lap("data")
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
                losses = task.loss(batch, Moment(at.step, at.epoch))
            clock.lap("forward")
            optimiser.zero_grad(set_to_none=True)
            losses["loss"].backward()
            clock.lap("backward")
            optimiser.step()
            clock.lap("optimiser")

            if at.step % settings.log_terms_every == 0:
                at.terms = task.terms()
            for name, part in losses.items():
                at.sums[name] = at.sums.get(name, 0.0) + float(part.detach())
            at.step, at.batch = at.step + 1, at.batch + 1
            clock.lap("other")
            if at.batch < len(batches):
                save_if_due(before)
        means = {name: total / len(batches) for name, total in at.sums.items()}
        if not all(torch.isfinite(p).all() for p in task.module.parameters()):
            raise FloatingPointError(
                f"a weight became NaN or infinite in epoch {at.epoch}; lower training.learning_rate"
            )
        clock.lap("other")
        phases = {phase: round(at.spent[phase], 4) for phase in TRAINING}
        log("epoch", seconds=round(sum(phases.values()), 4), phases=phases, **means, **at.terms)

        if at.epoch % settings.evaluate_every == 0 or at.epoch == settings.epochs:
            validation = evaluate(task.ranker, train, valid, metrics).means
            log("evaluation", seconds=round(clock.lap("evaluation"), 4), **validation)
            score = validation[settings.monitor]
            if score > at.best_score:
                at.best_epoch, at.best_score, at.validation = at.epoch, score, validation
                at.best_state = copy.deepcopy(task.module.state_dict())
                run.save(at.best_state, {**about, "epoch": at.epoch})
                clock.lap("saving")
            progress.evaluated(at.epoch, score, at.best_score)
            at.stopped_early = at.epoch - at.best_epoch >= settings.patience * settings.evaluate_every
        progress.epoch(at.epoch, means, at.terms)
        at.finish_epoch()
        at.epoch, at.batch, at.sums, at.terms = at.epoch + 1, 0, {}, {}
        save_if_due(shuffle.get_state())

    at.finish_epoch()
    task.module.load_state_dict(at.best_state)
    epochs = at.epoch - 1
    phases = {phase: round(seconds / epochs, 4) for phase, seconds in at.phases.items()}
    return Fitted(at.best_epoch, epochs, phases, at.validation)


@dataclass
class Place:
    """Where training stands: the epoch and batch that come next, and what was gathered on the way."""

    epoch: int = 1
    batch: int = 0
    step: int = 0
    spent: dict[str, float] = field(default_factory=dict)  # seconds by phase, in this epoch
    phases: dict[str, float] = field(default_factory=dict)  # and in those before it
    sums: dict[str, float] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    best_score: float = -1.0
    validation: dict[str, float] = field(default_factory=dict)
    stopped_early: bool = False
    best_state: dict[str, Tensor] = field(default_factory=dict)

    def finish_epoch(self) -> None:
        """Adds the time of this epoch to that of those before it."""
        for phase, seconds in self.spent.items():
            self.phases[phase] = self.phases.get(phase, 0.0) + seconds
        self.spent.clear()


def checkpoint_of(
    at: Place,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    shuffle_before: Tensor,
    run: Run,
    about: dict[str, Any],
) -> Checkpoint:
    """Everything that the run is. ``shuffle_before``: the generator's state before this epoch's permutation."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in at.best_state.items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in state.items()}
    tensors |= {"random": torch.get_rng_state(), "shuffle": shuffle_before}
    place = {name: value for name, value in vars(at).items() if name != "best_state"}
    return Checkpoint(tensors, {"place": place, "about": about, "log_bytes": run.log_bytes()})


def restore(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    shuffle: torch.Generator,
    run: Run,
) -> Place:
    """Puts everything back in its place; the log ends where it did."""
    tensors = checkpoint.tensors
    if checkpoint.values["place"].keys() != {each.name for each in fields(Place)} - {"best_state"}:
        raise DmrecError(f"the checkpoint in {run.folder} is of another version of dmrec; train again")
    try:
        model.load_state_dict(part_of(tensors, "model."))
    except RuntimeError as error:
        raise DmrecError(f"the checkpoint in {run.folder} is of another model: {error}") from None
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part_of(tensors, "optimiser.").items():
        index, _, part = name.partition(".")
        state.setdefault(int(index), {})[part] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random"])
    shuffle.set_state(tensors["shuffle"])
    run.cut_log(checkpoint.values["log_bytes"])
    return Place(**checkpoint.values["place"], best_state=part_of(tensors, "best."))


def all_metrics(config: Config) -> tuple[str, ...]:
    """What is measured on validation: the configured metrics and the monitored one."""
    return tuple(dict.fromkeys((*config.evaluation.metrics, config.training.monitor)))


def seed_of(purpose: str, seed: int) -> int:
    """A seed for one purpose, independent of those for others."""
    entropy = [seed, *purpose.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def shuffled_batches(n_users: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """All users in random order, in batches; the last may be smaller."""
    return iter(torch.randperm(n_users, generator=generator).split(batch_size))
