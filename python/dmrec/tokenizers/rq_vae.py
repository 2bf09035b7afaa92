"""RQ-VAE (Zeghidour et al., 2021; as TIGER's tokenizer: Rajput et al., NeurIPS 2023), and LETTER's regularisers.

A latent of each item's vector is quantized level by level, and the vector is decoded from the sum of its codes. Loss of
an item, with r_1 the latent, r_{l+1} what level l leaves, C_l its codebook:
  |x - decoded|^2 + weight * sum_l ( |sg[r_l] - C_l[c_l]|^2 + beta |r_l - sg[C_l[c_l]]|^2 )
LETTER (Wang et al., CIKM 2024) adds, for the quantized latents q of a batch and frozen collaborative vectors f of the
same width, the cross entropy of q f^T with each item's own f, and on each level a term that draws codes of one cluster
of the codebook together and others apart.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from dmrec_ext import residual_quantize

from ..errors import DmrecError
from .base import Fitted, Quantization, Report, Tokenizer, TokenizerOptions
from .health import churn, health_of
from .kmeans import kmeans
from .quantize import ResidualGradient, left_by, residual_codes
from .sinkhorn import sinkhorn

CLUSTERS, LEAST, MOST = 10, 10, 60  # of the codes of a level, for LETTER's diversity
TINY = torch.finfo(torch.float32).tiny


class RqVaeOptions(TokenizerOptions):
    """RQ-VAE."""

    kind: Literal["rq-vae"] = "rq-vae"
    latent: int = Field(32, ge=1, description="width of latents and codes")
    hidden: tuple[int, ...] = Field((512, 256, 128, 64), description="widths of the hidden layers of the encoder")
    standardise: bool = Field(True, description="vectors to mean 0 and variance 1 in each dimension")
    beta: float = Field(0.25, ge=0, description="weight of the commitment of latents to their codes")
    weight: float = Field(1.0, ge=0, description="of quantization beside reconstruction")
    reduction: Literal["sum", "mean"] = Field(
        "sum", description="over dimensions, in both terms: sum, as TIGER has norms, or mean, as LETTER and ETEGRec"
    )
    residual_gradient: ResidualGradient = Field(
        "all",
        description="which latents levels after the first teach: first: none, as in the released code of LETTER and "
        "ETEGRec; all: the encoder's; full: the codes of earlier levels, too",
    )
    initialisation: Literal["kmeans", "balanced", "uniform"] = Field(
        "kmeans", description="of the codebooks; balanced: k-means whose clusters are of at most one size"
    )
    assignment: Literal["nearest", "sinkhorn"] = Field(
        "nearest", description="of codes of the last level in training: sinkhorn uses them evenly, as LETTER does"
    )
    revive: int = Field(
        0, ge=0, description="every so many epochs unused codes move to the latents with the largest error; 0: never"
    )
    soft: bool = Field(
        False,
        description="latents are decoded from means of all codes, weighted by a softmax of their negative squared "
        "distances, as in UniGRec; codes of items are the nearest ones all the same",
    )
    soft_temperature: tuple[PositiveFloat, PositiveFloat] = Field(
        (0.01, 0.001), description="of that softmax in the first and in the last epoch, linear between"
    )
    soft_diversity: float = Field(
        1e-4, ge=0, description="weight of the negative entropy of a batch's mean softmax on each level, in `soft`"
    )
    epochs: int = Field(3000, ge=1, description="at most")
    patience: int = Field(200, ge=1, description="epochs in which neither loss nor codes move, after which it stops")
    learning_rate: float = Field(1e-3, gt=0, description="of AdamW")
    weight_decay: float = Field(1e-4, ge=0, description="of AdamW")
    batch_size: int = Field(1024, ge=1, description="items in a step")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")

    def fit(self, x: np.ndarray, collaborative: np.ndarray | None, report: Report) -> Fitted:
        """Trains until loss and codes stand still."""
        return _fit(self, x, collaborative, report)

    def network(self, width: int) -> RqVae:
        """For vectors of ``width``."""
        return RqVae(width, self)

    def restored(self, state: dict[str, np.ndarray]) -> Fitted:
        """Encoder and codebooks from their weights."""
        model = self.network(len(state["mean"]))
        model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
        return Fitted(model.eval())


class LetterOptions(RqVaeOptions):
    """RQ-VAE with LETTER's collaborative and diversity terms."""

    kind: Literal["letter-rq-vae"] = "letter-rq-vae"  # type: ignore[assignment]
    reads_collaborative: ClassVar[bool] = True
    levels: int = Field(4, ge=1, description="codes of an item")
    collaborative_weight: float = Field(0.01, ge=0, description="of the term that follows the collaborative vectors")
    diversity_weight: float = Field(1e-4, ge=0, description="of the term that spreads the codes")

    def network(self, width: int) -> RqVae:
        """For vectors of ``width``."""
        return LetterRqVae(width, self)


