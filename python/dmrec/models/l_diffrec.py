"""L-DiffRec (Wang et al., SIGIR 2023): diffusion over the latent space of an autoencoder, items in clusters.

Encoder: for each cluster of items a linear layer from their interactions, then tanh: mean and log-variance of z_0.
Forward process over T steps: z_t = sqrt(a_t) z_0 + sqrt(1 - a_t) eps, a_t = 1 - v_t, v linear from ``scale minimum`` to
``scale maximum``. A network predicts z_0 from z_t and t; its squared error, weighted by SNR(t-1) - SNR(t) (1 at t = 0),
is a loss beside the others. Steps are drawn by importance: in proportion to the root of the mean of the last ten
squared losses of a step, and a thousandth uniformly; uniformly until every step has ten. Decoder: one linear layer from
the predicted z_0. To recommend, z_0 = mean goes through T reverse steps, without noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import safetensors.numpy
import torch
from pydantic import Field, model_validator
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from dmrec_ext import Csr

from ..errors import DmrecError
from .backbone import Backbone, Decoded, Moment, Reconstruction
from .gaussian import Gaussian
from .layers import SparseLinear
from .registry import BackboneConfig, TrainingData, register

HISTORY = 10  # losses of a step that importance is taken from
UNIFORM = 0.001  # share of steps drawn uniformly
TIME_WIDTH = 10


@register
class LDiffRecConfig(BackboneConfig):
    """L-DiffRec."""

    kind: Literal["l-diffrec"] = "l-diffrec"
    latent: int = Field(300, ge=1, description="dimensions of the posteriors, over all clusters")
    hidden: int = Field(300, ge=1, description="width of the denoiser's hidden layer")
    clusters: int = Field(2, ge=1, description="of items, by k-means on their vectors; 1: none")
    vectors: str | None = Field(None, description="text vectors that form the clusters; empty: language's, or the only")
    lightgcn: Path | None = Field(None, description="folder of a run of LightGCN, whose item vectors form the clusters")
    dropout: float = Field(0.1, ge=0, lt=1, description="of a user's interactions, in training")
    denoiser_dropout: float = Field(0.5, ge=0, lt=1, description="of z_t")
    denoiser_rate: float = Field(1e-4, gt=0, description="learning rate of the denoiser")
    steps: int = Field(5, ge=1, description="T, of the diffusion")
    scale: float = Field(0.5, gt=0, description="of the noise")
    minimum: float = Field(0.001, gt=0, description="variance of the first step, before scaling")
    maximum: float = Field(0.005, gt=0, description="and of the last one")
    weight: float = Field(0.05, ge=0, description="of the diffusion's loss; falls by 1/500 an epoch, to 0.005")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.clusters > self.latent:
            raise ValueError(f"{self.clusters} clusters cannot share {self.latent} latent dimensions")
        if self.minimum > self.maximum or self.scale * self.maximum >= 1:
            raise ValueError("minimum must not exceed maximum, and scale x maximum must stay below 1")
        return self

    @property
    def item_vectors(self) -> str | None:
        """Those that form the clusters."""
        return self.vectors if self.clusters > 1 and self.lightgcn is None else None

    @property
    def lightgcn_run(self) -> Path | None:
        """That whose item vectors form the clusters."""
        return self.lightgcn if self.clusters > 1 else None

    def resolved(self, vectors: str | None) -> Self:
        """With the vectors named, and the path of the run whole."""
        run = None if self.lightgcn is None else self.lightgcn.resolve()
        if self.clusters > 1 and run is None and (self.vectors or vectors) is None:
            raise DmrecError(
                "l-diffrec forms clusters of items by their vectors, and there are none, or several: "
                "set model.vectors, model.lightgcn to a run of lightgcn, or model.clusters to 1"
            )
        return self.model_copy(update={"vectors": self.vectors or vectors, "lightgcn": run})

    def build(self, data: TrainingData) -> LDiffRec:
        """The network, its weights drawn."""
        if "cluster" in data.saved:  # what clusters were formed from may have changed since
            return LDiffRec(self, data.saved["cluster"])
        if self.clusters == 1:
            return LDiffRec(self, torch.zeros(data.train.n_cols, dtype=torch.int64))
        vectors = data.item_vectors if self.lightgcn is None else vectors_of_lightgcn(self.lightgcn, data.train.n_cols)
        if vectors is None:
            raise DmrecError("l-diffrec forms clusters of items by their vectors, and none were given")
        return LDiffRec(self, clusters_of(vectors, self.clusters))


def vectors_of_lightgcn(run: Path, n_items: int) -> np.ndarray:
    """(N, width) of the items of a finished run."""
    try:
        vectors = safetensors.numpy.load_file(run / "model.safetensors")["vectors"]
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise DmrecError(f"model.lightgcn: {run} holds no run of lightgcn ({error})") from None
    return vectors[-n_items:]


def clusters_of(vectors: np.ndarray, count: int) -> Tensor:
    """(N,) int64: the cluster of each item, by k-means on directions; always the same."""
    vectors = np.array(vectors, dtype=np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    _, label = kmeans2(vectors, count, iter=50, minit="++", seed=0)
    return torch.from_numpy(np.unique(label, return_inverse=True)[1]).long()


class LDiffRec(Backbone):
    """What it has seen of its losses is state: buffers, kept by checkpoints."""

    cluster: Tensor  # (N,) int64
    place: Tensor  # (N,) int64, within the cluster; ascends with the item
    kept: Tensor  # (T,) a_t
    signal: Tensor  # (T,) its root, the share of z_0 in z_t
    noise: Tensor  # (T,) the root of 1 - a_t, which float32 would lose
    loss_weight: Tensor  # (T,) of the error of a step's prediction
    of_prediction: Tensor  # (T,) the mean of z_{t-1} given z_t and z_0: share of z_0 ..
    of_state: Tensor  # (T,) .. and of z_t
    losses: Tensor  # (T, HISTORY) the last ones of each step
    seen: Tensor  # (T,) int64, how many, at most HISTORY

    def __init__(self, config: LDiffRecConfig, cluster: Tensor) -> None:
        super().__init__()
        self.latent, self.input_dropout = config.latent, config.dropout
        self.config = config
        self.sizes = sizes = torch.bincount(cluster)
        widths = torch.ones_like(sizes) + (sizes * (config.latent - len(sizes)) // sizes.sum())
        widths[-1] += config.latent - widths.sum()
        order = torch.argsort(cluster, stable=True)
        place = torch.empty_like(cluster)
        place[order] = torch.arange(len(cluster)) - (sizes.cumsum(0) - sizes)[cluster[order]]
        self.register_buffer("cluster", cluster)
        self.register_buffer("place", place)
        self.encoders = nn.ModuleList(SparseLinear(int(n), 2 * int(w)) for n, w in zip(sizes, widths, strict=True))
        self.time = nn.Linear(TIME_WIDTH, TIME_WIDTH)
        self.denoiser_input = nn.Linear(config.latent + TIME_WIDTH, config.hidden)
        self.denoiser_output = nn.Linear(config.hidden, config.latent)
        self.denoiser_dropout = nn.Dropout(config.denoiser_dropout)
        self.decoder = nn.Linear(config.latent, len(cluster))
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.xavier_normal_(parameter)
            else:
                nn.init.zeros_(parameter)
        variance = np.linspace(config.scale * config.minimum, config.scale * config.maximum, config.steps)
        kept = 1 - variance  # a_t, the share of z_0 in z_t
        before = np.append(1.0, kept[:-1])
        step = 1 - kept / before  # beta_t
        snr = kept / (1 - kept)
        # exact in float64, used as float32: not learned, not kept by checkpoints
        for name, values in {
            "kept": kept,
            "signal": np.sqrt(kept),
            "noise": np.sqrt(variance),
            "loss_weight": np.append(1.0, snr[:-1] - snr[1:]),
            "of_prediction": step * np.sqrt(before) / (1 - kept),
            "of_state": np.sqrt(kept / before) * (1 - before) / (1 - kept),
        }.items():
            self.register_buffer(name, torch.from_numpy(values).float(), persistent=False)
        self.register_buffer("losses", torch.zeros(config.steps, HISTORY))
        self.register_buffer("seen", torch.zeros(config.steps, dtype=torch.int64))

    def encode(self, x: Csr, dropped: Csr) -> Gaussian:
        """Posterior of z_0: means of all clusters, then log-variances, within (-1, 1)."""
        row, of_item = dropped.row_of_entry(), self.cluster[dropped.col]
        means, logvars = [], []
        for number, encoder in enumerate(self.encoders):
            mine = of_item == number
            crow = torch.zeros_like(dropped.crow)
            crow[1:] = torch.bincount(row[mine], minlength=dropped.n_rows).cumsum(0)
            values = None if dropped.values is None else dropped.values[mine]
            part = Csr(crow, self.place[dropped.col[mine]], values, int(self.sizes[number]))
            mean, logvar = Gaussian.from_output(torch.tanh(encoder(part)))
            means.append(mean)
            logvars.append(logvar)
        return Gaussian(torch.cat(means, dim=1), torch.cat(logvars, dim=1))

    def denoise(self, z: Tensor, step: Tensor) -> Tensor:
        """z_0 as predicted from z_t (B, D) and t (B,) int64."""
        frequency = torch.exp(-math.log(10000) * torch.arange(TIME_WIDTH // 2) / (TIME_WIDTH // 2)).to(z.device)
        angle = step[:, None] * frequency
        time = self.time(torch.cat([angle.cos(), angle.sin()], dim=1))
        hidden = torch.tanh(self.denoiser_input(torch.cat([self.denoiser_dropout(z), time], dim=1)))
        predicted: Tensor = self.denoiser_output(hidden)
        return predicted.to(z.dtype)

    def reconstruct(self, posterior: Gaussian, moment: Moment) -> Reconstruction:
        """Decodes the predicted z_0; the auxiliary loss is the weighted error of the prediction."""
        z_0 = posterior.sample()
        step, probability = self._draw_steps(len(z_0))
        noised = self.signal[step][:, None] * z_0 + self.noise[step][:, None] * torch.randn_like(z_0)
        predicted = self.denoise(noised, step)
        error = self.loss_weight[step] * (z_0 - predicted).square().mean(1)
        self._remember(step, error.detach())
        weight = max(0.005, self.config.weight * (1 - moment.epoch / 500))
        return Reconstruction(self.decode(predicted), weight * (error / (self.config.steps * probability)).mean())

    def infer(self, posterior: Gaussian) -> Tensor:
        """The mean, through the reverse steps."""
        z = posterior.mu
        for t in reversed(range(self.config.steps)):
            predicted = self.denoise(z, torch.full((len(z),), t, device=z.device))
            z = self.of_prediction[t] * predicted + self.of_state[t] * z
        return z

    def decode(self, z: Tensor) -> Decoded:
        """z itself: the decoder has no hidden layer."""
        return Decoded(z, self.decoder.weight, self.decoder.bias)

    def parameter_groups(self, learning_rate: float) -> Iterable[dict[str, Any]]:
        """The denoiser has a rate of its own."""
        denoiser = [*self.time.parameters(), *self.denoiser_input.parameters(), *self.denoiser_output.parameters()]
        rest = [*self.encoders.parameters(), *self.decoder.parameters()]
        return [{"params": rest, "lr": learning_rate}, {"params": denoiser, "lr": self.config.denoiser_rate}]

    def _draw_steps(self, count: int) -> tuple[Tensor, Tensor]:
        """Steps (B,) int64 and the probability of each."""
        steps = self.config.steps
        share = torch.full((steps,), 1 / steps, device=self.losses.device)
        if bool((self.seen == HISTORY).all()):
            root = self.losses.square().mean(1).sqrt()
            share = (1 - UNIFORM) * root / root.sum() + UNIFORM / steps
        step = torch.multinomial(share, count, replacement=True)
        return step, share[step]

    @torch.no_grad()
    def _remember(self, step: Tensor, error: Tensor) -> None:
        """The last losses of each step, oldest first."""
        for t in range(self.config.steps):
            new = error[step == t].float()[-HISTORY:]
            kept = self.losses[t, : int(self.seen[t])]
            history = torch.cat([kept, new])[-HISTORY:]
            self.losses[t, : len(history)] = history
            self.seen[t] = len(history)
