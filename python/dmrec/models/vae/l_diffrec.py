"""L-DiffRec (Wang et al., SIGIR 2023): diffusion over the latent space of an autoencoder, items in clusters.

Encoder: for each cluster of items a linear layer from their interactions, then tanh: mean and log-variance of z_0.
Forward process over T steps: z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps with 1 - alpha_bar_t linear from
``noise_scale noise_min`` to ``noise_scale noise_max``. A network predicts z_0 from z_t and t; its squared error,
weighted by SNR(t-1) - SNR(t) (1 at t = 0), is a further loss. Steps are drawn by importance: in proportion to the root
of the mean of the last ten squared losses of a step, and a thousandth uniformly; uniformly until every step has ten.
Decoder: one linear layer from the predicted z_0. To recommend, z_0 = mean goes through T reverse steps, without noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from dmrec_ext import Csr, csr_aggregate

from ...errors import DmrecError
from ...options import SearchSpace
from ...sharding.items import ItemShards
from ..base import Step, TrainingData, WithItemEmbeddings, register
from .backbone import Backbone, Decoded, Reconstruction, ShardedDecoded
from .gaussian import Gaussian
from .item_text import ItemLinear, ItemTexts
from .model import BackboneConfig

HISTORY = 10  # losses of a step that its importance is computed from
UNIFORM = 0.001  # share of steps drawn uniformly
TIME_WIDTH = 10


@register
class LDiffRecConfig(BackboneConfig, WithItemEmbeddings):
    """L-DiffRec."""

    kind: Literal["l-diffrec"] = "l-diffrec"
    latent: int = Field(300, ge=1, description="dimensions of the posteriors, over all clusters")
    hidden: int = Field(300, ge=1, description="width of the denoiser's hidden layer")
    clusters: int = Field(2, ge=1, description="number of clusters of items, by k-means on `item_embeddings`")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of a user's interactions that is dropped in training")
    denoiser_dropout: float = Field(0.5, ge=0, lt=1, description="dropout of z_t")
    denoiser_rate: float = Field(1e-4, gt=0, description="learning rate of the denoiser")
    steps: int = Field(5, ge=1, description="T, steps of the diffusion")
    noise_scale: float = Field(0.5, gt=0, description="scale of the variances")
    noise_min: float = Field(0.001, gt=0, description="variance of the first step, before scaling")
    noise_max: float = Field(0.005, gt=0, description="variance of the last step, before scaling")
    weight: float = Field(0.05, ge=0, description="weight of the diffusion's loss; falls by 1/500 an epoch, to 0.005")

    unsharded: ClassVar[str | None] = "its clusters are of all items"
    search_space: ClassVar[SearchSpace] = {
        "dropout": {"low": 0.0, "high": 0.7},
        "hidden": {"choices": [200, 300, 400, 600, 800]},
        "latent": {"choices": [64, 100, 200, 300]},
    }

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.clusters > self.latent:
            raise ValueError(f"{self.clusters} clusters cannot share {self.latent} latent dimensions")
        if self.noise_min > self.noise_max or self.noise_scale * self.noise_max >= 1:
            raise ValueError("noise_min must not exceed noise_max, and noise_scale x noise_max must stay below 1")
        if self.item_text is not None and self.item_text.encoder:
            raise ValueError("l-diffrec has an encoder for each cluster, which cannot read texts: item_text.encoder")
        return self

    @property
    def uses_item_embeddings(self) -> bool:
        """A single cluster needs no vectors."""
        return self.clusters > 1

    def backbone(self, data: TrainingData) -> LDiffRec:
        """The network; initial weights follow torch's global seed. A saved model keeps the clusters that it has."""
        texts = self.texts(data)
        if data.state is not None:
            cluster = data.state["backbone.cluster"]
            sizes = data.state.get("backbone.sizes", torch.bincount(cluster[cluster >= 0]))
            return LDiffRec(self, with_new_items(cluster, texts), texts, sizes)
        if self.clusters == 1:
            return LDiffRec(self, torch.zeros(data.n_items, dtype=torch.int64), texts)
        if data.item_embeddings is None:
            raise DmrecError(
                "l-diffrec forms clusters of items by their vectors: set model.item_embeddings, or model.clusters to 1"
            )
        return LDiffRec(self, clusters_of(data.item_embeddings, self.clusters), texts)


