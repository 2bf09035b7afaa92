"""A training step of DMRec-M at the size of Yelp (1,024 of 11,091 users, 11,010 items, vectors 1536 wide).

Beside it the same model as it is usually typed: dense batches of interactions, log_softmax of all logits, plain losses,
Adam as it comes; and ours on plain torch (`training.kernels=reference`).
"""

import functools
import tempfile
from pathlib import Path

import torch
from dmrec.config import build_config, with_settings
from dmrec.data.synthetic import make_catalogue
from dmrec.models.backbone import Moment
from dmrec.recipes import recipe
from dmrec.train.build import build_matching, build_recommender
from torch import nn

from benchmarks import peers
from benchmarks.race import race
from dmrec_ext import Csr, multinomial_nll, use_reference

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
    data = make_catalogue(Path(folder), n_users=USERS, n_items=ITEMS, width=WIDTH, interactions_per_user=30)
    return data, Csr.from_scipy(data.train), data.vectors("synthetic")


@functools.lru_cache(maxsize=4)
def _made(kind):
    data, x, vectors = _data()
    torch.manual_seed(0)
    if kind == "dense":
        model = _Dense(torch.from_numpy(vectors.items.copy()))
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        inputs = x.to_dense(), torch.from_numpy(vectors.users.copy())
        return model, optimiser, lambda: model(*inputs)
    config = build_config(with_settings(recipe("dmrec-m"), []))
    recommender, matching = build_recommender(config, data), build_matching(config)
    optimiser = torch.optim.Adam(recommender.parameters(), lr=1e-3, fused=True)
    users = torch.arange(USERS)

    def loss():
        posteriors = recommender.posteriors(x, users)
        decoded, _ = recommender.backbone.reconstruct(posteriors.fused, Moment(0, 1))
        return multinomial_nll(decoded.hidden, decoded.weight, x, decoded.bias) + matching.loss(*posteriors)

    return recommender, optimiser, loss


def test_step(benchmark, contender, workload, number):
    model, optimiser, loss_of = _made("dense" if contender.startswith("dense") else "ours")

    def step():
        with use_reference(contender == "reference"):
            with torch.autocast("cpu", torch.bfloat16, enabled=contender.endswith("bf16")):
                loss = loss_of()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

    model.train()
    race(benchmark, f"training step of DMRec-M, {workload}", contender, number, step, rounds=3, warmup_rounds=1)
