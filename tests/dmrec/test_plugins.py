"""A model and a metric of one's own, in a file that commands and their worker processes import."""

import os
import subprocess
import sys

import pytest
from dmrec.errors import DmrecError
from dmrec.experiment.ledger import read_rows
from dmrec.plugins import VARIABLE, load_plugins, name_plugins

PLUGIN = '''
from typing import ClassVar, Literal

import torch

from dmrec.eval.metrics import register_metric
from dmrec.models.base import ClosedFormModel, ModelConfig, register
from dmrec_ext import rank_scores


@register
class BackwardsConfig(ModelConfig):
    """The items in reverse order."""

    kind: Literal["backwards"] = "backwards"
    is_random: ClassVar[bool] = False

    def build(self, data):
        return Backwards(data.n_items)


class Backwards(ClosedFormModel):
    def __init__(self, n_items):
        super().__init__()
        self.register_buffer("scores", torch.arange(n_items).float())

    def fit(self, data, score):
        return {}

    def rank(self, batch, k, exclude=None):
        return rank_scores(self.scores.expand(batch.size, -1).contiguous(), k, exclude=exclude)


@register_metric("first")
def first(hit, n_held_out, k):
    return hit[:, 0]
'''


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return path


def run(*arguments, **environment):
    command = [sys.executable, "-m", "dmrec", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_commands_and_workers_know_it(plugin, tiny_folder, tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        f"datasets: [{tiny_folder}]\nevaluation: {{metrics: [recall@5, first@1, precision@1]}}\n"
        "models: {popularity: , mine: {model: {kind: backwards}}}\n"
    )
    out = tmp_path / "out"
    done = run("--plugin", plugin, "experiment", grid, "--out", out, "--workers", "2")
    assert done.returncode == 0, done.stderr
    rows = {row["model"]: row for row in read_rows(out)}
    assert rows["mine"]["test"]["first@1"] == rows["mine"]["test"]["precision@1"]
    folder = out / "tiny/mine/seed-0"
    evaluated = run("evaluate", folder, "--metric", "first@1", "--json", **{VARIABLE: str(plugin)})
    assert evaluated.returncode == 0, evaluated.stderr
    unknown = run("evaluate", folder)
    assert unknown.returncode == 1
    assert "backwards" in unknown.stderr


def test_a_plugin_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    broken = tmp_path / "broken_plugin.py"
    broken.write_text("1 / 0")
    name_plugins([str(broken)])
    for _ in range(2):  # it is not taken for imported
        with pytest.raises(
            DmrecError, match="broken_plugin.py' cannot be imported: ZeroDivisionError: division by zero"
        ):
            load_plugins()
    monkeypatch.setenv(VARIABLE, "nowhere_to_be_found")
    with pytest.raises(DmrecError, match="plugin 'nowhere_to_be_found' cannot be imported: ModuleNotFoundError"):
        load_plugins()
