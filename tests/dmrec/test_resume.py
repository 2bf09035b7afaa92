"""Runs that were stopped, killed or damaged: they are resumed bit for bit, or say why they cannot be."""

import errno
import fcntl
import importlib.util
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import tiny
import torch
from dmrec.cli.main import main
from dmrec.config import build_config
from dmrec.data.create import create_dataset
from dmrec.data.dataset import open_dataset
from dmrec.errors import DmrecError
from dmrec.eval.ranking import evaluate
from dmrec.files import locked
from dmrec.models.base import MODELS
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs import checkpoint
from dmrec.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dmrec.runs.load import load_run
from dmrec.runs.resolve import resolve
from dmrec.runs.run import CHECKPOINT, LOG, WEIGHTS, Run, run_lock
from dmrec.training import trainer
from dmrec.training.signals import Stopped
from dmrec.training.trainer import resume_run, train

SMALL = ["model.hidden=24", "model.latent=8", "training.batch_size=40", "training.learning_rate=0.01"]


def _config(name, dataset, *settings):
    values = recipe(name)
    fields = [f"model.{field}" for field in MODELS[values["model"]["kind"]].model_fields]
    if values["model"]["kind"] == "cvga":  # its hidden layers are a list
        fields.remove("model.hidden")
    options = [option for option in SMALL if option.startswith(("training.", *(f"{field}=" for field in fields)))]
    options += ["training.epochs=12", *(["language.hidden=24"] if "language" in values else []), *settings]
    if name in ("lightgcn", *GRAPH):
        options.append("training.batch_size=200")
    return resolve(build_config(apply_overrides(values, options)), dataset, 3)


class StopAfter:
    """Asks to stop at the n-th look."""

    def __init__(self, looks):
        self.looks = looks

    @property
    def requested(self):
        self.looks -= 1
        return self.looks < 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


def _log_without_times(folder):
    lines = map(json.loads, (folder / LOG).read_text().splitlines())
    return [
        {name: value for name, value in line.items() if name not in ("time", "seconds", "phases")} for line in lines
    ]