def clusters_of(vectors: np.ndarray, count: int) -> Tensor:
    """(N,) int64: the cluster of each item, by k-means on the directions of ``vectors`` (N, E); always the same."""
    vectors = np.array(vectors, dtype=np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    _, label = kmeans2(vectors, count, iter=50, minit="++", seed=0)
    return torch.from_numpy(np.unique(label, return_inverse=True)[1]).long()


def with_new_items(cluster: Tensor, texts: ItemTexts | None) -> Tensor:
    """``cluster`` (N,) where it is -1, for items that have joined, filled in: the cluster with the nearest mean text
    vector, or without ``texts`` the largest one.
    """
    new = cluster < 0
    if not bool(new.any()):
        return cluster
    if texts is None:
        return torch.where(new, torch.bincount(cluster[~new]).argmax(), cluster)
    means = torch.stack([texts.vectors[cluster == number].mean(0) for number in range(int(cluster.max()) + 1)])
    nearest = torch.cdist(texts.vectors[new], means).argmin(1)
    return cluster.masked_scatter(new, nearest)


class LDiffRec(Backbone):
    """The encoders of all clusters are one table, a row an item, which uses as many columns as its cluster has.

    What the model has seen of its losses is state: buffers, which checkpoints hold.
    """

    item_state = ("cluster", "encoder_weight", "decoder.weight", "decoder.bias")

    cluster: Tensor  # (N,) int64
    sizes: Tensor  # (K,) int64 of the clusters when they were formed, which decide their shares of the dimensions
    alpha_bar: Tensor  # (T,)
    sqrt_alpha_bar: Tensor  # (T,) share of z_0 in z_t
    sqrt_one_minus_alpha_bar: Tensor  # (T,) share of the noise; computed in float64, where 1 - alpha_bar is exact
    loss_weight: Tensor  # (T,) of the error of a step's prediction
    posterior_mean_coef1: Tensor  # (T,) share of z_0 in the mean of z_{t-1} given z_t and z_0
    posterior_mean_coef2: Tensor  # (T,) share of z_t in it
    frequency: Tensor  # (TIME_WIDTH / 2,) of the sinusoids that encode t
    losses: Tensor  # (T, HISTORY) the last losses of each step, oldest first
    seen: Tensor  # (T,) int64: how many of them there are, at most HISTORY

    def __init__(
        self, config: LDiffRecConfig, cluster: Tensor, texts: ItemTexts | None = None, sizes: Tensor | None = None
    ) -> None:
        super().__init__()
        self.latent, self.input_dropout = config.latent, config.dropout
        self.config = config
        sizes = torch.bincount(cluster) if sizes is None else sizes
        widths = torch.ones_like(sizes) + (sizes * (config.latent - len(sizes)) // sizes.sum())
        widths[-1] += config.latent - widths.sum()
        self.widths: list[int] = widths.tolist()  # latent dimensions of each cluster
        n_clusters, widest = len(sizes), 2 * max(self.widths)
        self.register_buffer("cluster", cluster)
        self.register_buffer("sizes", sizes)
        self.encoder_weight = nn.Parameter(torch.zeros(len(cluster), widest))
        self.encoder_bias = nn.Parameter(torch.zeros(n_clusters, widest))
        self.time = nn.Linear(TIME_WIDTH, TIME_WIDTH)
        self.denoiser_input = nn.Linear(config.latent + TIME_WIDTH, config.hidden)
        self.denoiser_output = nn.Linear(config.hidden, config.latent)
        self.denoiser_dropout = nn.Dropout(config.denoiser_dropout)
        self.decoder = ItemLinear(config.latent, ItemShards(len(cluster)), texts, config.item_text)
        self._initialise()
        variance = np.linspace(
            config.noise_scale * config.noise_min, config.noise_scale * config.noise_max, config.steps
        )
        alpha_bar = 1 - variance
        before = np.append(1.0, alpha_bar[:-1])
        beta = 1 - alpha_bar / before
        snr = alpha_bar / (1 - alpha_bar)
        half = TIME_WIDTH // 2
        # computed in float64, used in float32: neither trained nor part of checkpoints
        for name, values in {
            "alpha_bar": alpha_bar,
            "sqrt_alpha_bar": np.sqrt(alpha_bar),
            "sqrt_one_minus_alpha_bar": np.sqrt(variance),
            "loss_weight": np.append(1.0, snr[:-1] - snr[1:]),
            "posterior_mean_coef1": beta * np.sqrt(before) / (1 - alpha_bar),
            "posterior_mean_coef2": np.sqrt(alpha_bar / before) * (1 - before) / (1 - alpha_bar),
        }.items():
            self.register_buffer(name, torch.from_numpy(values).float(), persistent=False)
        self.register_buffer("frequency", torch.exp(-math.log(10000) * torch.arange(half) / half), persistent=False)
        self.register_buffer("losses", torch.zeros(config.steps, HISTORY))
        self.register_buffer("seen", torch.zeros(config.steps, dtype=torch.int64))
        self.register_load_state_dict_pre_hook(_join_encoders)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _initialise(self) -> None:
        """Xavier normal, each cluster's encoder by itself; biases 0."""
        for number, width in enumerate(self.widths):
            mine = self.cluster == number
            rows = torch.empty(int(mine.sum()), 2 * width)
            self.encoder_weight[mine, : 2 * width] = nn.init.xavier_normal_(rows)
        for layer in (self.time, self.denoiser_input, self.denoiser_output, self.decoder):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def encode(self, x: Csr, dropped: Csr) -> Gaussian:
        """Posterior of z_0: means of all clusters, then log-variances, within (-1, 1)."""
        n_clusters, widest = self.encoder_bias.shape
        parts = by_cluster(dropped, self.cluster, n_clusters)
        bias = self.encoder_bias[:, None].expand(n_clusters, x.n_rows, widest).reshape(-1, widest)
        output = torch.tanh(csr_aggregate(parts, self.encoder_weight, bias)).view(n_clusters, x.n_rows, widest)
        gaussians = [Gaussian.from_output(part[:, : 2 * w]) for part, w in zip(output, self.widths, strict=True)]
        return Gaussian(torch.cat([g.mu for g in gaussians], dim=1), torch.cat([g.logvar for g in gaussians], dim=1))

    def denoise(self, z: Tensor, step: Tensor) -> Tensor:
        """z_0 (B, D) as predicted from z_t (B, D) and t (B,) int64."""
        angle = step[:, None] * self.frequency
        time = self.time(torch.cat([angle.cos(), angle.sin()], dim=1))
        hidden = torch.tanh(self.denoiser_input(torch.cat([self.denoiser_dropout(z), time], dim=1)))
        predicted: Tensor = self.denoiser_output(hidden)
        return predicted.to(z.dtype)

    def reconstruct(self, posterior: Gaussian, step: Step) -> Reconstruction:
        """Decodes the predicted z_0; the auxiliary loss is the weighted error of the prediction."""
        z_0 = posterior.sample()
        t, probability = self._draw_steps(len(z_0))
        noise = self.sqrt_one_minus_alpha_bar[t][:, None] * torch.randn_like(z_0)
        predicted = self.denoise(self.sqrt_alpha_bar[t][:, None] * z_0 + noise, t)
        error = self.loss_weight[t] * (z_0 - predicted).square().mean(1)
        self._remember(t, error.detach())
        weight = max(0.005, self.config.weight * (1 - step.epoch / 500))
        return Reconstruction(self.decode(predicted), weight * (error / (self.config.steps * probability)).mean())

    def infer(self, posterior: Gaussian) -> Tensor:
        """The mean, after the reverse steps."""
        z = posterior.mu
        for t in reversed(range(self.config.steps)):
            predicted = self.denoise(z, torch.full((len(z),), t, device=z.device))
            z = self.posterior_mean_coef1[t] * predicted + self.posterior_mean_coef2[t] * z
        return z

    def decode(self, z: Tensor) -> Decoded | ShardedDecoded:
        """The hidden layer is z itself: the decoder is one linear layer."""
        return self.decoder.decoded(z)

    def parameter_groups(self, learning_rate: float) -> Iterable[dict[str, Any]]:
        """The denoiser has a learning rate of its own."""
        denoiser = [*self.time.parameters(), *self.denoiser_input.parameters(), *self.denoiser_output.parameters()]
        rest = [self.encoder_weight, self.encoder_bias, *self.decoder.parameters()]
        return [{"params": rest, "lr": learning_rate}, {"params": denoiser, "lr": self.config.denoiser_rate}]

    def _draw_steps(self, count: int) -> tuple[Tensor, Tensor]:
        """Steps (B,) int64 and the probability of each."""
        uniform = torch.full_like(self.losses[:, 0], 1 / self.config.steps)
        root = self.losses.square().mean(1).sqrt()
        importance = (1 - UNIFORM) * root / root.sum() + UNIFORM / self.config.steps
        share = torch.where((self.seen == HISTORY).all(), importance, uniform)
        step = torch.multinomial(share, count, replacement=True)
        return step, share[step]

    @torch.no_grad()
    def _remember(self, step: Tensor, error: Tensor) -> None:
        """Keeps the last losses of each step, oldest first; shapes do not depend on the values."""
        steps = torch.arange(self.config.steps, device=error.device)[:, None]
        values = torch.cat([self.losses, error.float().expand(len(steps), -1)], dim=1)
        known = torch.arange(HISTORY, device=error.device) < self.seen[:, None]
        valid = torch.cat([known, step == steps], dim=1)
        from_end = valid.long().flip(1).cumsum(1).flip(1)  # 1 for the newest
        self.seen.copy_(valid.sum(1).clamp_max(HISTORY))
        place = torch.where(valid & (from_end <= HISTORY), self.seen[:, None] - from_end, HISTORY)
        padded = torch.zeros(len(steps), HISTORY + 1, device=error.device)
        self.losses.copy_(padded.scatter_(1, place, values)[:, :HISTORY])


def by_cluster(x: Csr, cluster: Tensor, n_clusters: int) -> Csr:
    """(K B, N): row k B + b has the entries of row b of ``x`` (B, N) whose items are in cluster k; ``cluster`` (N,)."""
    row = cluster[x.col] * x.n_rows + x.row_of_entry()
    order = torch.argsort(row, stable=True)
    counts = torch.zeros(n_clusters * x.n_rows + 1, dtype=torch.int64, device=row.device)
    counts.index_add_(0, row + 1, torch.ones_like(row))
    return Csr(counts.cumsum(0), x.col[order], None if x.values is None else x.values[order], x.n_cols)


def _join_encoders(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Reads states of version 0.1, which had an encoder for each cluster, ``place`` being an item's row in it, and no
    ``sizes``.
    """
    assert isinstance(module, LDiffRec)
    state.setdefault(f"{prefix}sizes", module.sizes)
    if f"{prefix}place" not in state:
        return
    place, cluster = state.pop(f"{prefix}place"), state[f"{prefix}cluster"]
    weight, bias = torch.zeros_like(module.encoder_weight), torch.zeros_like(module.encoder_bias)
    for number, width in enumerate(module.widths):
        mine = cluster == number
        weight[mine, : 2 * width] = state.pop(f"{prefix}encoders.{number}.weight")[place[mine]]
        bias[number, : 2 * width] = state.pop(f"{prefix}encoders.{number}.bias")
    state |= {f"{prefix}encoder_weight": weight, f"{prefix}encoder_bias": bias}
