"""The training loop: shuffled batches of users, Adam, early stopping on validation, best state restored."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmrec_ext import Csr, multinomial_nll

from ..config import AnnealingConfig, Config
from ..errors import DmrecError
from ..eval.ranking import evaluate
from ..matching import Matching
from ..models.backbone import Moment
from ..models.recommender import Recommender
from .checkpoint import Checkpoint, save_checkpoint
from .progress import Progress
from .run import Run
from .stopping import Stopped, StopRequest


@dataclass(frozen=True)
class Fitted:
    """How the training went. The recommender holds its best state."""

    best_epoch: int
    epochs: int
    seconds_per_epoch: float
    validation: dict[str, float]


def fit(
    recommender: Recommender,
    matching: Matching,
    config: Config,
    train: Csr,
    valid: Csr,
    run: Run,
    about: dict[str, Any],
    progress: Progress,
    stop: StopRequest | None = None,
    resume: Checkpoint | None = None,
) -> Fitted:
    """Trains to the best validation score, saving each best state. Dropout and noise follow torch's global seed.

    From ``resume`` it goes on as if it had never stopped, to the bit. `Stopped` is raised after a checkpoint where
    ``stop`` asks for it.
    """
    settings = config.training
    stop = stop or StopRequest()
    metrics = all_metrics(config)
    about_run = {**about, "config": config.model_dump(mode="json")}
    shuffle = torch.Generator().manual_seed(seed_of("shuffle", settings.seed))
    groups = recommender.backbone.parameter_groups(settings.learning_rate)
    optimiser = torch.optim.Adam([*groups, *_meta_network_group(recommender)], lr=settings.learning_rate, fused=True)
    at = Place() if resume is None else restore(resume, recommender, optimiser, shuffle, run)
    saved = time.perf_counter()
    while at.epoch <= settings.epochs and not at.stopped_early:
        started = time.perf_counter()
        before = shuffle.get_state()
        recommender.train()
        batches = list(shuffled_batches(train.n_rows, settings.batch_size, shuffle))
        for users in batches[at.batch :]:
            x = train.rows(users)
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
                posteriors = recommender.posteriors(x, users)
                decoded, auxiliary = recommender.backbone.reconstruct(posteriors.fused, Moment(at.step, at.epoch))
                reconstruction = multinomial_nll(decoded.hidden, decoded.weight, x, decoded.bias)
                divergence = matching.loss(*posteriors)
                loss = reconstruction + annealed(settings.annealing, at.step) * divergence
                if auxiliary is not None:
                    loss = loss + auxiliary
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

            if at.step % settings.log_terms_every == 0:
                at.terms = matching.terms(*posteriors)
            for name, part in (("loss", loss), ("reconstruction", reconstruction), ("matching", divergence)):
                at.sums[name] = at.sums.get(name, 0.0) + float(part.detach())
            at.step, at.batch = at.step + 1, at.batch + 1
            due = time.perf_counter() - saved >= 60 * settings.checkpoint_minutes
            if at.batch < len(batches) and (due or stop.requested):
                elapsed = at.seconds + time.perf_counter() - started
                save_checkpoint(run.folder, checkpoint_of(at, elapsed, recommender, optimiser, before, run, about_run))
                saved = time.perf_counter()
                if stop.requested:
                    raise Stopped
        losses = {name: total / len(batches) for name, total in at.sums.items()}
        seconds = at.seconds + time.perf_counter() - started
        at.epoch_seconds += seconds
        if not all(torch.isfinite(p).all() for p in recommender.parameters()):
            raise FloatingPointError(
                f"a weight became NaN or infinite in epoch {at.epoch}; lower training.learning_rate"
            )
        run.log("epoch", epoch=at.epoch, seconds=round(seconds, 4), **losses, **at.terms)

        if at.epoch % settings.evaluate_every == 0 or at.epoch == settings.epochs:
            started = time.perf_counter()
            validation = evaluate(recommender, train, valid, metrics).means
            run.log("evaluation", epoch=at.epoch, seconds=round(time.perf_counter() - started, 4), **validation)
            score = validation[settings.monitor]
            if score > at.best_score:
                at.best_epoch, at.best_score, at.validation = at.epoch, score, validation
                at.best_state = copy.deepcopy(recommender.state_dict())
                run.save(at.best_state, {**about, "epoch": at.epoch})
            progress.evaluated(at.epoch, score, at.best_score)
            at.stopped_early = at.epoch - at.best_epoch >= settings.patience * settings.evaluate_every
        progress.epoch(at.epoch, losses, at.terms)
        at.epoch, at.batch, at.seconds, at.sums, at.terms = at.epoch + 1, 0, 0.0, {}, {}
        due = time.perf_counter() - saved >= 60 * settings.checkpoint_minutes
        if due or stop.requested:
            save_checkpoint(
                run.folder, checkpoint_of(at, 0.0, recommender, optimiser, shuffle.get_state(), run, about_run)
            )
            saved = time.perf_counter()
            if stop.requested:
                raise Stopped

    recommender.load_state_dict(at.best_state)
    epochs = at.epoch - 1
    return Fitted(at.best_epoch, epochs, at.epoch_seconds / epochs, at.validation)


@dataclass
class Place:
    """Where training stands: the epoch and batch that come next, and what was gathered on the way."""

    epoch: int = 1
    batch: int = 0
    step: int = 0
    seconds: float = 0.0  # spent in this epoch before it was interrupted
    epoch_seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    best_score: float = -1.0
    validation: dict[str, float] = field(default_factory=dict)
    stopped_early: bool = False
    best_state: dict[str, Tensor] = field(default_factory=dict)


def checkpoint_of(
    at: Place,
    seconds: float,
    recommender: Recommender,
    optimiser: torch.optim.Optimizer,
    shuffle_before: Tensor,
    run: Run,
    about: dict[str, Any],
) -> Checkpoint:
    """Everything that the run is. ``shuffle_before``: the generator's state before this epoch's permutation."""
    tensors = {f"model.{name}": tensor for name, tensor in recommender.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in at.best_state.items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in state.items()}
    tensors |= {"random": torch.get_rng_state(), "shuffle": shuffle_before}
    place = {name: value for name, value in vars(at).items() if name != "best_state"} | {"seconds": seconds}
    return Checkpoint(tensors, {"place": place, "about": about, "log_bytes": run.log_bytes()})


def restore(
    checkpoint: Checkpoint,
    recommender: Recommender,
    optimiser: torch.optim.Optimizer,
    shuffle: torch.Generator,
    run: Run,
) -> Place:
    """Puts everything back in its place; the log ends where it did."""
    tensors = checkpoint.tensors

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    try:
        recommender.load_state_dict(under("model."))
    except RuntimeError as error:
        raise DmrecError(f"the checkpoint in {run.folder} is of another model: {error}") from None
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in under("optimiser.").items():
        index, _, part = name.partition(".")
        state.setdefault(int(index), {})[part] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random"])
    shuffle.set_state(tensors["shuffle"])
    run.cut_log(checkpoint.values["log_bytes"])
    return Place(**checkpoint.values["place"], best_state=under("best."))


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


def annealed(annealing: AnnealingConfig, step: int) -> float:
    """The weight of the divergences at a step."""
    if annealing.steps == 0:
        return annealing.cap
    return min(annealing.cap, annealing.cap * step / annealing.steps)


def _meta_network_group(recommender: Recommender) -> list[dict[str, Any]]:
    network = recommender.meta_network
    return [] if network is None else [{"params": list(network.parameters())}]
