"""What several processes refuse before they train."""

import shutil
import socket
from contextlib import nullcontext

import pytest
import torch
from commands import refused
from dmrec.config import build_config
from dmrec.data.dataset import open_dataset
from dmrec.errors import DmrecError
from dmrec.experiment import together
from dmrec.experiment.worker import train_or_resume
from dmrec.inference.parts import write_parts
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


def other_data(ranks, folders):
    check_ranks(ranks, open_dataset(folders[ranks.rank]))


def test_ranks_with_other_data_are_found(rank_pool, tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "other")
    manifest = tmp_path / "other/manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(DmrecError, match=r"rank 1 on \S+: .*manifest.json differs from rank 0's"):
        rank_pool(2, other_data, [tiny_folder, tmp_path / "other"])


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


def other_versions(ranks, data, differing):
    before = of_ranks._computes
    of_ranks._computes = lambda: {**before(), **(differing if ranks.rank else {})}
    try:
        of_ranks.check_ranks(ranks, open_dataset(data))
    finally:
        of_ranks._computes = before


@pytest.mark.parametrize("differing", [{"dmrec_ext": "on plain torch"}, {"dmrec": "0.0.1"}], ids=["path", "version"])
def test_ranks_that_would_compute_otherwise_are_refused(rank_pool, tiny_folder, differing):
    ((what, value),) = differing.items()
    with pytest.raises(DmrecError, match=rf"rank 1 on \S+ runs {what} {value}, rank 0 \S+.*bits would differ"):
        rank_pool(2, other_versions, tiny_folder, differing)


def in_folders_of_their_own(ranks, do, folder):
    """Each rank has its own disk, with a folder of the same name on it."""
    own = folder / f"disk-{ranks.rank}/run"
    own.mkdir(parents=True)
    if do == "train":
        train_or_resume(own, print, ranks=ranks)
    elif do == "resume":
        (own / "config.yaml").touch()
        trainer.resume_run(own, ranks=ranks)
    else:
        data = open_dataset(do)
        write_parts(own, data, torch.arange(data.n_users), lambda users: iter(()), {}, ranks, part_users=10)


@pytest.mark.parametrize("do", ["train", "resume", "recommend"])
def test_a_folder_that_the_ranks_do_not_share_is_refused(rank_pool, tiny_folder, tmp_path, do):
    wanted = r"rank 1 on \S+ does not see .*disk-0/run of rank 0 on \S+: it must lie on storage that all machines"
    with pytest.raises(DmrecError, match=wanted):
        rank_pool(2, in_folders_of_their_own, tiny_folder if do == "recommend" else do, tmp_path)
    assert not list(tmp_path.rglob(".shared*")), "what was looked for is removed again"


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
