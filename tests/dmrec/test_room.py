"""What fits into memory: what `dmrec plan` says of it, and trainings that are refused because they do not."""

import os
import re
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import done, refused
from dmrec.cli import plan
from dmrec.cli.plan import check_memory, sizes_of
from dmrec.config import build_config
from dmrec.data.dataset import open_dataset
from dmrec.errors import DmrecError
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.resolve import resolve
from dmrec.sharding.plan import PROCESS, Rates, memory_of
from dmrec.training import trainer
from dmrec.training.signals import Stopped

N = 10_000_000


def _config(name="dmrec-m", *settings):
    return build_config(apply_overrides(recipe(name), ["sharding.shards=64", "training.batch_size=1024", *settings]))


def _dataset(n_items=N, width=1536):
    """What is asked of a dataset of so many items."""
    vectors = np.broadcast_to(np.zeros(1, np.float16), (n_items, width))
    return SimpleNamespace(n_items=n_items, vectors=lambda name: SimpleNamespace(items=vectors))


def _refused(monkeypatch, free, ranks, config, dataset=None):
    monkeypatch.setattr(plan, "available_memory", lambda: free)
    with pytest.raises(DmrecError) as refusal:
        check_memory(config, dataset or _dataset(), ranks)
    return str(refusal.value)


def _needed(config, dataset, ranks):
    return memory_of(sizes_of(config, dataset), ranks).total + PROCESS


def test_a_refusal_says_what_would_fit(monkeypatch):
    said = _refused(monkeypatch, 96e9, 8, _config())
    assert said == (
        "10,000,000 items at model.hidden=600 need 22.7 GB a rank on 8 ranks, this machine has 12.0 free for each: "
        "16 ranks on 2 machines, or model.hidden=248"
    )
    assert _needed(_config(), _dataset(), 16) <= 12e9 < _needed(_config(), _dataset(), 8)
    check_memory(_config("dmrec-m", "model.hidden=248"), _dataset(), 8)
    with pytest.raises(DmrecError, match=r"model.hidden=256 need 12.1 .*: 4 ranks, or model.hidden=248"):
        check_memory(_config("dmrec-m", "model.hidden=256"), _dataset(), 8)
    monkeypatch.setattr(plan, "available_memory", lambda: 192e9)
    check_memory(_config(), _dataset(), 8)


@pytest.mark.parametrize(
    ("name", "settings", "free", "ranks", "ways"),
    [
        ("mult-vae", (), 40e9, 2, "8 ranks on 4 machines, or model.hidden=160"),
        ("cvga", (), 4e9, 1, "8 ranks on 8 machines, or model.latent=8"),
        ("cvga", ("model.hidden=[32]",), 9e9, 1, "2 ranks on 2 machines, or model.latent=32"),
        ("mult-vae", ("sharding.sums=fast",), 120e9, 6, "8 ranks on 2 machines, or model.hidden=480"),
        ("mult-vae", (), 0.5e9, 1, ""),  # nothing fits
        ("mult-vae", (), 44e9, 64, "model.hidden=64"),  # there are no more shards
        ("dmrec-m", (), 16e9, 4, "64 ranks on 16 machines"),  # the text vectors alone are too large
    ],
)
def test_ways_that_fit(monkeypatch, name, settings, free, ranks, ways):
    config, dataset = _config(name, *settings), _dataset()
    said = _refused(monkeypatch, free, ranks, config, dataset)
    assert said.partition("free for each")[2].removeprefix(": ") == ways
    if match := re.search(r"(\d+) ranks on (\d+) machines", ways):
        count, machines = int(match[1]), int(match[2])
        assert _needed(config, dataset, count) <= free / ranks
        assert machines * ranks >= count
        before = count - 1 if "sharding.sums=fast" in settings else count // 2
        assert _needed(config, dataset, before) > free / ranks
    if match := re.search(r"(model.\w+)=(\d+)", ways):
        key, width = match[1], int(match[2])
        step = 8 if width >= 8 else 1
        assert _needed(_config(name, *settings, f"{key}={width}"), dataset, ranks) <= free / ranks
        assert _needed(_config(name, *settings, f"{key}={width + step}"), dataset, ranks) > free / ranks


def test_fewer_ranks_where_the_processes_themselves_are_too_many(monkeypatch):
    config, dataset = _config("mult-vae"), _dataset(1_000_000)
    said = _refused(monkeypatch, 36e9, 64, config, dataset)
    assert "on 64 ranks, this machine has 0.6 free for each: 32 ranks" in said
    check_memory(config, dataset, 32)


@pytest.fixture
def gpus(monkeypatch):
    """GPUs with so much free memory, as far as is asked of them."""

    def make(*free):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (free[number], 80e9))

    return make


def test_gpus_have_memory_of_their_own(monkeypatch, gpus):
    config = _config("dmrec-m", "training.device=cuda")
    gpus(*[12e9] * 8)
    said = _refused(monkeypatch, 1e15, 8, config)
    assert said.endswith("this machine has 12.0 free for each: 16 ranks on 2 machines, or model.hidden=248")
    assert "on 4 ranks" in _refused(monkeypatch, 1e15, 4, config)
    gpus(*[12e9] * 16)
    assert ": 16 ranks, or model.hidden=56" in _refused(monkeypatch, 1e15, 4, config), "the others are here, too"
    gpus(*[80e9] * 5, 12e9, *[80e9] * 2)
    assert "this machine has 12.0 free" in _refused(monkeypatch, 1e15, 8, config)
    gpus(*[80e9] * 8)
    monkeypatch.setattr(plan, "available_memory", lambda: 1e9)
    check_memory(config, _dataset(), 8)


