"""Runs over several processes: stopped, killed, damaged and resumed by others, they end with the same files."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from commands import StopAfter, done, refused
from dmrec.config import build_config
from dmrec.data.dataset import open_dataset
from dmrec.errors import DmrecError
from dmrec.eval.ranking import evaluate, sample
from dmrec.files import locked, sha256_of
from dmrec.inference.recommender import Recommender
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs import shards
from dmrec.runs.load import load_run
from dmrec.runs.resolve import resolve
from dmrec.runs.run import LOG, Run
from dmrec.training import trainer
from dmrec.training.signals import Stopped

SETTINGS = (
    "sharding.shards=8",
    "model.hidden=24",
    "model.latent=8",
    "language.hidden=24",
    "training.batch_size=40",
    "training.learning_rate=0.01",
    "training.epochs=9",
    "training.evaluate_every=2",
    "training.patience=2",
)


def _config(dataset, *settings):
    return resolve(build_config(apply_overrides(recipe("dmrec-m"), [*SETTINGS, *settings])), dataset, 3)


def train(ranks, data, folder, settings, stop):
    """Trains, or resumes what is there, and stops after so many steps; whether it was stopped.

    The last of the ranks alone is asked to stop.
    """
    dataset = open_dataset(data)
    interrupt = StopAfter(stop if ranks.rank == ranks.size - 1 else None)
    before, trainer.GracefulInterrupt = trainer.GracefulInterrupt, lambda: interrupt
    try:
        if Run(folder).is_resumable:
            trainer.resume_run(folder, ranks=ranks)
        else:
            trainer.train(_config(dataset, *settings), dataset, folder, ranks=ranks)
    except Stopped:
        return True
    finally:
        trainer.GracefulInterrupt = before
    return False


def _outcome(folder):
    """Checksums of the model, figures, and the log without times."""
    files = {path.name: sha256_of(path) for path in sorted((folder / "model").iterdir()) if path.suffix != ".json"}
    result = Run(folder).result
    lines = map(json.loads, (folder / LOG).read_text().splitlines())
    volatile = ("time", "seconds", "phases")
    log = [{name: value for name, value in line.items() if name not in volatile} for line in lines]
    return files, result["valid"], result["test"], result["best_epoch"], log


@pytest.fixture(scope="module")
def undisturbed(rank_pool, tiny_folder, tmp_path_factory):
    """The folder of a run of one process that nothing has stopped."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert rank_pool(1, train, tiny_folder, folder, (), None) == [False]
    return folder


@pytest.mark.parametrize("way", [(4, 2, 1), (1, 4), (2, 2, 2), (1, 2)])
def test_resumed_by_another_number_of_processes(rank_pool, tiny_folder, tmp_path, undisturbed, way):
    folder = tmp_path / "run"
    for number, size in enumerate(way):
        stop = None if number == len(way) - 1 else 4 + number  # within an epoch of three steps
        assert rank_pool(size, train, tiny_folder, folder, (), stop) == [stop is not None] * size
        assert Run(folder).is_resumable == (stop is not None)
    assert _outcome(folder) == _outcome(undisturbed)
    assert not (folder / "state-a").exists()
    assert Run(folder).result["epochs"] == 9 or Run(folder).result["best_epoch"] < Run(folder).result["epochs"]


def test_a_finished_run_ranks_alike_in_one_process(rank_pool, undisturbed, tiny_folder):
    loaded = load_run(undisturbed)
    assert len([name for name in loaded.model.state_dict() if "decoder_output.weight" in name]) == 8
    recommender = Recommender(loaded.model, loaded.data, loaded.dataset, loaded.run.config, loaded.run.folder)
    assert len(list(recommender.recommend(users=["u3"], k=5).rows())) == 5
    of_text = [row["item"] for row in recommender.recommend(profile="likes kettle tea cup", k=3).rows()]
    assert [int(item[1:]) % 4 for item in of_text] == [2, 2, 2], "kettles"
    assert loaded.model.item_vectors().shape == (48, 24)
    assert len(list(recommender.similar_items("i3", k=2).rows())) == 2


