"""Runs that version 0.1 wrote (tests/data/runs-0.1) are read, rank as they did, and are resumed bit for bit."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from dmrec.cli.main import main
from dmrec.errors import DmrecError
from dmrec.models.base import evaluating
from dmrec.runs.load import load_run
from dmrec.runs.run import Run
from dmrec.training.trainer import resume_run

DATA = Path(__file__).parents[1] / "data"
RUNS = DATA / "runs-0.1"
FINISHED = sorted(path.parent.name for path in RUNS.glob("*/ranking.json"))


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_run_ranks_as_it_did(name):
    run, _, model, data = load_run(RUNS / name, DATA / "format-1")
    expected = json.loads((run.folder / "ranking.json").read_text())
    batch = data.users(torch.arange(5))
    with evaluating(model):
        scores, items = model.rank(batch, 4, exclude=batch.interactions)
    assert items.tolist() == expected["items"]
    torch.testing.assert_close(scores, torch.tensor(expected["scores"], dtype=scores.dtype), rtol=1e-5, atol=1e-6)
    assert run.state() == ("finished", "")
    assert run.result["name"] == name


def test_every_kind_of_model_is_there():
    kinds = {Run(RUNS / name).config.model.kind for name in FINISHED}
    assert kinds == {"popularity", "ease", "mult-vae", "l-diffrec", "lightgcn"}


def test_options_have_their_new_names():
    assert Run(RUNS / "dmrec-m").config.matching.strategy == "kl"
    assert Run(RUNS / "lightgcn").config.model.embedding_dim == 3
    diffrec = Run(RUNS / "l-diffrec").config.model
    assert (diffrec.noise_scale, diffrec.item_embeddings) == (0.4, "tfidf-svd-template")


def test_a_stopped_run_is_resumed_bit_for_bit(tmp_path, native):
    """From the middle of an epoch, with Adam's moments, generators and early stopping of the version before."""
    shutil.copytree(RUNS / "stopped", tmp_path / "run")
    resume_run(tmp_path / "run", DATA / "format-1")
    expected = safetensors.torch.load_file(RUNS / "stopped" / "expected.safetensors")
    found = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    assert found.keys() == expected.keys()
    for tensor, right in zip(found.values(), expected.values(), strict=True):
        torch.testing.assert_close(tensor, right, rtol=1e-4, atol=1e-6)  # products differ between processors


def test_their_options_in_a_file_of_ones_own_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--config", str(RUNS / "lightgcn/config.yaml"), "--data", str(DATA / "format-1")])
    assert "option 'model.width' is called 'model.embedding_dim' since version 0.2" in capsys.readouterr().err


def test_a_run_without_its_dataset_says_so():
    with pytest.raises(DmrecError, match="format-1"):
        load_run(RUNS / "ease", DATA / "nowhere" / "format-1")
