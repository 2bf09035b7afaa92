"""``precision: auto`` is measured when a run starts, and what was chosen stays with the run."""

import json

import pytest
import torch
from dmrec.cli.main import main
from dmrec.config import build_config
from dmrec.experiment.plan import grid
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs import resolve as resolving
from dmrec.runs.resolve import resolve
from dmrec.runs.run import Run
from dmrec.runtime import slow_precision

from dmrec_ext import ProductSpeeds


def _config(precision):
    return build_config(apply_overrides(recipe("mult-vae"), [f"training.precision={precision}"]))


@pytest.mark.parametrize("faster", ["float32", "bf16"])
def test_auto_is_what_is_faster(faster, dataset, monkeypatch):
    monkeypatch.setattr(resolving, "fastest_precision", lambda device: faster)
    assert resolve(_config("auto"), dataset).training.precision == faster
    assert resolve(_config("float32"), dataset).training.precision == "float32"


def test_a_run_that_was_begun_keeps_its_choice(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(resolving, "fastest_precision", lambda device: "bf16")
    (job,) = grid(_config("auto"), [dataset], [0], tmp_path)
    Run.create(job.folder, job.config)
    monkeypatch.setattr(resolving, "fastest_precision", lambda device: "float32")  # a busier minute
    again, other = (grid(_config("auto"), [dataset], [seed], tmp_path)[0] for seed in (0, 1))
    assert (job.config.training.precision, again.config.training.precision) == ("bf16", "bf16")
    assert again.digest == job.digest
    assert other.config.training.precision == "float32"


def test_bfloat16_is_remarked_where_it_is_slower(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr("dmrec_ext.product_speeds", lambda device: ProductSpeeds(100.0, 40.0))
    assert "products reach 40 GFLOP/s, in float32 100" in slow_precision("bf16", cpu)
    assert slow_precision("float32", cpu) is None
    monkeypatch.setattr("dmrec_ext.product_speeds", lambda device: ProductSpeeds(100.0, 400.0))
    assert slow_precision("bf16", cpu) is None


def test_the_doctor_measures(capsys, monkeypatch):
    monkeypatch.setattr("dmrec_ext._speeds._measured", lambda device, threads: ProductSpeeds(100.0, 400.0))
    monkeypatch.delenv("DMREC_FILTER", raising=False)
    with pytest.raises(SystemExit):
        main(["doctor", "--speed", "--json"])
    speed = json.loads(capsys.readouterr().out)["speed"]["cpu"]
    assert (speed["float32"], speed["bf16"], speed["faster"]) == (100.0, 400.0, "bf16")
    with pytest.raises(SystemExit):
        main(["doctor", "--speed"])
    assert "in bf16" in capsys.readouterr().out
