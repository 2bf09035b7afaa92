"""The comparison with peers, as far as it runs without their environments."""

import json
import sys

import numpy as np
import pytest
import scipy.sparse as sp

from benchmarks.dmrec import peers
from benchmarks.dmrec.contenders import common
from benchmarks.processor import processor, slug


@pytest.fixture
def data(tmp_path):
    random = np.random.default_rng(0)
    for part, density in (("train", 0.2), ("valid", 0.05)):
        matrix = sp.csr_matrix(random.random((60, 40)) < density, dtype=np.float32)
        sp.save_npz(tmp_path / f"{part}.npz", matrix)
    return tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from Linux's /proc")
@pytest.mark.parametrize("script", ["ours", "dense_pytorch"])
def test_a_contender_trains_and_is_measured(data, tmp_path, script):
    record = peers.measure(peers.Contender(script, []), tmp_path, data, epochs=6, patience=9)
    assert len(record["epochs"]) == 6
    assert min(record["epochs"]) > 0
    assert [each["epoch"] for each in record["evaluations"]] == [3, 6]
    assert all(0 < each["recall"] < 1 and each["seconds"] > 0 for each in record["evaluations"])
    assert 100 < record["peak_mib"] < 8000


def test_recall_and_the_best_items_are_those_of_the_definition():
    scores = np.arange(30.0)[None].repeat(2, axis=0)
    seen = sp.csr_matrix(([1.0], ([0], [29])), shape=(2, 30))
    ranked = common.best(scores, seen)
    assert ranked[0].tolist() == list(range(28, 8, -1))
    assert ranked[1].tolist() == list(range(29, 9, -1))
    valid = sp.csr_matrix(([1.0, 1, 1], ([0, 0, 1], [28, 3, 29])), shape=(2, 30))
    assert common.recall(ranked, np.array([0, 1]), valid) == (0.5 + 1) / 2


def test_the_time_to_99_percent_counts_epochs_and_rankings(tmp_path):
    recalls = [0.1, 0.2, 0.199, 0.198, 0.15]
    evaluations = [{"epoch": 3 * i + 3, "seconds": 0.5 + 9 * (i == 0), "recall": r} for i, r in enumerate(recalls)]
    record = {"version": "1", "epochs": [50.0] + [2.0] * 14, "evaluations": evaluations, "peak_mib": 7}
    assert peers.curve(record) == {"recall@20": 0.2, "epochs_to_99": 6, "epochs": 15}
    assert peers.seconds(record) == {"epoch": 2.0, "ranking": 0.5, "peak_mib": 7}
    path = tmp_path / "peers.json"
    assert "seconds_to_99" not in peers.keep(path, "d", "dense PyTorch", peers.curve(record), 3)
    assert peers.keep(path, "d", "dense PyTorch", peers.seconds(record), 3)["seconds_to_99"] == 6 * 2.0 + 2 * 0.5
    assert json.loads(path.read_text())["processor"] == processor()


def test_training_ends_when_a_ranking_has_not_been_better_for_long():
    record = common.Record(patience=2)
    for recall, enough in ((0.1, False), (0.3, False), (0.2, False), (0.3, True)):
        record.evaluations.append({"recall": recall})
        assert record.enough() == enough


def test_the_name_of_a_processor_can_be_part_of_a_files_name():
    assert slug() == slug().lower()
    assert set(slug()) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
