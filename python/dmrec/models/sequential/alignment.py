"""Alignment of code distributions, around any `GenerativeModel`: SODA (Xue et al., arXiv 2603.00700).

The text of the paper is not public. From its abstract and figure: the target item's latent has a distribution over the
codes of each level of its tokenizer; so has the history's, a map of what the recommender has read of it. The history's
should be nearer to the target's than the average of the batch is. What the paper leaves open is an option here.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from dmrec_ext import Csr, code_alignment

from ...errors import DmrecError
from ...options import Options, SearchSpace
from ..base import Losses, Step, TrainedModel, TrainingData, UserBatch
from .code_distributions import calibrated_temperature, code_logits, perplexity_of
from .generative import GenerativeModel

MOST_CALIBRATED = 20_000  # items that temperatures are calibrated on, evenly spaced


class AlignmentConfig(Options):
    """Alignment of the history's distribution over codes with the target's."""

    strategy: Literal["soda", "sia", "soft-ce"] = Field(
        "soda",
        description="soda: contrasted with the average of the batch; sia: symmetric KL divergence, as in ETEGRec; "
        "soft-ce: cross entropy, the control for the contrast",
    )
    weight: float = Field(0.1, ge=0, description="beside the negative log-likelihood of the codes")
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
    residual: Literal["hard", "soft"] = Field(
        "hard", description="what a level takes off: the nearest code, or the mean of all by their probabilities"
    )
    residual_gradient: Literal["first", "all", "full"] = Field(
        "all", description="what levels after the first teach, see the tokenizers"
    )

    search_space: ClassVar[SearchSpace] = {"weight": {"low": 0.01, "high": 1.0, "log": True}}


class Aligned(TrainedModel):
    """A generative recommender whose loss has an alignment; it ranks as before. The tokenizer is frozen."""

    latents: Tensor  # (N, D) of the items
    codebooks: Tensor  # (L, C, D)
    temperature: Tensor  # (L,)

    def __init__(self, model: GenerativeModel, data: TrainingData, options: AlignmentConfig) -> None:
        super().__init__()
        if data.item_tokenizer is None:
            raise DmrecError("an alignment needs the tokenizer of the codes")
        self.model, self.options = model, options
        self.n_examples = model.n_examples
        latents, codebooks = (torch.from_numpy(each).float() for each in data.item_tokenizer)
        self.register_buffer("latents", latents, persistent=False)
        self.register_buffer("codebooks", codebooks, persistent=False)
        self.register_buffer("temperature", self._temperature(data.state is not None))
        widths = [model.width, *options.hidden, latents.shape[1]]
        layers: list[nn.Module] = []
        for i, (narrow, wide) in enumerate(pairwise(widths)):
            linear = nn.Linear(narrow, wide)
            nn.init.normal_(linear.weight, std=0.02)  # near the origin: at first a history says what the batch says
            nn.init.zeros_(linear.bias)
            layers += [linear, *([nn.ReLU()] if i + 2 < len(widths) else [])]
        self.to_latent = nn.Sequential(*layers)
        self._last: dict[str, Tensor] = {}

    def _temperature(self, will_be_loaded: bool) -> Tensor:
        options, levels = self.options, len(self.codebooks)
        if options.temperature != "calibrated" or will_be_loaded:
            value = 1.0 if options.temperature == "calibrated" else options.temperature
            return torch.full((levels,), float(value))
        wanted = options.perplexity or max(self.codebooks.shape[1] / 32, 1.5)
        some = self.latents[:: -(-len(self.latents) // MOST_CALIBRATED)]
        try:
            return calibrated_temperature(some, self.codebooks, wanted, soft=options.residual == "soft")
        except ValueError as error:
            raise DmrecError(f"alignment.perplexity: {error}") from None

    def batch(self, index: Tensor) -> Any:
        """That of the recommender."""
        return self.model.batch(index)

    def loss(self, batch: Any, step: Step) -> Losses:
        """``nll`` and ``alignment``, the latter before its weight, in nats per example."""
        del step
        found = self.model.predictions(batch)
        options = {"soft": self.options.residual == "soft", "residual_gradient": self.options.residual_gradient}
        with torch.no_grad():
            target = code_logits(self.latents[found.target], self.codebooks, self.temperature, **options)  # type: ignore[arg-type]
        latent = self.to_latent(found.history)
        prediction = code_logits(latent, self.codebooks, self.temperature, **options)  # type: ignore[arg-type]
        nll, alignment = found.nll.mean(), self._alignment(target, prediction).mean()
        self._last = {"target": target, "prediction": prediction.detach()}
        return {"loss": nll + self.options.weight * alignment, "nll": nll, "alignment": alignment.detach()}

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
        """Of the last batch: by level the mean perplexity of targets and histories, how often both have one code."""
        if not self._last:
            return {}
        target, prediction = self._last["target"], self._last["prediction"]
        same = (target.argmax(-1) == prediction.argmax(-1)).double().mean(0)
        found = {}
        for level in range(target.shape[1]):
            found[f"perplexity_target_{level + 1}"] = perplexity_of(target[:, level]).mean()
            found[f"perplexity_history_{level + 1}"] = perplexity_of(prediction[:, level]).mean()
            found[f"same_code_{level + 1}"] = same[level]
        return found

    def parameter_groups(self, learning_rate: float) -> Iterable[dict[str, Any]]:
        """Those of the recommender, and the map to latents at the configured rate."""
        of_map = {"params": list(self.to_latent.parameters()), "lr": learning_rate}
        return [*self.model.parameter_groups(learning_rate), of_map]

    def begin_epoch(self, epoch: int) -> None:
        """That of the recommender."""
        self.model.begin_epoch(epoch)

    def end_epoch(self, epoch: int) -> None:
        """That of the recommender."""
        self.model.end_epoch(epoch)

    @property
    def tied_items(self) -> Tensor | None:
        """Those of the recommender."""
        return self.model.tied_items

    def rank(self, batch: UserBatch, k: int, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
        """That of the recommender."""
        return self.model.rank(batch, k, exclude)
