"""Nothing of the size users x items is allocated: in training, evaluation and recommendation."""

import pytest
import torch
from dmrec.config import build_config, with_settings
from dmrec.data.synthetic import make_catalogue
from dmrec.recipes import recipe
from dmrec.train.build import load_run
from dmrec.train.train import train
from rich.console import Console

from dmrec_ext import Csr, multinomial_nll

USERS, ITEMS = 64, 60_000


def _largest_allocation(step):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    return max(e.nbytes() for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]")


@pytest.mark.parametrize("name", ["dmrec-m", "popularity"])
def test_no_matrix_of_users_and_items(name, tmp_path, monkeypatch, native):
    monkeypatch.setitem(multinomial_nll.__kwdefaults__, "logits_budget", 0)
    data = make_catalogue(tmp_path / "data", n_users=USERS, n_items=ITEMS, width=4)
    sizes = ["model.hidden=8", "model.latent=4", "language.hidden=8", "training.epochs=1", "training.batch_size=1000"]
    config = build_config(with_settings(recipe(name), sizes if name == "dmrec-m" else []))
    matrix = USERS * ITEMS * 4
    assert _largest_allocation(lambda: train(config, data, tmp_path / "run", 0, Console(quiet=True))) < matrix / 2
    _, dataset, ranker = load_run(tmp_path / "run")
    x, users = Csr.from_scipy(dataset.train), torch.arange(USERS)
    assert _largest_allocation(lambda: ranker.rank(x, users, 20, x)) < matrix / 2
