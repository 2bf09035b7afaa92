"""A training step of DMRec-M at the size of Yelp (1,024 of 11,091 users, 11,010 items, vectors 1536 wide).

For comparison the same model as it is usually written: dense batches of interactions, log_softmax of all logits, plain
losses, default Adam; and ours on plain torch (`training.kernels=reference`).
"""

import functools
import tempfile
from pathlib import Path

import torch
from dmrec.build import build_model
from dmrec.config import TrainingConfig, build_config
from dmrec.data.synthetic import make_catalogue
from dmrec.models.base import Step
from dmrec.recipes import recipe
from dmrec.runs.load import training_data
from dmrec.runs.resolve import resolve
from dmrec.training.optimiser import optimiser_of
from torch import nn

from benchmarks import peers
from benchmarks.race import race
from dmrec_ext import use_reference

USERS, ITEMS, WIDTH, HIDDEN, LATENT = 1024, 11_010, 1536, 600, 200
WORKLOADS = {"1,024 users, 11,010 items, vectors 1536 wide": None}
CONTENDERS = ["ours", "ours, bf16", "reference", "dense", "dense, bf16"]


class _Dense(nn.Module):
    """Mult-VAE with DMRec-M over dense interactions."""

    def __init__(self, vectors):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(ITEMS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2 * LATENT))
        self.meta = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, ITEMS))
        self.vectors = vectors

    def forward(self, x, user_vectors):
        dropped = nn.functional.dropout(x, 0.3)
        mu_c, logvar_c = self.encoder(dropped).chunk(2, 1)
        mu_l, logvar_l = self.meta(dropped @ self.vectors + user_vectors).chunk(2, 1)
        mu, logvar = mu_c + mu_l, logvar_c + logvar_l
        logits = self.decoder(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu))
        nll = -(x * torch.log_softmax(logits, 1)).sum(1).mean()
        return nll + peers.mddm(mu_c, logvar_c, mu_l, logvar_l, beta=0.5).mean()


@functools.lru_cache(maxsize=1)
def _data():
    folder = tempfile.mkdtemp()
    return make_catalogue(Path(folder), n_users=USERS, n_items=ITEMS, width=WIDTH, interactions_per_user=30)


@functools.lru_cache(maxsize=4)
def made(kind, device="cpu"):
    """A model, its optimiser and a function that gives the loss of all users, on a device."""
    data = _data()
    torch.manual_seed(0)
    vectors = data.vectors("synthetic")
    if kind == "dense":
        model = _Dense(torch.from_numpy(vectors.items.copy()).to(device)).to(device)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        inputs = data.split("train").to_dense().to(device), torch.from_numpy(vectors.users.copy()).to(device)
        return model, optimiser, lambda: model(*inputs)
    config = resolve(build_config(recipe("dmrec-m")), data)
    model = build_model(config, training_data(config, data)).to(device)
    users = model.batch(torch.arange(USERS))
    batch = users._replace(
        ids=users.ids.to(device), interactions=users.interactions.to(device), text_vectors=users.text_vectors.to(device)
    )
    return model, optimiser_of(model, TrainingConfig()), lambda: model.loss(batch, Step())["loss"]


def test_step(benchmark, contender, workload, number):
    model, optimiser, loss_of = made("dense" if contender.startswith("dense") else "ours")

    def step():
        with use_reference(contender == "reference"):
            with torch.autocast("cpu", torch.bfloat16, enabled=contender.endswith("bf16")):
                loss = loss_of()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

    model.train()
    race(benchmark, f"training step of DMRec-M, {workload}", contender, number, step, rounds=3, warmup_rounds=1)
