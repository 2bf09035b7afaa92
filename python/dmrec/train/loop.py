"""The training loop: shuffled batches of users, Adam, early stopping on validation, best state restored."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmrec_ext import Csr, multinomial_nll

from ..config import AnnealingConfig, Config
from ..eval.ranking import evaluate
from ..matching import Matching
from ..models.backbone import Moment
from ..models.recommender import Recommender
from .progress import Progress
from .run import Run


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
) -> Fitted:
    """Trains to the best validation score, saving each best state. Dropout and noise follow torch's global seed."""
    settings = config.training
    metrics = all_metrics(config)
    shuffle = torch.Generator().manual_seed(seed_of("shuffle", settings.seed))
    groups = recommender.backbone.parameter_groups(settings.learning_rate)
    optimiser = torch.optim.Adam([*groups, *_meta_network_group(recommender)], lr=settings.learning_rate, fused=True)

    step, epoch_seconds = 0, 0.0
    best: dict[str, Any] = {"epoch": 0, "score": -1.0, "state": None, "validation": {}}
    for epoch in range(1, settings.epochs + 1):
        started = time.perf_counter()
        sums = {"loss": 0.0, "reconstruction": 0.0, "matching": 0.0}
        terms: dict[str, float] = {}
        n_batches = 0
        recommender.train()
        for users in shuffled_batches(train.n_rows, settings.batch_size, shuffle):
            x = train.rows(users)
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
                posteriors = recommender.posteriors(x, users)
                decoded, auxiliary = recommender.backbone.reconstruct(posteriors.fused, Moment(step, epoch))
                reconstruction = multinomial_nll(decoded.hidden, decoded.weight, x, decoded.bias)
                divergence = matching.loss(*posteriors)
                loss = reconstruction + annealed(settings.annealing, step) * divergence
                if auxiliary is not None:
                    loss = loss + auxiliary
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

            if step % settings.log_terms_every == 0:
                terms = matching.terms(*posteriors)
            parts = (loss, reconstruction, divergence)
            sums = {name: total + float(part.detach()) for (name, total), part in zip(sums.items(), parts, strict=True)}
            step, n_batches = step + 1, n_batches + 1
        losses = {name: total / n_batches for name, total in sums.items()}
        seconds = time.perf_counter() - started
        epoch_seconds += seconds
        if not all(torch.isfinite(p).all() for p in recommender.parameters()):
            raise FloatingPointError(f"a weight became NaN or infinite in epoch {epoch}; lower training.learning_rate")
        run.log("epoch", epoch=epoch, seconds=round(seconds, 4), **losses, **terms)

        if epoch % settings.evaluate_every == 0 or epoch == settings.epochs:
            started = time.perf_counter()
            validation = evaluate(recommender, train, valid, metrics).means
            run.log("evaluation", epoch=epoch, seconds=round(time.perf_counter() - started, 4), **validation)
            score = validation[settings.monitor]
            if score > best["score"]:
                state = copy.deepcopy(recommender.state_dict())
                best = {"epoch": epoch, "score": score, "state": state, "validation": validation}
                run.save(state, {**about, "epoch": epoch})
            progress.evaluated(epoch, score, best["score"])
            if epoch - best["epoch"] >= settings.patience * settings.evaluate_every:
                break
        progress.epoch(epoch, losses, terms)

    recommender.load_state_dict(best["state"])
    return Fitted(best["epoch"], epoch, epoch_seconds / epoch, best["validation"])


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