class RqVae(Tokenizer):
    """Encoder, codebooks and decoder."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, options: RqVaeOptions) -> None:
        super().__init__()
        widths = [width, *options.hidden, options.latent]
        self.options = options
        self.encoder, self.decoder = _mlp(widths), _mlp(widths[::-1])
        self.codebooks = nn.Parameter(torch.empty(options.levels, options.size, options.latent))
        nn.init.uniform_(self.codebooks, -1 / options.size, 1 / options.size)
        self.temperature = options.soft_temperature[0]
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def latents(self, x: Tensor) -> Tensor:
        """(n, latent) of vectors (n, E)."""
        result: Tensor = self.encoder(self.wanted(x))
        return result

    def wanted(self, x: Tensor) -> Tensor:
        """(n, E): vectors (n, E), standardised where the options say so."""
        return (x - self.mean) / self.deviation

    def decoded(self, quantized: Tensor) -> Tensor:
        """(n, E) of quantized latents (n, latent)."""
        result: Tensor = self.decoder(quantized)
        return result

    def begin_epoch(self, epoch: int) -> None:
        """Sets the temperature of `RqVaeOptions.soft` for an epoch, counted from 1."""
        first, last = self.options.soft_temperature
        self.temperature = first + (last - first) * (epoch - 1) / max(self.options.epochs - 1, 1)

    def quantize(self, x: Tensor, items: Tensor | None = None) -> Quantization:
        """The loss is that of reconstruction and quantization; codes are straight-through but in `soft`."""
        del items
        latents = self.latents(x)
        codes, quantized, quantization = self.bottleneck(latents)
        reconstruction = self._reduced((self.wanted(x) - self.decoder(quantized)).square())
        return Quantization(latents, codes, quantized, reconstruction + quantization)

    def bottleneck(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (n, levels), what is decoded (n, latent), and the weighted loss of quantization (n,)."""
        options = self.options
        if options.soft or (self.training and options.assignment == "sinkhorn"):
            return self._bottleneck(latents)
        codes, quantized, loss = residual_quantize(
            latents, self.codebooks, beta=options.beta, residual_gradient=options.residual_gradient
        )
        return codes, quantized, options.weight * (loss if options.reduction == "sum" else loss / latents.shape[1])

    def _bottleneck(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """With codes that are not the nearest ones, or means of all."""
        options = self.options
        left, total = latents, torch.zeros_like(latents)
        codes, loss, spread = [], latents.new_zeros(len(latents)), latents.new_zeros(())
        for level, codebook in enumerate(self.codebooks):
            distance = _squared_distances(left.detach(), codebook.detach())
            code = distance.argmin(1)
            if self.training and options.assignment == "sinkhorn" and level + 1 == options.levels:
                code = torch.from_numpy(sinkhorn(distance.numpy()))
            chosen = codebook[code]
            loss = loss + self._reduced((left.detach() - chosen).square())
            loss = loss + options.beta * self._reduced((left - chosen.detach()).square())
            if options.soft:
                share = torch.softmax(-_squared_distances(left, codebook) / self.temperature, 1)
                chosen, mean = share @ codebook, share.mean(0)
                spread = spread + options.soft_diversity * (mean * mean.clamp_min(TINY).log()).sum()
            codes.append(code)
            total = total + chosen
            left = left_by(left, chosen, options.residual_gradient)
        quantized = total if options.soft else latents + (total - latents).detach()
        return torch.stack(codes, 1), quantized, options.weight * loss + spread

    def _reduced(self, squares: Tensor) -> Tensor:
        return squares.sum(1) if self.options.reduction == "sum" else squares.mean(1)


def _squared_distances(x: Tensor, codebook: Tensor) -> Tensor:
    """(n, C) of rows (n, D) and codes (C, D)."""
    return x.square().sum(1, keepdim=True) - 2 * x @ codebook.T + codebook.square().sum(1)


def _mlp(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (narrow, wide) in enumerate(pairwise(widths)):
        linear = nn.Linear(narrow, wide)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, *([nn.ReLU()] if i + 2 < len(widths) else [])]
    return nn.Sequential(*layers)


def _fit(options: RqVaeOptions, x: np.ndarray, collaborative: np.ndarray | None, report: Report) -> Fitted:
    torch.manual_seed(options.seed)
    shuffle = torch.Generator().manual_seed(options.seed)
    vectors = torch.from_numpy(np.asarray(x, dtype=np.float32))
    model = options.network(vectors.shape[1])
    if options.standardise:
        model.mean.copy_(vectors.mean(0))
        model.deviation.copy_(vectors.std(0).clamp_min(1e-6))
    if options.initialisation != "uniform":
        _start_from_kmeans(model, vectors, options)
    if isinstance(model, LetterRqVae):
        model.follow(collaborative)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
    )
    best, still, before = float("inf"), 0, np.zeros((0, 0), dtype=np.int64)
    for epoch in range(1, options.epochs + 1):
        model.begin_epoch(epoch)
        model.refresh(epoch)
        total = torch.zeros((), dtype=torch.float64)
        codes = torch.empty(len(vectors), options.levels, dtype=torch.int64)
        for rows in torch.randperm(len(vectors), generator=shuffle).split(options.batch_size):
            found = model.quantize(vectors[rows], rows)
            codes[rows], loss = found.codes, found.loss.mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), options.clip)
            optimiser.step()
            total += len(rows) * loss.detach().double()
        mean = float(total) / len(vectors)
        if not np.isfinite(mean) or not all(torch.isfinite(p).all() for p in model.parameters()):
            raise DmrecError(f"a weight of the tokenizer became NaN or infinite in epoch {epoch}; lower learning_rate")
        now = codes.numpy()
        changed = churn(before, now)
        if options.revive and epoch % options.revive == 0:
            _revive(model, vectors, now)
        still = 0 if mean < best * (1 - 1e-4) or changed > 0.001 else still + 1
        best, before = min(best, mean), now.copy()
        if epoch % 50 == 0 or epoch == options.epochs or still >= options.patience:
            health = health_of(now, options.size)
            shown = {name: health[name] for name in ("used", "perplexity", "items in collisions")}
            report({"epoch": epoch, "loss": round(mean, 5), "churn": round(changed, 4), **shown})
        if still >= options.patience:
            break
    return Fitted(model.eval())


