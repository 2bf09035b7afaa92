"""What several processes refuse before they train, and what `dmrec plan` says of it."""

import re
import shutil
import socket
from contextlib import nullcontext

import pytest
import torch
from commands import done, refused
from dmrec.config import build_config
from dmrec.data.dataset import open_dataset
from dmrec.errors import DmrecError
from dmrec.experiment import together
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs import ranks as of_ranks
from dmrec.runs import shards
from dmrec.runs.ranks import check_ranks
from dmrec.runs.resolve import resolve
from dmrec.sharding.items import ItemShards
from dmrec.sharding.ranks import agreed
from dmrec.training import trainer
from dmrec.training.signals import Stopped


def other_weights(ranks, folder, name, values):
    tensors = {"model.same": torch.ones(2), name: torch.full((3,), float(ranks.rank == 1))}
    shards.save_shards(folder, tensors, values, ItemShards(8, 4, ranks))


STEP = {"place": {"step": 1200}}


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("layer.weight", {}, "layer.weight"),
        ("model.weight", {}, "model.weight"),
        ("model.layer.weight", STEP, "layer.weight, step 1200"),
        ("optimiser.layer.weight.exp_avg", STEP, "exp_avg of layer.weight, step 1200"),
        ("best.layer.weight", STEP, "layer.weight of the best state, step 1200"),
    ],
)
def test_ranks_that_compute_otherwise_are_found(rank_pool, tmp_path, name, values, said):
    wanted = rf"rank 1 on \S+ computed other weights than rank 0 \(first: {said}\): faulty memory or mixed hardware"
    with pytest.raises(DmrecError, match=wanted):
        rank_pool(2, other_weights, tmp_path / "state", name, values)
    assert not (tmp_path / "state").exists()


def other_data(ranks, folders, folder):
    check_ranks(ranks, folder, open_dataset(folders[ranks.rank]))


def test_ranks_with_other_data_are_found(rank_pool, tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "other")
    manifest = tmp_path / "other/manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(DmrecError, match=r"rank 1 on \S+: .*manifest.json differs from rank 0's"):
        rank_pool(2, other_data, [tiny_folder, tmp_path / "other"], tmp_path / "run")


def test_refusals(tiny_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_on = ("train", "--data", tiny_folder)
    said = refused(capsys, *train_on, "dmrec-m", "--ranks", 6)
    assert "--ranks must be a power of two, at most sharding.shards (64), got 6; or --set sharding.sums=fast" in said
    said = refused(capsys, *train_on, "dmrec-m", "--ranks", 128)
    assert "at most sharding.shards (64), got 128" in said
    said = refused(capsys, *train_on, "lightgcn", "--ranks", 2)
    assert "lightgcn trains in one process (its propagation needs the whole graph): leave out --ranks" in said
    for name in ("ease", "l-diffrec"):
        assert f"{name} trains in one process" in refused(capsys, *train_on, name, "--ranks", 2)
    said = refused(capsys, *train_on, "mult-vae", "--ranks", 2, "--set", "training.clip=1")
    assert "training.clip" in said
    assert "must be a power of two, got 12" in refused(capsys, *train_on, "mult-vae", "--set", "sharding.shards=12")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "0")
    assert "torchrun, which has started this process already" in refused(capsys, *train_on, "mult-vae", "--ranks", 2)