def check_on_gpus(ranks, free):
    """Two ranks on one machine; the GPUs whose memory each looks at, and what is said."""
    of_torchrun = {"TORCHELASTIC_RUN_ID": "x", "RANK": str(ranks.rank), "LOCAL_RANK": str(ranks.rank)}
    looked_at = []

    def mem_get_info(number):
        looked_at.append(number)
        return free[number], 80e9

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**of_torchrun, "LOCAL_WORLD_SIZE": "2"}.items():
            patch.setenv(name, value)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 8)
        patch.setattr(torch.cuda, "mem_get_info", mem_get_info)
        try:
            check_memory(_config("dmrec-m", "training.device=cuda"), _dataset(), ranks)
        except DmrecError as error:
            return looked_at, str(error)
    return looked_at, ""


def test_each_rank_looks_at_its_own_gpu(rank_pool):
    assert rank_pool(2, check_on_gpus, [90e9] * 2) == [([0], ""), ([1], "")]
    found = rank_pool(2, check_on_gpus, [90e9, 50e9])
    assert [looked_at for looked_at, _ in found] == [[0], [1]]
    assert all(" has 50.0 free for each: 4 ranks, or model.hidden=" in said for _, said in found)


def check_on_two_machines(ranks, free):
    """Each rank on a machine of its own, with so much memory."""
    of_torchrun = {"TORCHELASTIC_RUN_ID": "x", "RANK": str(ranks.rank), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    os.environ.update(of_torchrun)
    before, plan.available_memory = plan.available_memory, lambda: free[ranks.rank]
    try:
        check_memory(_config(), _dataset(), ranks)
    except DmrecError as error:
        return str(error)
    finally:
        plan.available_memory = before
        for name in of_torchrun:
            del os.environ[name]
    return ""


def test_each_machine_compares_with_the_ranks_on_it(rank_pool):
    assert rank_pool(2, check_on_two_machines, (100e9, 100e9)) == ["", ""]
    host = socket.gethostname()
    for said in rank_pool(2, check_on_two_machines, (100e9, 30e9)):
        assert f"on 2 ranks, {host} has 30.0 free for each: 8 ranks on 8 machines, or model.hidden=" in said


def test_what_does_not_fit_is_refused_before_anything_starts(tiny_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "available_memory", lambda: 900_000_000)
    done("plan", "mult-vae", "--data", tiny_folder, "--ranks", 2)
    assert [row[:3] for row in _rows(capsys.readouterr().out)] == [["2", "0.4100", "yes"]]
    monkeypatch.setattr(plan, "available_memory", lambda: 700_000_000)
    said = refused(capsys, "train", "mult-vae", "--data", tiny_folder, "--ranks", 2)
    assert (
        "48 items at model.hidden=600 need 0.4 GB a rank on 2 ranks, this machine has 0.3 free for each: 1 rank" in said
    )


class StopAtOnce:
    requested = True

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


def test_a_run_that_does_not_fit_is_not_resumed(tiny_folder, tmp_path, capsys, monkeypatch):
    dataset = open_dataset(tiny_folder)
    monkeypatch.setattr(trainer, "GracefulInterrupt", StopAtOnce)
    with pytest.raises(Stopped):
        trainer.train(resolve(_config("mult-vae", "training.epochs=2"), dataset), dataset, tmp_path / "run")
    monkeypatch.setattr(plan, "available_memory", lambda: 700_000_000)
    said = refused(capsys, "resume", tmp_path / "run", "--ranks", 2)
    assert "need 0.4 GB a rank on 2 ranks, this machine has 0.3 free for each: 1 rank" in said


def test_it_is_refused_under_torchrun(tiny_folder, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dmrec"]
    command += ["train", "mult-vae", "--data", str(tiny_folder), "--out", str(tmp_path)]
    command += ["--set", "model.hidden=1000000000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode != 0
    said = " ".join(ended.stderr.split())
    assert re.search(r"48 items at model.hidden=1000000000 need \S+ GB a rank on 2 ranks, \S+ has \S+ free", said)
    assert "model.hidden=" in said.partition("for each")[2]


def _rows(printed):
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]


def test_plan_prints_what_fits(tiny_folder, capsys, monkeypatch):
    monkeypatch.setattr(plan, "available_memory", lambda: 1_000_000_000)
    asked = ("plan", "dmrec-m", "--data", tiny_folder, "--set", "sharding.shards=4", "--set", "training.batch_size=64")
    done(*asked)
    printed = capsys.readouterr().out
    rows = _rows(printed)
    assert [row[0] for row in rows] == ["1", "2", "4"]
    assert [row[4] for row in rows] == ["0", "8", "8"], "collectives"
    assert [row[2] for row in rows] == ["yes", "yes", "no"]
    assert "measured here: products" in printed
    assert "free memory here: 1.0 GB; logits are kept" in printed


def test_plan_for_gpus_looks_at_theirs(tiny_folder, capsys, monkeypatch, gpus):
    gpus(30e9, 20e9)
    monkeypatch.setattr(plan, "available_memory", lambda: 1)
    monkeypatch.setattr(plan, "_rates", lambda *arguments: Rates(1e12, 1e11, 1e9, 1e-4, False))
    asked = ("plan", "mult-vae", "--data", tiny_folder, "--set", "sharding.shards=4", "--device", "cuda")
    done(*asked)
    printed = capsys.readouterr().out
    assert [row[2] for row in _rows(printed)] == ["yes", "yes", "no"], "one for each"
    assert "free memory of each GPU here (2): 30.0 GB" in printed
    gpus(1e8, 1e8)
    done(*asked)
    assert [row[2] for row in _rows(capsys.readouterr().out)] == ["no", "no", "no"]