@torch.no_grad()
def _start_from_kmeans(model: RqVae, vectors: Tensor, options: RqVaeOptions) -> None:
    left = model.latents(vectors).double().numpy()
    for level in range(options.levels):
        centres = kmeans(left, options.size, options.seed + level, balanced=options.initialisation == "balanced")
        model.codebooks[level] = torch.from_numpy(centres).float()
        codes, _ = residual_codes(left, centres[None])
        left = left - centres[codes[:, 0]]


@torch.no_grad()
def _revive(model: RqVae, vectors: Tensor, codes: np.ndarray) -> None:
    """Moves unused codes of each level to what is left of the latents with the largest errors there, in their order."""
    left = model.latents(vectors)
    for level, codebook in enumerate(model.codebooks):
        of_level = torch.from_numpy(codes[:, level])
        error = (left - codebook[of_level]).square().sum(1)
        unused = (torch.bincount(of_level, minlength=len(codebook)) == 0).nonzero().squeeze(1)
        farthest = error.argsort(descending=True, stable=True)[: len(unused)]
        moved = left[farthest]
        left = left - codebook[of_level]
        codebook[unused[: len(farthest)]] = moved


class LetterRqVae(RqVae):
    """With LETTER's two terms. Codes of a level are clustered anew between epochs; draws follow torch's global seed."""

    options: LetterOptions
    clusters: Tensor  # (levels, C) int64
    collaborative: Tensor  # (N, latent)

    def __init__(self, width: int, options: LetterOptions) -> None:
        super().__init__(width, options)
        self.register_buffer("clusters", torch.zeros(options.levels, options.size, dtype=torch.int64))
        self.register_buffer("collaborative", torch.empty(0, options.latent), persistent=False)

    def follow(self, collaborative: np.ndarray | None) -> None:
        """Takes the collaborative vectors (N, latent) of all items.

        Raises:
            DmrecError: there are none, or they have another width.
        """
        if collaborative is None:
            raise DmrecError("letter-rq-vae needs collaborative vectors of the items (--collaborative)")
        if collaborative.shape[1] != self.options.latent:
            raise DmrecError(
                f"the collaborative vectors are {collaborative.shape[1]} wide and the latents {self.options.latent}: "
                f"make both equal (--set latent={collaborative.shape[1]})"
            )
        self.collaborative = torch.from_numpy(np.array(collaborative, dtype=np.float32))

    def refresh(self, epoch: int) -> None:
        """Clusters the codes of each level."""
        if not self.options.diversity_weight:
            return
        for level, codebook in enumerate(self.codebooks.detach().cpu().double().numpy()):
            self.clusters[level] = torch.from_numpy(balanced_clusters(codebook, self.options.seed + level + epoch))

    def quantize(self, x: Tensor, items: Tensor | None = None) -> Quantization:
        """With the terms of a batch in the loss of each of its items, where it is known which these are."""
        found = super().quantize(x)
        if items is None:
            return found
        own = torch.arange(len(items), device=x.device)
        scores = found.quantized @ self.collaborative[items].T
        terms = self.options.collaborative_weight * nn.functional.cross_entropy(scores, own)
        if self.options.diversity_weight:
            for level in range(self.options.levels):
                terms = terms + self.options.diversity_weight * self._diversity(level, found.codes[:, level])
        return found._replace(loss=found.loss + terms)

    def _diversity(self, level: int, code: Tensor) -> Tensor:
        """Cross entropy of each item's code vector with that of another code of its cluster, its own left out; 0 for a
        code that is alone in its cluster.
        """
        codebook, cluster = self.codebooks[level], self.clusters[level]
        others = cluster[code][:, None] == cluster
        others = others.scatter(1, code[:, None], False)
        count = others.sum(1)
        drawn = (torch.rand(len(code), device=code.device, dtype=torch.float64) * count).long()
        positive = (others & (others.cumsum(1) == drawn[:, None] + 1)).to(torch.int8).argmax(1)
        logits = (codebook[code] @ codebook.T).scatter(1, code[:, None], -torch.inf)
        each = nn.functional.cross_entropy(
            logits, positive.where(count > 0, (code + 1) % len(codebook)), reduction="none"
        )
        return (each * (count > 0)).sum() / (count > 0).sum().clamp_min(1)


def balanced_clusters(codebook: np.ndarray, seed: int) -> np.ndarray:
    """(C,) int64: the cluster of each code, of at most ten clusters of ten to sixty codes each, as near as possible.

    Fewer clusters where there are fewer codes.
    """
    n = len(codebook)
    clusters = min(CLUSTERS, max(n // LEAST, 1))
    centres = kmeans(codebook, clusters, seed, iterations=20)
    distance = ((codebook[:, None, :] - centres[None]) ** 2).sum(2)
    most = max(MOST, -(-n // clusters))
    slots = np.repeat(distance, most, axis=1)
    bonus = np.tile(np.arange(most) < min(LEAST, n // clusters), clusters)
    slots = slots - bonus * (distance.max() + 1.0) * 2
    _, slot = linear_sum_assignment(slots)
    return np.asarray(slot // most)