def test_trained_again_keeps_the_finished_run_until_there_is_another(rank_pool, tiny_folder, tmp_path, undisturbed):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    assert rank_pool(2, train, tiny_folder, folder, ("training.epochs=4",), 1) == [True] * 2
    assert Run.open(folder).folder.name == ".previous"
    assert _outcome(folder / ".previous") == _outcome(undisturbed)
    assert load_run(folder).run.result["epochs"] == Run(undisturbed).result["epochs"]


def stop_and_break(ranks, data, folder, fault):
    """A checkpoint, then one that cannot be written to its end; what the failure says."""
    train(ranks, data, folder, (), 2)
    original, written = shards.replace_file, []

    def replace_file(path, write):
        written.append(path)
        if fault is not None and ranks.rank == ranks.size - 1 and len(written) == fault + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, write)

    shards.replace_file = replace_file
    try:
        train(ranks, data, folder, (), 1)
    except DmrecError as error:
        return str(error)
    finally:
        shards.replace_file = original
    return ""


@pytest.mark.parametrize("fault", [0, 2])
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    rank_pool, tiny_folder, tmp_path, undisturbed, fault
):
    folder = tmp_path / "run"
    errors = rank_pool(2, stop_and_break, tiny_folder, folder, fault)
    assert errors[0] == errors[1]
    assert re.search("state-b cannot be written .the disk is full.*the checkpoint before it is unchanged", errors[0])
    assert not (folder / "state-b/manifest.json").exists()
    assert rank_pool(4, train, tiny_folder, folder, (), None) == [False] * 4
    logged = [line for line in _outcome(folder)[-1] if line["event"] != "failed"]
    assert (*_outcome(folder)[:-1], logged) == _outcome(undisturbed)


def _two_generations(rank_pool, tiny_folder, folder):
    for _ in range(2):
        assert rank_pool(2, train, tiny_folder, folder, (), 2) == [True] * 2
    assert (folder / "state-a/manifest.json").exists()
    return folder / "state-b"  # the newer one


@pytest.mark.parametrize("damage", ["flip", "missing", "foreign", "manifest", "replicated"])
def test_a_damaged_generation_is_left_for_the_older_one(rank_pool, tiny_folder, tmp_path, undisturbed, damage):
    folder = tmp_path / "run"
    newer = _two_generations(rank_pool, tiny_folder, folder)
    _damage(newer, damage, newer.parent / "state-a")
    resumed_from = (folder / "state-a/manifest.json").read_bytes()
    assert rank_pool(2, train, tiny_folder, folder, (), 2) == [True] * 2
    assert (folder / "state-a/manifest.json").read_bytes() == resumed_from, "the damaged one was replaced"
    assert rank_pool(2, train, tiny_folder, folder, (), None) == [False] * 2
    assert _outcome(folder) == _outcome(undisturbed)


def _damage(folder, damage, other):
    path = folder / {"manifest": "manifest.json", "replicated": "replicated.safetensors"}.get(
        damage, "shard-0006.safetensors"
    )
    if damage == "missing":
        path.unlink()
    elif damage == "foreign":
        shutil.copy(other / path.name, path)
    else:
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("damage", ["flip", "missing"])
def test_without_an_undamaged_generation_the_file_is_named(rank_pool, tiny_folder, tmp_path, damage):
    folder = tmp_path / "run"
    newer = _two_generations(rank_pool, tiny_folder, folder)
    for each in (newer, newer.parent / "state-a"):
        _damage(each, damage, newer)
    with pytest.raises(DmrecError, match=r"no undamaged checkpoint: state-b/shard-0006.safetensors .*; state-a/shard"):
        rank_pool(2, train, tiny_folder, folder, (), None)
    with pytest.raises(DmrecError, match="shard-0006"):  # of one process alone, too
        rank_pool(1, train, tiny_folder, folder, (), None)


@pytest.mark.parametrize("damage", ["flip", "missing", "manifest"])
def test_a_damaged_model_is_refused_by_name(undisturbed, tmp_path, damage):
    shutil.copytree(undisturbed, tmp_path / "run")
    _damage(tmp_path / "run/model", damage, undisturbed)
    with pytest.raises(DmrecError, match="manifest.json is damaged" if damage == "manifest" else "shard-0006"):
        load_run(tmp_path / "run")