def test_a_run_of_one_process_is_not_resumed_by_several(tmp_path, tiny_folder, capsys):
    dataset = open_dataset(tiny_folder)
    config = resolve(build_config(apply_overrides(recipe("mult-vae"), ["training.epochs=1"])), dataset)
    trainer.train(config, dataset, tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    assert "leave out --ranks" in refused(capsys, "resume", tmp_path / "run", "--ranks", 2)


def other_versions(ranks, data, folder):
    before = of_ranks._computes
    of_ranks._computes = lambda: {**before(), **({"dmrec_ext": "on plain torch"} if ranks.rank else {})}
    try:
        of_ranks.check_ranks(ranks, folder, open_dataset(data))
    finally:
        of_ranks._computes = before


def test_ranks_that_would_compute_otherwise_are_refused(rank_pool, tiny_folder, tmp_path):
    with pytest.raises(
        DmrecError, match=r"rank 1 on \S+ runs dmrec_ext on plain torch, rank 0 \S+ .*bits would differ"
    ):
        rank_pool(2, other_versions, tiny_folder, tmp_path)


def unseen_folder(ranks, data, folder):
    own = folder if ranks.is_first else folder / "elsewhere"
    check_ranks(ranks, own, open_dataset(data))


def test_a_folder_that_a_rank_does_not_see_is_refused(rank_pool, tiny_folder, tmp_path):
    with pytest.raises(DmrecError, match=r"rank 1 on \S+ does not see .*: it must lie on storage that all machines"):
        rank_pool(2, unseen_folder, tiny_folder, tmp_path)


def test_what_does_not_fit_is_refused_before_anything_starts(tiny_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dmrec.cli.plan.available_memory", lambda: 9_000_000)
    said = refused(capsys, "train", "mult-vae", "--data", tiny_folder, "--ranks", 2)
    assert re.search(r"48 items at a width of 600 need \S+ GB for each of 2 processes, this machine has 0.0 GB", said)
    assert "or take a width of" in said


def test_plan_prints_what_fits(tiny_folder, capsys, monkeypatch):
    monkeypatch.setattr("dmrec.cli.plan.available_memory", lambda: 20_000_000)
    done("plan", "dmrec-m", "--data", tiny_folder, "--set", "sharding.shards=4", "--set", "training.batch_size=64")
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == ["1", "2", "4"]
    assert [row[4] for row in rows] == ["0", "8", "8"], "collectives"
    assert [row[2] for row in rows] == ["yes", "yes", "yes"]
    assert "measured here: products" in printed
    assert "free memory here: 0.0 GB; logits are kept" in printed


class Told:
    """Ranks that remember what the others were told."""

    rank, size, is_first = 0, 2, True

    def __init__(self):
        self.values = []

    def tell(self, value):
        self.values.append(value)
        return value


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, [None]),
        (agreed(Stopped()), [None]),
        (OSError("the disk is full"), [None]),
        (KeyboardInterrupt(), []),
        (SystemExit(1), []),
    ],
    ids=["done", "stopped", "between jobs", "interrupted", "failed alone"],
)
def test_the_others_are_told_the_end_only_where_they_listen(monkeypatch, tmp_path, error, told):
    def run(*arguments):
        if error is not None:
            raise error

    monkeypatch.setattr(together, "run_jobs_here", run)
    ranks = Told()
    with nullcontext() if error is None else pytest.raises(type(error)):
        together.lead([], tmp_path, print, [], ranks)
    assert ranks.values == told


@pytest.mark.parametrize(
    ("error", "ends", "heard"),
    [(agreed(Stopped()), Stopped, 2), (KeyboardInterrupt(), KeyboardInterrupt, 1), (agreed(OSError("full")), None, 3)],
    ids=["stopped", "interrupted", "failed together"],
)
def test_the_others_end_as_rank_0_does(monkeypatch, tmp_path, error, ends, heard):
    """A machine whose processes ended with success would not start them again with the others."""
    jobs = [tmp_path, tmp_path, None] if ends is None else [tmp_path, None]

    class Heard(Told):
        rank, is_first = 1, False

        def tell(self, value):
            return super().tell(jobs.pop(0))

    monkeypatch.setattr(together, "train_or_resume", lambda *_: (_ for _ in ()).throw(error))
    ranks = Heard()
    with nullcontext() if ends is None else pytest.raises(ends):
        together.follow(ranks, print)
    assert len(ranks.values) == heard


def test_a_failure_of_one_rank_ends_it(monkeypatch, tmp_path):
    def fail(*arguments):
        raise OSError("the disk is full")

    monkeypatch.setattr(together, "train_or_resume", fail)
    lines = []
    with pytest.raises(SystemExit):
        together._together(tmp_path, lines.append, [], Told())
    assert lines[0].startswith(f"rank 0 on {socket.gethostname()} failed: OSError: the disk is full")
    monkeypatch.setattr(together, "train_or_resume", lambda *_: (_ for _ in ()).throw(agreed(OSError("full"))))
    with pytest.raises(OSError, match="full"):
        together._together(tmp_path, lines.append, [], Told())
