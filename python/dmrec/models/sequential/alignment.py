"""Alignment of code distributions, around any `GenerativeModel`: SODA (Xue et al., arXiv 2603.00700).

The text of the paper is not public. From its abstract and figure: the target item's latent has a distribution over the
codes of each level of its tokenizer; so has the history's, a map of what the recommender has read of it. The history's
should be nearer to the target's than the average of the batch is. What the paper leaves open is an option here.

ETEGRec (Liu et al., SIGIR 2025) is the same model with two other terms: SIA, the symmetric KL divergence of these
distributions, and PSA, InfoNCE between a map of the decoder's first state and the target's vector as the tokenizer
decodes it. In both the tokenizer may learn, too: see `Phase`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from dmrec_ext import Csr, code_alignment

from ...errors import DmrecError
from ...options import Options, SearchSpace
from ...runtime import move
from ...tokenizers.base import Fitted, Quantization
from ...tokenizers.collisions import codes_of_width
from ...tokenizers.health import check_health, churn, health_of
from ...tokenizers.quantize import ResidualGradient
from ..base import Losses, Step, TrainedModel, TrainingData, UserBatch, evaluating
from ..phases import Phase
from .code_distributions import calibrated_temperature, code_logits, perplexity_of
from .generative import GenerativeModel, Reading

MOST_CALIBRATED = 20_000  # items that temperatures are calibrated on, evenly spaced
MOST_KEPT = 64 * 2**20  # logits of all items that are kept for an epoch
READ_AT_ONCE = 1024  # examples, where the recommender stands still


class AlignmentConfig(Options):
    """Alignment of the history's distribution over codes with the target's."""

    strategy: Literal["soda", "sia", "soft-ce"] = Field(
        "soda",
        description="soda: contrasted with the average of the batch; sia: symmetric KL divergence, as in ETEGRec; "
        "soft-ce: cross entropy, the control for the contrast",
    )
    weight: float = Field(0.1, ge=0, description="beside the negative log-likelihood of the codes")
    tokenizer_weight: float | None = Field(
        None, ge=0, description="beside the tokenizer's own loss, in epochs of its own; default: `weight`"
    )
    joint_tokenizer_weight: float = Field(0.5, ge=0, description="of the tokenizer's own loss in joint steps")
    temperature: PositiveFloat | Literal["calibrated"] = Field(
        "calibrated", description="of the softmax of squared distances, or one for each level that gives `perplexity`"
    )
    perplexity: float | None = Field(
        None, gt=1, description="mean perplexity of the items' distributions; default: codes of a level / 32"
    )
    direction: Literal["forward", "reverse", "symmetric"] = Field(
        "forward", description="of the KL divergences: from the target, from the others, or both"
    )
    negative: Literal["batch_mean", "leave_one_out"] = Field(
        "batch_mean", description="the average of the batch, or of its other rows"
    )
    detach_negative: bool = Field(False, description="whether the average is a constant")
    anchor: Literal["target", "history"] = Field(
        "target", description="history: the average is over targets, and the history is compared with them"
    )
    levels: Literal["sum", "mean"] = Field("sum", description="over levels; the mean saturates later")
    slope: float = Field(1.0, gt=0, description="s in s softplus(-delta / s)")
    hidden: tuple[int, ...] = Field((), description="widths of hidden layers of the map from histories to latents")
    residual: Literal["soft", "hard", "target"] = Field(
        "soft",
        description="what a level takes off: the mean of all codes by their probabilities; the nearest code; or that, "
        "but of histories the code of the target, as a decoder in training is given the right codes before",
    )
    residual_gradient: ResidualGradient = Field(
        "all", description="what levels after the first teach, see the tokenizers"
    )
    likeliest: Literal["nearest", "farthest"] = Field(
        "nearest", description="farthest: the sign of the distance in the released code of ETEGRec and UniGRec"
    )
    refresh_temperature: bool = Field(False, description="calibrate anew whenever a tokenizer that learns forms codes")
    distinct_targets: bool = Field(False, description="of examples of a batch with one target, only the first counts")
    psa_weight: float = Field(
        0.0, ge=0, description="of ETEGRec's preference-semantic alignment with the target's decoded vector; 0: none"
    )
    psa_temperature: float = Field(0.07, gt=0, description="cosines are divided by it")

    search_space: ClassVar[SearchSpace] = {"weight": {"low": 1e-5, "high": 1.0, "log": True}}


class AlignedBatch(NamedTuple):
    """B examples with K distinct targets."""

    inputs: Any  # the recommender's batch; None where it stands still
    examples: Tensor  # (B,) int64
    items: Tensor  # (K,) int64 targets
    of_example: Tensor  # (B,) int64: which of them is an example's
    first: Tensor  # (K,) int64: the first example of each


class Aligned(TrainedModel):
    """A generative recommender whose loss has an alignment; it ranks as before.

    Args:
        model: the recommender.
        data: with the tokenizer of the codes.
        options: of the alignment.
        learns: whether the tokenizer learns in some phase; codes are then part of the model's state.
    """

    vectors: Tensor  # (N, E) of the items
    temperature: Tensor  # (L,)
    centre: Tensor  # (D,) mean of the items' latents
    spread: Tensor  # (D,) and their standard deviation
    item_codes: Tensor  # (N, levels) int64, where the tokenizer learns

    ranks_deep = False

    def __init__(
        self, model: GenerativeModel, data: TrainingData, options: AlignmentConfig, *, learns: bool = False
    ) -> None:
        super().__init__()
        if data.item_tokenizer is None:
            raise DmrecError("an alignment needs the tokenizer of the codes")
        self.model, self.options, self.learns = model, options, learns
        self.n_examples = model.n_examples
        self.tokenizer, vectors, self.collisions = data.item_tokenizer
        self.tokenizer.requires_grad_(False)
        self.register_buffer("vectors", torch.from_numpy(np.array(vectors, dtype=np.float32)), persistent=False)
        with torch.no_grad():
            latents = self.tokenizer.latents(self.vectors)
        self.register_buffer("temperature", self._temperature(latents, data.state is not None))
        self.register_buffer("centre", latents.mean(0))
        self.register_buffer("spread", latents.std(0, correction=0))
        if learns:
            self.register_buffer("item_codes", model.codes.clone())
            taking: Any = self.register_load_state_dict_post_hook  # it has no types
            taking(lambda module, keys: model.set_codes(self.item_codes.clone()))
        self.to_latent = _small_mlp([model.width, *options.hidden, latents.shape[1]])
        self.to_vector = nn.Linear(model.width, vectors.shape[1]) if options.psa_weight else None
        self.phase, self.turn, self.aligns = Phase(), "recommender", True
        self._of_items: tuple[Tensor, Tensor] | None = None
        self._read: tuple[Tensor, Tensor | None] | None = None
        self._last: dict[str, Tensor] = {}

    def _temperature(self, latents: Tensor, will_be_loaded: bool = False) -> Tensor:
        options, codebooks = self.options, self.tokenizer.codebooks.detach()
        if options.temperature != "calibrated" or will_be_loaded:
            value = 1.0 if options.temperature == "calibrated" else options.temperature
            return torch.full((len(codebooks),), float(value))
        wanted = options.perplexity or max(codebooks.shape[1] / 32, 1.5)
        some = latents[:: -(-len(latents) // MOST_CALIBRATED)]
        try:
            return calibrated_temperature(some, codebooks, wanted, soft=options.residual == "soft")
        except ValueError as error:
            raise DmrecError(f"alignment.perplexity: {error}") from None

    def batch(self, index: Tensor) -> AlignedBatch:
        """The recommender's, and the distinct targets."""
        items, of_example = self.model.targets(index).unique(return_inverse=True)
        first = torch.full((len(items),), len(index)).scatter_reduce_(0, of_example, torch.arange(len(index)), "amin")
        inputs = None if self.turn == "tokenizer" else self.model.batch(index)
        return AlignedBatch(inputs, index, items, of_example, first)

    def loss(self, batch: AlignedBatch, step: Step) -> Losses:
        """Where the recommender learns, its ``nll``; where the tokenizer does, its ``quantization``; ``alignment`` and
        ``psa``, before their weights, in nats per example.
        """
        del step
        losses: Losses = {}
        quantization, latent, preference = None, None, None
        total = self.vectors.new_zeros(())
        if self.turn != "tokenizer":
            found = self.model.predictions(batch.inputs)
            losses["nll"] = found.nll.mean()
            total = total + losses["nll"]
            latent, preference = self._projected(found.reading)
        elif self.aligns:
            assert self._read is not None, "begin_epoch reads the histories"
            latent, preference = (None if each is None else each[batch.examples] for each in self._read)
        if self.turn != "recommender":
            quantization = self.tokenizer.quantize(self.vectors[batch.items], batch.items)
            losses["quantization"] = quantization.loss.mean()
            weight = self.options.joint_tokenizer_weight if self.turn == "joint" else 1.0
            total = total + weight * losses["quantization"]
        if self.aligns:
            assert latent is not None
            aligned, weighted = self._aligned(batch, latent, preference, quantization)
            losses |= aligned
            total = total + weighted
        return {"loss": total, **losses}

    def _aligned(
        self, batch: AlignedBatch, latent: Tensor, preference: Tensor | None, quantization: Quantization | None
    ) -> tuple[Losses, Tensor]:
        """``alignment`` and ``psa`` of what was read of histories, and their weighted sum."""
        options, one_each = self.options, self.options.distinct_targets
        logits, vectors = self._targets(batch.items, quantization)
        codebooks = self.tokenizer.codebooks if quantization is not None else self.tokenizer.codebooks.detach()
        logits, latent = (logits, latent[batch.first]) if one_each else (logits[batch.of_example], latent)
        codes = None
        if options.residual == "target":
            codes = (logits if options.likeliest == "nearest" else -logits).detach().argmax(-1)
        prediction = self._logits(latent, codebooks, codes)
        each = self._alignment(logits, prediction)
        self._last = {"target": logits.detach(), "prediction": prediction.detach(), "each": each.detach()}
        losses, weight = {"alignment": each.mean()}, options.weight
        if self.turn == "tokenizer" and options.tokenizer_weight is not None:
            weight = options.tokenizer_weight
        total = weight * losses["alignment"]
        if preference is not None:
            pair = (preference[batch.first], vectors) if one_each else (preference, vectors[batch.of_example])
            losses["psa"] = info_nce(*pair, options.psa_temperature)
            total = total + options.psa_weight * losses["psa"]
        return losses, total

    def history_latents(self, history: Tensor) -> Tensor:
        """(B, D) from what was read of histories (B, width): the map's values are in standard deviations of the items'
        latents from their mean. In units of the latents themselves, a step of Adam would be many such deviations.
        """
        result: Tensor = self.centre + self.spread * self.to_latent(history)
        return result

    def _projected(self, reading: Reading) -> tuple[Tensor, Tensor | None]:
        """Latents (B, D) of histories, and vectors (B, E) for PSA."""
        return self.history_latents(reading.history), None if self.to_vector is None else self.to_vector(reading.first)

    def _logits(self, latents: Tensor, codebooks: Tensor, codes: Tensor | None = None) -> Tensor:
        """(n, L, C) of latents (n, D)."""
        options = self.options
        logits = code_logits(
            latents,
            codebooks,
            self.temperature,
            residual_gradient=options.residual_gradient,
            soft=options.residual == "soft",
            codes=codes,
        )
        return logits if options.likeliest == "nearest" else -logits

    def _targets(self, items: Tensor, quantization: Quantization | None) -> tuple[Tensor, Tensor]:
        """Logits (K, L, C) and decoded vectors (K, E) of items: with gradients, if they are being quantized."""
        if quantization is not None:
            logits = self._logits(quantization.latents, self.tokenizer.codebooks)
            return logits, self.tokenizer.decoded(quantization.quantized)
        with torch.no_grad():
            if self._of_items is not None:
                return self._of_items[0][items], self._of_items[1][items]
            if len(self.vectors) * self.tokenizer.codebooks[..., 0].numel() > MOST_KEPT:
                return self._constants(items)
            self._of_items = self._constants(torch.arange(len(self.vectors), device=items.device))
            return self._targets(items, None)

    def _constants(self, items: Tensor) -> tuple[Tensor, Tensor]:
        found = self.tokenizer.quantize(self.vectors[items])
        return self._logits(found.latents, self.tokenizer.codebooks), self.tokenizer.decoded(found.quantized)

    def _alignment(self, target: Tensor, prediction: Tensor) -> Tensor:
        """(B,) of logits (B, L, C)."""
        options, levels = self.options, target.shape[1]
        weights = [1.0 / levels if options.levels == "mean" else 1.0] * levels
        if options.strategy == "soda":
            pair = (target, prediction) if options.anchor == "target" else (prediction, target)
            return code_alignment(
                *pair,
                direction=options.direction,
                negative=options.negative,
                detach_negative=options.detach_negative,
                level_weights=weights,
                slope=options.slope,
            )
        log_y, log_p = target.log_softmax(-1), prediction.log_softmax(-1)
        of_levels = -(log_y.exp() * log_p).sum(-1)
        if options.strategy == "sia":
            of_levels = ((log_y.exp() - log_p.exp()) * (log_y - log_p)).sum(-1)
        return (of_levels * of_levels.new_tensor(weights)).sum(-1)

    @torch.no_grad()
    def metrics(self) -> dict[str, Tensor]:
        """Of the last batch: by level the mean perplexity of targets and histories, how often both have one code; with
        SODA also what share of its full gradient a row still has, on average, and the share of rows with less than 1 %.
        """
        if not self._last:
            return {}
        target, prediction, each = self._last["target"], self._last["prediction"], self._last["each"]
        same = (target.argmax(-1) == prediction.argmax(-1)).double().mean(0)
        found = {}
        for level in range(target.shape[1]):
            found[f"perplexity_target_{level + 1}"] = perplexity_of(target[:, level]).mean()
            found[f"perplexity_history_{level + 1}"] = perplexity_of(prediction[:, level]).mean()
            found[f"same_code_{level + 1}"] = same[level]
        if self.options.strategy == "soda":
            pace = -torch.expm1(-each / self.options.slope)  # sigmoid(-delta / slope)
            found |= {"pace": pace.mean(), "pace_below_1_percent": (pace < 0.01).double().mean()}
        return found

    def parameter_groups(self, learning_rate: float) -> Iterable[dict[str, Any]]:
        """``recommender``: its own groups and the maps; ``tokenizer``, where it learns in this phase."""
        groups = [{**group, "name": "recommender"} for group in self.model.parameter_groups(learning_rate)]
        maps = [*self.to_latent.parameters(), *([] if self.to_vector is None else self.to_vector.parameters())]
        groups.append({"params": maps, "lr": learning_rate, "name": "recommender"})
        if self.phase.tokenizer_learns:
            rate = self.phase.tokenizer_learning_rate
            groups.append({"params": list(self.tokenizer.parameters()), "lr": rate, "name": "tokenizer"})
        return groups

    def begin_phase(self, phase: Phase) -> None:
        """Decides whether the tokenizer learns."""
        self.phase = phase
        self.tokenizer.requires_grad_(phase.tokenizer_learns)

    def learning(self, epoch: int) -> Collection[str]:
        """``tokenizer`` in the first epoch of each cycle, if the two alternate."""
        if self.phase.mode == "joint":
            return ("recommender", "tokenizer")
        turn = self.phase.mode == "alternate" and (epoch - 1) % self.phase.cycle == 0
        return ("tokenizer",) if turn else ("recommender",)

    def begin_epoch(self, epoch: int) -> None:
        """Whose turn it is. What stands still in the epoch is computed once: all histories, or all targets."""
        self.model.begin_epoch(epoch)
        turns = self.learning(epoch)
        self.turn = "joint" if len(turns) > 1 else next(iter(turns))
        self.aligns = epoch >= self.phase.alignment_from
        self.tokenizer.train(self.turn != "recommender")
        self._of_items, self._read, self._last = None, None, {}
        if self.turn == "tokenizer" and self.aligns:
            self._read = self._read_all()

    def _read_all(self) -> tuple[Tensor, Tensor | None]:
        with evaluating(self):
            batches = map(self.model.batch, torch.arange(self.n_examples).split(READ_AT_ONCE))
            parts = [self._projected(self.model.reading(move(batch, self.device))) for batch in batches]
        latents, vectors = zip(*parts, strict=True)
        return torch.cat(latents), None if self.to_vector is None else torch.cat(vectors)

    def end_epoch(self, epoch: int) -> Mapping[str, float]:
        """Where the tokenizer has learned, the items get their codes anew; returns their health, and ``churn``, the
        share of items whose codes have changed.
        """
        values = dict(self.model.end_epoch(epoch))
        if self.turn == "recommender":
            return values
        before, vectors = self.model.codes.cpu().numpy(), self.vectors.cpu().numpy()
        self.tokenizer.refresh(epoch + 1)
        fitted = Fitted(self.tokenizer)
        codes, residuals = fitted.codes(vectors)
        size = self.tokenizer.codebooks.shape[1]
        check_health(codes, size)
        codes = codes_of_width(codes, size, self.collisions, residuals, fitted.codebooks[-1], levels=before.shape[1])
        self.item_codes.copy_(torch.from_numpy(codes))
        self.model.set_codes(self.item_codes.clone())
        if self.options.refresh_temperature:
            with torch.no_grad():
                self.temperature.copy_(self._temperature(self.tokenizer.latents(self.vectors)))
        health = health_of(codes, size)
        for level, (used, perplexity) in enumerate(zip(health["used"], health["perplexity"], strict=True), start=1):
            values |= {f"codes_used_{level}": used, f"codes_perplexity_{level}": perplexity}
        return {**values, "items_in_collisions": health["items in collisions"], "churn": churn(before, codes)}

    @property
    def tied_items(self) -> Tensor | None:
        """Those of the recommender."""
        return self.model.tied_items

    def log_likelihood(self, batch: UserBatch, items: Csr) -> Tensor:
        """That of the recommender."""
        return self.model.log_likelihood(batch, items)

    def rank(self, batch: UserBatch, k: int, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
        """That of the recommender."""
        return self.model.rank(batch, k, exclude)


def info_nce(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    """(): cross entropy of the cosines of rows x (B, E) with all rows y (B, E), over the temperature, and their own;
    the mean of that and of y with x. 0 for one row.
    """
    scores = nn.functional.normalize(x, dim=1) @ nn.functional.normalize(y, dim=1).T / temperature
    own = torch.arange(len(scores), device=scores.device)
    return (nn.functional.cross_entropy(scores, own) + nn.functional.cross_entropy(scores.T, own)) / 2


def _small_mlp(widths: list[int]) -> nn.Sequential:
    """Linear maps with ReLU between, near 0 at first: a history then says what the average item says."""
    layers: list[nn.Module] = []
    for i, (narrow, wide) in enumerate(pairwise(widths)):
        linear = nn.Linear(narrow, wide)
        nn.init.normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
        layers += [linear, *([nn.ReLU()] if i + 2 < len(widths) else [])]
    return nn.Sequential(*layers)
