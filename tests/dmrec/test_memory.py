"""Nothing of the size users x items is allocated: in training, evaluation and recommendation."""

import pytest
import torch
from dmrec.config import build_config
from dmrec.data.synthetic import make_catalogue
from dmrec.models.base import evaluating
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.load import load_run
from dmrec.runs.resolve import resolve
from dmrec.training.trainer import train

from dmrec_ext import multinomial_nll

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
    config = resolve(build_config(apply_overrides(recipe(name), sizes if name == "dmrec-m" else [])), data)
    matrix = USERS * ITEMS * 4
    assert _largest_allocation(lambda: train(config, data, tmp_path / "run")) < matrix / 2
    _, _, model, of_model = load_run(tmp_path / "run")
    batch = of_model.users(torch.arange(USERS))
    with evaluating(model):
        assert _largest_allocation(lambda: model.rank(batch, 20, batch.interactions)) < matrix / 2