COMMON = ["--set", "training.checkpoint_minutes=0", *(part for each in SETTINGS for part in ("--set", each))]


def _start(data, out, ranks, *arguments):
    command = [sys.executable, "-m", "dmrec", "train", "dmrec-m", "--data", str(data), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--seed", "3", *COMMON, "--ranks", str(ranks), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
    )


def _workers(parent):
    """The processes that torchrun has started and that have joined the others."""
    children = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False).stdout.split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline") for pid in children}
    return [pid for pid, path in commands.items() if path.exists() and b"dmrec" in path.read_bytes()]


def _lines(folder):
    """How many lines the log has."""
    return len((folder / LOG).read_bytes().splitlines()) if (folder / LOG).exists() else 0


def _kill_one(process, folder, victim, lines, number=signal.SIGKILL):
    """Kills a worker once the log has so many lines, or sends it another signal."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        log = folder / LOG
        if (
            log.exists()
            and len(log.read_bytes().splitlines()) >= lines
            and len(found := _workers(process.pid)) > victim
        ):
            os.kill(found[victim], number)
            return
        time.sleep(0.01)
    raise AssertionError(f"nothing to kill: {process.communicate()[0]}")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in range(1, 10))])
def test_killed_under_torchrun_ends_with_the_same_files(tiny_folder, tmp_path, undisturbed, number):
    draw, ranks = random.Random(number), 4 if number > 6 else 2
    folder = tmp_path / "tiny/dmrec-m/seed-3"
    process = _start(tiny_folder, tmp_path, ranks)
    _kill_one(process, folder, draw.randrange(ranks), draw.randrange(2, 6))
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    files, valid, test, best, _ = _outcome(folder)
    assert (files, valid, test, best) == _outcome(undisturbed)[:4], printed
    assert "dmrec-m" in printed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_stopped_alone_is_started_again_with_the_others(tiny_folder, tmp_path, undisturbed, victim):
    folder = tmp_path / "tiny/dmrec-m/seed-3"
    process = _start(tiny_folder, tmp_path, 2)
    _kill_one(process, folder, victim, 3, signal.SIGTERM)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert printed.count("stopped; run the same command again") == 1, "by rank 0"
    assert _outcome(folder)[:4] == _outcome(undisturbed)[:4]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_sigterm_leaves_a_checkpoint_that_another_number_resumes(tiny_folder, tmp_path, undisturbed):
    folder = tmp_path / "tiny/dmrec-m/seed-3"
    process = _start(tiny_folder, tmp_path, 2)
    deadline = time.monotonic() + 120
    while _lines(folder) < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode != 0, printed
    assert Run(folder).is_resumable, printed
    command = [sys.executable, "-m", "dmrec", "resume", str(folder), "--ranks", "1"]
    again = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert again.returncode == 0, again.stderr
    assert "test: recall@5" in again.stdout
    assert _outcome(folder)[:4] == _outcome(undisturbed)[:4]


def test_shards_of_a_run_do_not_change(undisturbed, tmp_path, capsys):
    shutil.copytree(undisturbed, tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    config = tmp_path / "run/config.yaml"
    config.write_text(config.read_text().replace("shards: 8", "shards: 4"))
    with pytest.raises(DmrecError, match="the run was cut into 8 shards and stays so; train anew"):
        load_run(tmp_path / "run", unfinished=True)


def recommend_here(ranks, run, folder, part_users, fail_after=None):
    """Recommendations of all users in small parts; with ``fail_after``, the disk is full after so many."""
    import torch
    from dmrec.inference import parts

    loaded = load_run(run, ranks=ranks)
    recommender = Recommender(loaded.model, loaded.data, loaded.dataset, loaded.run.config, loaded.run.folder)
    written, original = [], parts.replace_file

    def replace_file(path, write):
        written.append(path)
        if fail_after is not None and len(written) > fail_after:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, write)

    parts.replace_file = replace_file
    try:
        users = torch.arange(loaded.dataset.n_users)
        return parts.write_parts(
            folder,
            loaded.dataset,
            users,
            lambda chosen: recommender.ranked_rows(chosen, 5, None, "known", block_size=16),
            {"k": 5, "exclude_items": ()},
            ranks,
            titles=True,
            part_users=part_users,
        )
    finally:
        parts.replace_file = original


def _files(folder):
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}


def test_recommendations_do_not_depend_on_the_number_of_processes(rank_pool, undisturbed, tmp_path):
    for size in (1, 2, 4):
        found = rank_pool(size, recommend_here, undisturbed, tmp_path / str(size), 50)
        assert found == [(120, 600, 0)] * size
    assert _files(tmp_path / "1") == _files(tmp_path / "2") == _files(tmp_path / "4")
    assert sorted(_files(tmp_path / "1")) == [
        "_manifest.json",
        "_settings.json",
        *(f"part-0000{number}.parquet" for number in range(3)),
    ]
    table = pyarrow.parquet.read_table(tmp_path / "1")
    loaded = load_run(undisturbed)
    recommender = Recommender(loaded.model, loaded.data, loaded.dataset, loaded.run.config, loaded.run.folder)
    wanted = list(recommender.recommend(users=["u7"], k=5).rows())
    rows = [row for row in table.to_pylist() if row["user"] == "u7"]
    assert [(row["item"], row["rank"]) for row in rows] == [(row["item"], row["rank"]) for row in wanted]
    assert [row["title"] for row in rows] == [f"Item {row['item'][1:]}" for row in rows]


def test_recommendations_go_on_after_a_failure(rank_pool, undisturbed, tmp_path):
    folder = tmp_path / "top"
    with pytest.raises(OSError, match="No space left"):
        rank_pool(1, recommend_here, undisturbed, folder, 50, 2)
    assert sorted(_files(folder)) == ["_settings.json", "part-00000.parquet", "part-00001.parquet"]
    (folder / ".part-00002.parquet.7.tmp").write_text("of a process that was killed")
    first = (folder / "part-00000.parquet").stat().st_mtime_ns
    assert rank_pool(2, recommend_here, undisturbed, folder, 50) == [(120, 600, 2)] * 2
    assert (folder / "part-00000.parquet").stat().st_mtime_ns == first, "kept as it was"
    rank_pool(1, recommend_here, undisturbed, tmp_path / "whole", 50)
    assert _files(folder) == _files(tmp_path / "whole")
    (folder / "part-00000.parquet").unlink()
    with pytest.raises(OSError, match="No space left"):
        rank_pool(1, recommend_here, undisturbed, folder, 50, 0)
    assert not (folder / "_manifest.json").exists(), "the folder is not whole"
    assert rank_pool(1, recommend_here, undisturbed, folder, 50) == [(120, 600, 2)]
    assert _files(folder) == _files(tmp_path / "whole")
    with (
        locked(folder / ".lock", "taken"),
        pytest.raises(DmrecError, match="another process writes there; name another"),
    ):
        rank_pool(1, recommend_here, undisturbed, folder, 50)
    (folder / ".lock").unlink()
    with pytest.raises(DmrecError, match=r"of other settings \(part_users\); name another folder"):
        rank_pool(2, recommend_here, undisturbed, folder, 60)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").write_text("mine")
    with pytest.raises(DmrecError, match="holds other files"):
        rank_pool(2, recommend_here, undisturbed, tmp_path / "other", 50)


def test_recommend_and_evaluate_commands_over_processes(undisturbed, tmp_path, capsys):
    done("recommend", undisturbed, "--out", tmp_path / "one", "-k", "3", "--low-memory")
    assert f"120 users, 360 rows: {tmp_path / 'one'}" in capsys.readouterr().out
    command = [sys.executable, "-m", "dmrec", "recommend", str(undisturbed), "-k", "3", "--low-memory", "--ranks", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command += ["--out", str(tmp_path / "two")]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "120 users, 360 rows" in ended.stdout
    assert _files(tmp_path / "one") == _files(tmp_path / "two")
    done("recommend", undisturbed, "--out", tmp_path / "one", "-k", "3", "--low-memory")
    assert "there already" in capsys.readouterr().out
    done("evaluate", undisturbed, "--json")
    alone = json.loads(capsys.readouterr().out)
    command = [sys.executable, "-m", "dmrec", "evaluate", str(undisturbed), "--json", "--ranks", "2"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert json.loads(ended.stdout) == alone
    assert alone["recall@20"] == Run(undisturbed).result["test"]["recall@20"]


def test_the_table_of_a_blended_ranking_is_made_once(undisturbed):
    loaded = load_run(undisturbed)
    recommender = Recommender(loaded.model, loaded.data, loaded.dataset, loaded.run.config, loaded.run.folder)
    whole = list(recommender.recommend(k=5, popularity=0.5).rows())
    blended = recommender.blended(0.5)
    users = torch.arange(loaded.dataset.n_users)
    tables = []
    for ranking in recommender.ranked_rows(users, 5, None, "known", popularity=0.5, block_size=16):
        tables.append(blended._table)
        items = [loaded.dataset.items[i].id for i in ranking.items[0].tolist()]
        user = loaded.dataset.users[int(ranking.users[0])].id
        assert items == [row["item"] for row in whole if row["user"] == user]
    assert len(tables) > 2
    assert all(table is tables[0] for table in tables)


def test_refusals_of_recommendations_in_parts(undisturbed, tmp_path, capsys, monkeypatch):
    said = refused(capsys, "recommend", undisturbed, "--out", tmp_path / "top", "--user", "u1")
    assert "a folder for all users of the dataset: leave out --user" in said
    assert "--out FOLDER/" in refused(capsys, "recommend", undisturbed, "--user", "u1", "--ranks", 2)
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(capsys, "recommend", undisturbed, "--out", tmp_path / "file")

    def start(ranks):
        raise AssertionError("processes were started")

    monkeypatch.setattr("dmrec.cli.recommend_parts.start", start)
    assert "is a file" in refused(capsys, "recommend", undisturbed, "--out", tmp_path / "file", "--ranks", 2)
    assert "other files" in refused(capsys, "recommend", undisturbed, "--out", tmp_path, "--ranks", 2)


def test_vectors_of_shards_are_exported(undisturbed, tmp_path, capsys):
    import numpy as np

    done("export", undisturbed, "--vectors", "--out", tmp_path / "vectors")
    files = sorted((tmp_path / "vectors").iterdir())
    assert [path.name for path in files] == [f"vectors-000{shard}.npy" for shard in range(8)]
    together = np.concatenate([np.load(path) for path in files])
    np.testing.assert_array_equal(together, load_run(undisturbed).model.item_vectors().numpy())
    assert "say what to export" in refused(capsys, "export", undisturbed, "--out", tmp_path / "vectors")


def test_weights_of_shards_are_a_start_for_one_process(undisturbed, tiny_folder, tmp_path):
    dataset = open_dataset(tiny_folder)
    options = ("sharding.shards=1", "training.epochs=1", "training.learning_rate=1e-12")
    config = _config(dataset, *options, f"training.initial={undisturbed}")
    trainer.train(config, dataset, tmp_path / "run")
    found = Run(tmp_path / "run").load()[0]["backbone.decoder_output.weight"]
    wanted = load_run(undisturbed).model.item_vectors()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


def test_a_sample_of_users_is_measured_the_same_on_one_and_two_processes(rank_pool, tiny_folder, tmp_path):
    settings = ("evaluation.users=30", "training.epochs=2")
    for size in (1, 2):
        rank_pool(size, train, tiny_folder, tmp_path / str(size), settings, None)
    assert _outcome(tmp_path / "1") == _outcome(tmp_path / "2")
    result = Run(tmp_path / "2").result
    assert result["test_users"] == 30
    loaded = load_run(tmp_path / "2")
    of_all = evaluate(loaded.model, loaded.data, loaded.dataset.split("test"), ["recall@20"])
    chosen = sample(of_all.users, 30)
    assert set(sample(of_all.users, 10).tolist()) < set(chosen.tolist()), "a larger sample holds the smaller one"
    assert of_all.means_of(torch.isin(of_all.users, chosen))["recall@20"] == result["test"]["recall@20"]
