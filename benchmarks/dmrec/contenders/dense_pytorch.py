"""Mult-VAE as it is usually written in PyTorch: batches of users as dense matrices, log_softmax of all logits."""

from __future__ import annotations

import argparse
import importlib.metadata

import common
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

HIDDEN, LATENT, DROPOUT, BATCH, CAP, STEPS = 600, 200, 0.5, 500, 0.2, 200_000


class MultVAE(nn.Module):
    """Liang et al., WWW 2018, with their sizes and initialisation."""

    def __init__(self, items: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(items, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, items))
        for layer in (*self.encoder, *self.decoder):
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, N), means and log variances (B, 200)."""
        hidden = functional.dropout(functional.normalize(x), DROPOUT, self.training)
        mu, logvar = self.encoder(hidden).chunk(2, dim=1)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar) if self.training else mu
        return self.decoder(z), mu, logvar


class Dense:
    """Training and evaluation as scripts of the paper's followers do them."""

    version = importlib.metadata.version("torch")

    def __init__(self, chosen: argparse.Namespace) -> None:
        torch.set_num_threads(chosen.threads)
        torch.manual_seed(0)
        self.train, self.valid = common.load(chosen.data)
        self.users = np.flatnonzero(np.diff(self.valid.indptr))
        self.model = MultVAE(self.train.shape[1])
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.generator, self.steps = np.random.default_rng(0), 0

    def epoch(self) -> None:
        """All users, shuffled, in batches of 500."""
        self.model.train()
        order = self.generator.permutation(self.train.shape[0])
        for start in range(0, len(order), BATCH):
            x = torch.from_numpy(self.train[order[start : start + BATCH]].toarray())
            logits, mu, logvar = self.model(x)
            likelihood = -(functional.log_softmax(logits, 1) * x).sum(1).mean()
            kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1).mean()
            self.steps += 1
            loss = likelihood + min(CAP, self.steps / STEPS) * kl
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()

    @torch.no_grad()
    def evaluate(self) -> float:
        """Dense scores, and numpy's partition."""
        self.model.eval()
        ranked = []
        for start in range(0, len(self.users), BATCH):
            seen = self.train[self.users[start : start + BATCH]]
            scores, _, _ = self.model(torch.from_numpy(seen.toarray()))
            ranked.append(common.best(scores.numpy(), seen))
        return common.recall(np.concatenate(ranked), self.users, self.valid)


if __name__ == "__main__":
    common.run(Dense)