GRAPH = ("rlmrec-c", "rlmrec-g", "alpharec", "kar", "llmrec", "promax")
TEXTS = ["model.item_text={encoder: true}", "language.alone=0.4"]  # drawn on the device and on the CPU


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, []) for name in ("mult-vae", "dmrec-g", "dmrec-m", "cvga-c", "l-diffrec-m", "lightgcn")),
        *((name, ["model.embedding_dim=8"]) for name in GRAPH),
        ("cvga-m", TEXTS),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_resuming_changes_no_bit(name, settings, precision, dataset, tmp_path, monkeypatch):
    """Stopped within epochs and between them, again and again, against a run that never was."""
    config = _config(name, dataset, f"training.precision={precision}", "training.annealing.steps=9", *settings)
    right = train(config, dataset, tmp_path / "whole")
    folder, stops = tmp_path / "stopped", 0
    looks = iter([1, 2, 5, 9, 3, 4, 7, *[1000] * 50])
    monkeypatch.setattr(trainer, "GracefulInterrupt", lambda: StopAfter(next(looks)))
    with pytest.raises(Stopped):
        train(config, dataset, folder)
    while True:
        torch.manual_seed(random.randrange(1000))  # what was there before must not matter
        try:
            result = resume_run(folder)
            break
        except Stopped:
            stops += 1
    assert stops >= 4
    assert result["test"] == right["test"]
    assert result["best_epoch"] == right["best_epoch"]
    assert (folder / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    assert _log_without_times(folder) == _log_without_times(tmp_path / "whole")
    assert not list(folder.glob("state-*"))


def test_the_run_that_formed_the_clusters_is_needed_once(dataset, tmp_path, monkeypatch):
    train(_config("lightgcn", dataset, "training.epochs=3"), dataset, tmp_path / "lightgcn")
    config = _config("l-diffrec", dataset, f"model.item_embeddings={tmp_path / 'lightgcn'}", "training.epochs=4")
    right = train(config, dataset, tmp_path / "whole")
    monkeypatch.setattr(trainer, "GracefulInterrupt", lambda: StopAfter(5))
    with pytest.raises(Stopped):
        train(config, dataset, tmp_path / "stopped")
    shutil.rmtree(tmp_path / "lightgcn")
    monkeypatch.setattr(trainer, "GracefulInterrupt", lambda: StopAfter(10**6))
    assert resume_run(tmp_path / "stopped")["test"] == right["test"]
    _, _, model, data = load_run(tmp_path / "stopped")
    found = evaluate(model, data, dataset.split("test"), config.evaluation.metrics)
    assert found.means == right["test"]


def test_clusters_are_not_formed_by_a_run_on_other_data(dataset, tmp_path, capsys):
    """A run that is there stays, whatever is refused."""
    other = tiny.make(tmp_path / "other", seed=1)
    train(_config("lightgcn", other, "training.epochs=3"), other, tmp_path / "lightgcn")
    popularity = resolve(build_config(recipe("popularity")), dataset, 0)
    train(popularity, dataset, tmp_path / "popularity")
    folder = tmp_path / "runs" / "tiny" / "l-diffrec" / "seed-0"
    train(_config("l-diffrec", dataset, "training.epochs=3"), dataset, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, message in (
        ("lightgcn", "was trained on another version of"),
        ("popularity", "does not represent items by vectors"),
        ("nothing", "is neither text vectors of .* nor the folder of a run"),
    ):
        with pytest.raises(DmrecError, match=message):
            _config("l-diffrec", dataset, f"model.item_embeddings={tmp_path / name}")
        command = [
            "train",
            "l-diffrec",
            "--force",
            "--no-baselines",
            "--data",
            dataset.folder,
            "--out",
            tmp_path / "runs",
        ]
        with pytest.raises(SystemExit):
            main([str(each) for each in command] + ["--set", f"model.item_embeddings={tmp_path / name}"])
        assert re.search(message, capsys.readouterr().err.replace("\n", " "))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_early_stopping_continues_where_it_was(dataset, tmp_path, monkeypatch):
    settings = ["training.epochs=60", "training.patience=2", "training.evaluate_every=1"]
    config = _config("mult-vae", dataset, *settings)
    right = train(config, dataset, tmp_path / "whole")
    assert right["epochs"] < 60
    monkeypatch.setattr(trainer, "GracefulInterrupt", lambda: StopAfter(40))
    with pytest.raises(Stopped):
        train(config, dataset, tmp_path / "stopped")
    monkeypatch.setattr(trainer, "GracefulInterrupt", lambda: StopAfter(10**6))
    assert resume_run(tmp_path / "stopped")["epochs"] == right["epochs"]


def _checkpoint(number):
    generator = torch.Generator().manual_seed(number)
    return Checkpoint({"w": torch.randn(3000, generator=generator)}, {"place": number})


def _killed_while_saving(folder, number, n_bytes):
    """In a process that dies with the n-th byte that it writes to any file."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        save_checkpoint(folder, _checkpoint(number))
        os._exit(0)
    return os.waitpid(child, 0)[1]


def _assert_survives(folder, times):
    sizes = random.Random(0)
    save_checkpoint(folder, _checkpoint(0))
    good, died = 0, 0
    for number in range(1, times + 1):
        status = _killed_while_saving(folder, number, sizes.randrange(1, 13_000))
        died += os.WIFSIGNALED(status)
        good = good if os.WIFSIGNALED(status) else number
        found = load_checkpoint(folder)
        assert found.values["place"] == good
        assert torch.equal(found.tensors["w"], _checkpoint(good).tensors["w"])
    assert died > 0.8 * times


def test_the_last_good_checkpoint_survives_being_killed(tmp_path):
    _assert_survives(tmp_path, 50)


@pytest.mark.slow
def test_the_last_good_checkpoint_survives_being_killed_200_times(tmp_path):
    _assert_survives(tmp_path, 200)


def _damaged(whole, rng, case):
    """One bit of one byte flipped, or a truncation."""
    at = rng.randrange(len(whole))
    return whole[:at] if case % 5 == 0 else whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :]


def test_damage_is_found(tmp_path):
    """1,000 flipped bits and truncations of a checkpoint: the older one is loaded; with both damaged, none."""
    save_checkpoint(tmp_path, _checkpoint(1))
    save_checkpoint(tmp_path, _checkpoint(2))
    newest = max(tmp_path.glob("state-*.json"), key=lambda path: json.loads(path.read_text())["number"])
    whole = {path: path.read_bytes() for path in (newest, newest.with_suffix(".safetensors"))}
    rng = random.Random(1)
    for case in range(1000):
        path = list(whole)[case % 2]
        path.write_bytes(_damaged(whole[path], rng, case))
        assert load_checkpoint(tmp_path).values["place"] == 1
        for path, content in whole.items():
            path.write_bytes(content)
    assert load_checkpoint(tmp_path).values["place"] == 2
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DmrecError, match=r"no undamaged checkpoint: state-.* differs from its checksum; .*; train"):
        load_checkpoint(tmp_path)


def test_the_next_checkpoint_does_not_replace_the_good_one(tmp_path):
    for place in (1, 2):
        save_checkpoint(tmp_path, _checkpoint(place))
    newest = tmp_path / "state-b.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert load_checkpoint(tmp_path).values["place"] == 1
    save_checkpoint(tmp_path, _checkpoint(3))
    assert load_checkpoint(tmp_path).values["place"] == 3
    newest.unlink()
    assert load_checkpoint(tmp_path).values["place"] == 1, "what was resumed from is still there"


def test_damage_of_a_model_is_found(tmp_path):
    run = Run(tmp_path)
    run.save(_checkpoint(1).tensors, {"epoch": 3})
    rng = random.Random(2)
    for case in range(1000):
        path = tmp_path / (CHECKPOINT if case % 2 else WEIGHTS)
        whole = path.read_bytes()
        path.write_bytes(_damaged(whole, rng, case))
        with pytest.raises(DmrecError, match="train again"):
            run.load()
        path.write_bytes(whole)
    assert run.load()[1]["epoch"] == 3


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, _checkpoint(1))

    def full(tensors, path):
        path.write_bytes(b"a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.safetensors.torch, "save_file", full)
    for _ in range(3):
        with pytest.raises(DmrecError, match="the disk is full: make room.*the checkpoint before it is unchanged"):
            save_checkpoint(tmp_path, _checkpoint(2))
        assert load_checkpoint(tmp_path).values["place"] == 1
    assert not list(tmp_path.glob(".*.tmp"))


def test_what_cannot_be_resumed_says_why(dataset, tmp_path, monkeypatch):
    with pytest.raises(DmrecError, match=r"is not a run \(no config.yaml\)"):
        resume_run(tmp_path)
    config = _config("mult-vae", dataset)
    Run.create(tmp_path / "new", config)
    with pytest.raises(DmrecError, match="has no checkpoint to resume from: it was stopped before the first one"):
        resume_run(tmp_path / "new")
    train(config, dataset, tmp_path / "done")
    with pytest.raises(DmrecError, match="is finished: dmrec evaluate shows its figures"):
        resume_run(tmp_path / "done")

    monkeypatch.setattr(trainer, "GracefulInterrupt", lambda: StopAfter(3))
    with pytest.raises(Stopped):
        train(config, dataset, tmp_path / "stopped")
    splits = {name: dataset.matrix(of) for name, of in (("train", "valid"), ("valid", "train"), ("test", "test"))}
    create_dataset(tmp_path / "other", "other", splits, items=dataset.items, users=dataset.users, provenance={})
    with pytest.raises(DmrecError, match="was trained on another version of"):
        resume_run(tmp_path / "stopped", tmp_path / "other")
    path = tmp_path / "stopped" / "config.yaml"
    path.write_text(path.read_text().replace("hidden: 24", "hidden: 25"))
    with pytest.raises(DmrecError, match=r"config.yaml was changed since .*: model.hidden"):
        resume_run(tmp_path / "stopped")


def test_a_checkpoint_of_another_version_is_refused(dataset, tmp_path, monkeypatch):
    config = _config("mult-vae", dataset)
    monkeypatch.setattr(trainer, "GracefulInterrupt", lambda: StopAfter(3))
    with pytest.raises(Stopped):
        train(config, dataset, tmp_path)
    found = load_checkpoint(tmp_path)
    log = (tmp_path / LOG).read_bytes()
    place = {"mood": "good", **found.values["place"]}
    save_checkpoint(tmp_path, found._replace(values={**found.values, "place": place}))
    with pytest.raises(DmrecError, match="is of another version of dmrec; train again"):
        resume_run(tmp_path)
    assert (tmp_path / LOG).read_bytes().startswith(log)


def test_one_process_at_a_time(dataset, tmp_path, monkeypatch):
    config = _config("mult-vae", dataset)
    monkeypatch.setattr(trainer, "GracefulInterrupt", lambda: StopAfter(3))
    with pytest.raises(Stopped):
        train(config, dataset, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for begin in (
        lambda: train(config, dataset, tmp_path),
        lambda: resume_run(tmp_path),
    ):
        with run_lock(tmp_path), pytest.raises(DmrecError, match="another process trains there; name another folder"):
            begin()
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_runs_of_several_seeds_are_not_cleared_while_one_trains(dataset, tmp_path):
    config = _config("mult-vae", dataset)
    train(config, dataset, tmp_path / "seed-0")
    with run_lock(tmp_path / "seed-0"), pytest.raises(DmrecError, match="seed-0: another process trains there"):
        train(config, dataset, tmp_path)
    assert Run(tmp_path / "seed-0").state() == ("finished", "")


def test_a_run_that_was_finished_meanwhile_is_kept(dataset, tmp_path):
    config = _config("mult-vae", dataset)
    train(config, dataset, tmp_path, replace=False)
    written = (tmp_path / WEIGHTS).read_bytes()
    with pytest.raises(
        DmrecError, match="a finished run; name another folder .--out. or replace it .--force, in Python replace=True."
    ):
        train(config, dataset, tmp_path, replace=False)
    assert (tmp_path / WEIGHTS).read_bytes() == written


def test_a_lock_that_was_removed_is_no_lock(tmp_path):
    """Whoever waited for it must not hold a file that nobody else can find."""
    path, order = tmp_path / "a" / ".lock", []

    def wait():
        with locked(path):
            order.append("waiter")
            with pytest.raises(DmrecError, match="refused"), locked(path, "refused"):
                pass

    waiter = threading.Thread(target=wait)
    with locked(path):
        waiter.start()
        time.sleep(0.2)
        order.append("holder")
        path.unlink()
    waiter.join()
    assert order == ["holder", "waiter"]


def test_without_file_locks_training_continues(tmp_path, monkeypatch):
    def unsupported(file, flags):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with locked(tmp_path / ".lock", "refused"), locked(tmp_path / ".lock", "refused"):
        pass


@pytest.mark.parametrize("command", ["resume", "train"])
def test_a_folder_that_cannot_be_written_to(command, dataset, tmp_path, monkeypatch, capsys):
    """Whatever is there stays as it is; one line says why."""
    monkeypatch.setattr(trainer, "GracefulInterrupt", lambda: StopAfter(3))
    with pytest.raises(Stopped):
        train(_config("mult-vae", dataset), dataset, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    opened = pathlib.Path.open

    def read_only(self, mode="r", *rest, **options):
        if self.is_relative_to(tmp_path) and ("w" in mode or "a" in mode or "+" in mode):
            raise OSError(errno.EROFS, "Read-only file system", str(self))
        return opened(self, mode, *rest, **options)

    monkeypatch.setattr(pathlib.Path, "open", read_only)
    data = ["--data", str(dataset.folder)]
    new = ["train", "mult-vae", "--no-baselines", "--out", str(tmp_path / "new"), *data]
    with pytest.raises(SystemExit) as stopped:
        main(["resume", str(tmp_path / "run")] if command == "resume" else new)
    assert stopped.value.code == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("error: [Errno 30] Read-only file system: ")
    assert len(said) == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_the_board_shows_the_log_once(dataset, tmp_path, monkeypatch):
    """Also where epochs were logged again by a run that had been killed and went on."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = _config("dmrec-m", dataset, "training.tensorboard=true", "training.checkpoint_minutes=0")
    monkeypatch.setattr(trainer, "GracefulInterrupt", lambda: StopAfter(15))
    with pytest.raises(Stopped):
        train(config, dataset, tmp_path)
    max(tmp_path.glob("state-*.json"), key=lambda path: path.stat().st_mtime_ns).unlink()  # back to the one before
    monkeypatch.setattr(trainer, "GracefulInterrupt", lambda: StopAfter(1000))
    resume_run(tmp_path)
    shown = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for kind, name in (("epoch", "loss"), ("evaluation", "recall@20")):
        logged = [(line["epoch"], line[name]) for line in Run(tmp_path).events(kind)]
        scalars = [(each.step, each.value) for each in shown.Scalars(f"{kind}/{name}")]
        assert scalars == [(epoch, pytest.approx(value, rel=1e-6)) for epoch, value in logged]
    assert "epoch/phases/backward" in shown.Tags()["scalars"]
    train(_config("mult-vae", dataset), dataset, tmp_path)
    assert not (tmp_path / "tensorboard").exists(), "that of the run that was there before"


def test_without_tensorboard_it_is_said_before_the_first_epoch(dataset, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DmrecError, match="training.tensorboard needs TensorBoard: pip install 'dmrec.tensorboard.'"):
        _config("mult-vae", dataset, "training.tensorboard=true")


def test_a_run_tells_what_became_of_it(dataset, tmp_path, monkeypatch):
    config = _config("mult-vae", dataset)
    train(config, dataset, tmp_path / "done")
    assert Run(tmp_path / "done").state() == ("finished", "")
    monkeypatch.setattr(trainer, "GracefulInterrupt", lambda: StopAfter(8))
    with pytest.raises(Stopped):
        train(config, dataset, tmp_path / "stopped")
    state, remark = Run(tmp_path / "stopped").state()
    assert state == "stopped"
    assert remark.startswith("after ")
    Run.create(tmp_path / "new", config)
    assert Run(tmp_path / "new").state() == ("unfinished", "after 0 epochs")
    wild = _config("mult-vae", dataset, "training.learning_rate=1e30")
    with pytest.raises(FloatingPointError):
        train(wild, dataset, tmp_path / "wild")
    state, remark = Run(tmp_path / "wild").state()
    assert state == "failed"
    assert "a weight became NaN or infinite in epoch 1; lower training.learning_rate" in remark


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signals_leave_a_run_that_can_be_resumed(number, tiny_folder, tmp_path):
    dataset = open_dataset(tiny_folder)
    options = [*SMALL, "training.epochs=150", "training.patience=1000", "training.checkpoint_minutes=0.002"]
    command = [sys.executable, "-m", "dmrec", "train", "mult-vae", "--no-baselines", "--data", str(dataset.folder)]
    command += ["--out", str(tmp_path), *(part for option in options for part in ("--set", option))]
    folder = tmp_path / "tiny" / "mult-vae" / "seed-0"
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(folder.glob("state-*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    told = process.communicate(timeout=60)[1]
    assert not (folder / "result.json").exists(), "it was too fast to be stopped"
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert "stopped; run the same command again to continue" in told
    done = subprocess.run([sys.executable, "-m", "dmrec", "resume", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    config = resolve(build_config(apply_overrides(recipe("mult-vae"), options)), dataset, 0)
    train(config, dataset, tmp_path / "whole")
    assert (folder / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
