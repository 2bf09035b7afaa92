"""The state of a training run, and how it becomes a checkpoint and comes back from one, bit for bit."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from ..errors import DmrecError
from ..models.base import TrainedModel
from ..runs.checkpoint import Checkpoint, part_of
from ..runs.run import Run
from ..runtime import Runtime
from .optimiser import ShardedOptimiser


@dataclass
class TrainState:
    """The epoch and batch that come next, and what was gathered on the way."""

    epoch: int = 1
    phase: int = 0  # of `Config.schedule`, from 0
    epochs_before: int = 0  # of the phases before this one
    batch: int = 0
    step: int = 0
    spent: dict[str, float] = field(default_factory=dict)  # seconds by phase, in this epoch
    phases: dict[str, float] = field(default_factory=dict)  # and in the epochs before it
    sums: dict[str, Tensor] = field(default_factory=dict)  # () float64 on the device: losses of this epoch
    terms: dict[str, Tensor] = field(default_factory=dict)  # () on the device: metrics of the model, last read
    best_epoch: int = 0
    best_score: float = -sys.float_info.max
    best_in_phases: list[int] = field(default_factory=lambda: [0])  # by phase: its last best epoch
    validation: dict[str, float] = field(default_factory=dict)
    best_state: dict[str, Tensor] = field(default_factory=dict)

    @property
    def epoch_of_phase(self) -> int:
        """The epoch, counted from 1 within the phase."""
        return self.epoch - self.epochs_before

    def add(self, losses: dict[str, Tensor]) -> None:
        """Adds the losses of a step; the device is not waited for."""
        for name, part in losses.items():
            value = part.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def finish_epoch(self) -> None:
        """Adds the time of this epoch to that of the epochs before it."""
        for phase, seconds in self.spent.items():
            self.phases[phase] = self.phases.get(phase, 0.0) + seconds
        self.spent.clear()

    def next_epoch(self) -> None:
        """Moves on to the first batch of the next epoch."""
        self.finish_epoch()
        self.epoch, self.batch, self.sums, self.terms = self.epoch + 1, 0, {}, {}


TENSORS = ("sums", "terms")  # of a state; numbers in checkpoints


def checkpoint_of(
    state: TrainState,
    model: TrainedModel,
    optimiser: torch.optim.Optimizer | ShardedOptimiser | None,
    random: dict[str, Tensor],
    run: Run,
    metadata: dict[str, Any],
) -> Checkpoint:
    """Everything that the run is. ``random``: the states of generators, those that the order of batches follows from as
    before this epoch.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best_state.items()}
    of_optimiser = {} if optimiser is None else optimiser.state_dict()["state"]  # none after the last phase
    for index, values in of_optimiser.items():
        tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in values.items()}
    tensors |= random
    place = {name: value for name, value in vars(state).items() if name != "best_state"}
    place |= {name: {key: float(value) for key, value in place[name].items()} for name in TENSORS}
    log_bytes = run.log_bytes() if run.ranks.is_first else 0
    return Checkpoint(tensors, {"place": place, "about": metadata, "log_bytes": log_bytes})


def restored_state(checkpoint: Checkpoint, run: Run, runtime: Runtime, epochs: int) -> TrainState:
    """The state that a checkpoint holds; ``epochs``: at most, of a run of version 0.1, which had no phases."""
    place = dict(checkpoint.values["place"])
    if "stopped_early" in place:
        over = place.pop("stopped_early") or place["epoch"] > epochs
        place |= {"phase": int(over), "epochs_before": 0, "best_in_phases": [place["best_epoch"]]}
    if place.keys() != {each.name for each in fields(TrainState)} - {"best_state"}:
        raise DmrecError(f"the checkpoint in {run.folder} is of another version of dmrec; train again")
    for name in TENSORS:
        numbers = place[name].items()
        place[name] = {key: torch.tensor(value, dtype=torch.float64, device=runtime.device) for key, value in numbers}
    return TrainState(**place, best_state=part_of(checkpoint.tensors, "best."))


def restore(
    checkpoint: Checkpoint,
    model: TrainedModel,
    optimiser: torch.optim.Optimizer | ShardedOptimiser | None,
    shuffle: torch.Generator,
    runtime: Runtime,
    run: Run,
) -> None:
    """Puts everything else back in its place; the log is cut to the length that it had."""
    tensors = checkpoint.tensors
    try:
        model.load_state_dict(part_of(tensors, "model."))
    except RuntimeError as error:
        raise DmrecError(f"the checkpoint in {run.folder} is of another model: {error}") from None
    values: dict[int | str, dict[str, Tensor]] = {}
    for name, tensor in part_of(tensors, "optimiser.").items():
        of, _, part = name.rpartition(".")
        values.setdefault(int(of) if of.isdecimal() else of, {})[part] = tensor
    if optimiser is not None:
        optimiser.load_state_dict({"state": values, "param_groups": optimiser.state_dict()["param_groups"]})
    runtime.set_random_state(tensors)
    if "shuffle" in tensors:
        shuffle.set_state(tensors["shuffle"])
    run.cut_log(checkpoint.values["log_bytes"])
