"""Experiments: what is planned, interrupted, failed and recorded."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from dmrec.cli.main import main
from dmrec.config import build_config
from dmrec.errors import DmrecError
from dmrec.experiment import runner, worker
from dmrec.experiment.ledger import (
    ROWS,
    append_row,
    check_folder,
    delete_runs,
    experiment_lock,
    finished_row,
    pending_jobs,
    read_rows,
    run_key,
)
from dmrec.experiment.plan import Job, grid, read_plan
from dmrec.experiment.runner import run_jobs, run_jobs_here
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.run import Run, run_lock
from dmrec.training.trainer import train

SMALL = """
training: {epochs: 6, batch_size: 40, learning_rate: 0.01}
models:
  popularity:
  mult-vae: {model: {hidden: 24, latent: 8}}
  dmrec-m: {model: {hidden: 24, latent: 8}, language: {hidden: 24}}
  wild: {recipe: mult-vae, training: {learning_rate: 1.0e+30}, seeds: [1]}
"""


@pytest.fixture(scope="module")
def plan(tiny_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "grid.yaml"
    path.write_text(f"datasets: [{tiny_folder}]\nseeds: 2\n{SMALL}")
    return path


@pytest.fixture(scope="module")
def done(plan, tmp_path_factory):
    """The folder of the grid, run through with two workers."""
    out = tmp_path_factory.mktemp("experiment")
    run_jobs(read_plan(plan, out).jobs(), out, print, workers=2)
    return out


def test_the_grid(plan, tmp_path):
    jobs = read_plan(plan, tmp_path).jobs()
    names = [(job.model, job.seed) for job in jobs]
    assert names[:3] == [("popularity", 0), ("mult-vae", 0), ("dmrec-m", 0)]
    assert names[3:] == [("mult-vae", 1), ("dmrec-m", 1), ("wild", 1)]
    assert jobs[2].config.training.batch_size == 40
    assert jobs[2].config.matching.strategy == "mddm"
    assert jobs[2].folder == tmp_path / "tiny/dmrec-m/seed-0"
    assert len({job.digest for job in jobs}) == len({job.model for job in jobs})  # one for all seeds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset: [x]", "unknown key 'dataset'; did you mean 'datasets'"),
        ("datasets: [{data}]", "names no models"),
        ("datasets: [{data}]\nmodels: [mult-va]", "no recipe is called 'mult-va'; did you mean 'mult-vae'"),
        (
            "datasets: [{data}]\nmodels: [mult-vae]\nseeds: few",
            "seeds must be whole numbers, like .0, 1, 2., or how many",
        ),
        ("datasets: [{data}]\nmodels: {{a: {{recipe: mult-vae, modle: 1}}}}", "unknown option 'modle'"),
        ("datasets: [{data}]\nmodels: {{a: {{recipe: 3}}}}", "a: recipe must be the name of one, got 3"),
        ("datasets: [{data}]\nmodels: {{1: }}", "models must be names, or names with options"),
        ("datasets: [{data}]\nmodels: {{a: {{model: {{kind: mult}}}}}}", "no model is called 'mult'"),
        ("datasets: [nowhere]\nmodels: [ease]", "nowhere is not a folder"),
        ("datasets: {data}\nmodels: [ease]", "datasets must be a list of folders"),
        ("datasets: [{data}]\nmodels: mult-vae", "models must be names, or names with options, got 'mult-vae'"),
        ("datasets: [{data}]\nmodels: {{mult-vae: 3}}", "models must be names, or names with options"),
        ("datasets: [{data}, {data}]\nmodels: [ease]", "two datasets have one name, or a seed is named twice"),
        (
            "datasets: [{data}]\nmodels: [mult-vae]\nseeds: [0, 0]",
            "two datasets have one name, or a seed is named twice",
        ),
    ],
)
def test_bad_plans(text, message, tiny_folder, tmp_path):
    (tmp_path / "x.yaml").write_text(text.format(data=tiny_folder))
    with pytest.raises(DmrecError, match=message):
        read_plan(tmp_path / "x.yaml", tmp_path).jobs()


def test_every_run_is_a_row_also_one_that_failed(done, plan):
    rows = read_rows(done)
    wanted = [(job.model, job.seed) for job in read_plan(plan, done).jobs()]
    assert [(row["model"], row["seed"]) for row in rows] == wanted  # whichever of two workers was done first
    finished = {(row["model"], row["seed"]): row for row in rows if row["state"] == "finished"}
    assert len(finished) == 5
    (failed,) = (row for row in rows if row["state"] == "failed")
    assert failed["model"] == "wild"
    assert "became NaN or infinite in epoch 1; lower training.learning_rate" in failed["error"]
    for (model, seed), row in finished.items():
        result = Run(done / "tiny" / model / f"seed-{seed}").result
        assert row["test"] == result["test"]
        of_users = np.load(done / "tiny" / model / f"seed-{seed}" / "users.npz")
        for metric, value in row["test"].items():
            assert of_users[metric].mean() == pytest.approx(value)
    assert pending_jobs(read_plan(plan, done).jobs(), done, retry=False) == []
    assert [job.model for job in pending_jobs(read_plan(plan, done).jobs(), done, retry=True)] == ["wild"]


def test_a_grid_that_was_killed_is_continued(plan, dataset, tmp_path):
    """The runner by kill -9 in the middle of a run: its worker stops, and the figures come out the same."""
    long = plan.read_text().replace("epochs: 6", "epochs: 60, checkpoint_minutes: 0.0005, patience: 100")
    long = "".join(
        line for line in long.splitlines(keepends=True) if "mult-vae" not in line and "popularity" not in line
    )
    (tmp_path / "long.yaml").write_text(long.replace("seeds: 2", "seeds: 1"))
    command = [sys.executable, "-m", "dmrec", "experiment", str(tmp_path / "long.yaml"), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/tiny/dmrec-m/seed-0/state-*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_rows(tmp_path / "out") == []
    assert Run(tmp_path / "out/tiny/dmrec-m/seed-0").state()[0] == "stopped"
    subprocess.run(command, check=False, capture_output=True)
    rows = {row["model"]: row for row in read_rows(tmp_path / "out")}
    assert rows["dmrec-m"]["state"] == "finished"
    (job,) = read_plan(tmp_path / "long.yaml", tmp_path / "whole").jobs()
    assert train(job.config, dataset, job.folder)["test"] == rows["dmrec-m"]["test"]


def test_rows_survive_a_line_that_was_cut_short(tmp_path):
    append_row(tmp_path, {"dataset": "d", "model": "a", "seed": 0, "state": "finished"})
    with (tmp_path / ROWS).open("a") as file:
        file.write('{"dataset": "d", "mod')
    append_row(tmp_path, {"dataset": "d", "model": "b", "seed": 0, "state": "finished"})
    append_row(tmp_path, {"dataset": "d", "model": "b", "seed": 0, "state": "failed"})
    assert [(row["model"], row["state"]) for row in read_rows(tmp_path)] == [("a", "finished"), ("b", "failed")]


def test_the_command_line(plan, done, tmp_path, capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(["experiment", *map(str, arguments)])
        return stopped.value.code or 0

    assert run(plan, "--out", done) == 1
    printed = capsys.readouterr().err
    assert "6 runs, 6 of them done" in printed
    assert "error: 1 runs failed" in printed
    assert (
        run("report", done, "--metric", "recall@5", "--markdown", tmp_path / "t.md", "--latex", tmp_path / "t.tex") == 0
    )
    assert "| recall@5 |" in (tmp_path / "t.md").read_text()
    assert r"\toprule" in (tmp_path / "t.tex").read_text()
    changed = tmp_path / "grid.yaml"
    changed.write_text(plan.read_text().replace("latent: 8", "latent: 9"))
    assert run(changed, "--out", done) == 1
    assert "holds runs of mult-vae on tiny with other options or other data: name another" in capsys.readouterr().err
    assert run("report", done, "--metric", "recall@200") == 1
    assert (
        "not all runs measured 'recall@200', or kept as many ranks; did you mean 'recall@20'?"
        in capsys.readouterr().err
    )
    assert run("report", done, "--metric", "novelty@5") == 1
    assert "'novelty@5' does not follow from the ranks that runs keep" in capsys.readouterr().err


def test_several_seeds_of_train_are_an_experiment(tiny_folder, dataset, tmp_path, capsys):
    command = [
        "train",
        "mult-vae",
        "--no-baselines",
        "--data",
        str(tiny_folder),
        "--out",
        str(tmp_path),
        "--seeds",
        "2",
    ]
    command += ["--set", "training.epochs=3", "--set", "model.hidden=24"]
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert not stopped.value.code
    figures = [Run(tmp_path / f"tiny/mult-vae/seed-{s}").result["test"]["recall@10"] for s in (0, 1)]
    mean, deviation = np.mean(figures), np.std(figures, ddof=1)
    assert f"{mean:.4f} ±{deviation:.4f}" in capsys.readouterr().out
    assert Run.open(tmp_path / "tiny/mult-vae").folder == tmp_path / "tiny/mult-vae/seed-0"
    written = os.stat(tmp_path / "tiny/mult-vae/seed-0/result.json").st_mtime_ns  # noqa: PTH116
    with pytest.raises(SystemExit):
        main(command)
    assert os.stat(tmp_path / "tiny/mult-vae/seed-0/result.json").st_mtime_ns == written  # noqa: PTH116
    config = Run(tmp_path / "tiny/mult-vae/seed-0").config
    (job,) = grid(config, [dataset], [0], tmp_path)
    assert pending_jobs([job], tmp_path, retry=False) == []
    delete_runs([job], tmp_path)  # what --force does: all seeds, or they would be averaged with others
    assert pending_jobs([job], tmp_path, retry=False) == [job]
    assert not list(tmp_path.glob("tiny/mult-vae/*/result.json"))
    assert read_rows(tmp_path) == []


def test_an_unfinished_run_of_a_changed_model_is_not_continued(dataset, tmp_path, monkeypatch):
    """Nor is a run on another dataset of the same name."""
    started = []
    monkeypatch.setattr(runner.subprocess, "Popen", lambda *arguments, **options: started.append(arguments))
    config = build_config(apply_overrides(recipe("mult-vae"), ["training.epochs=3"]))
    (job,) = grid(config, [dataset], [0], tmp_path)
    runner._start_job(job, 1, print)
    (job.folder / "state-a.json").write_text("a checkpoint")
    runner._start_job(job, 1, print)
    assert (job.folder / "state-a.json").exists()
    runner._start_job(dataclasses.replace(job, data={"train.npz": "other"}), 1, print)
    assert not (job.folder / "state-a.json").exists()
    assert len(started) == 3


@pytest.mark.parametrize("command", ["experiment", "train"])
def test_one_runner_at_a_time(command, plan, done, tiny_folder, tmp_path, capsys):
    """Refused before anything is touched, also with --force."""
    shutil.copytree(done, tmp_path / "copy")
    arguments = ["experiment", plan] if command == "experiment" else ["train", "mult-vae", "--no-baselines", "--force"]
    if command == "train":
        arguments += ["--seeds", "2", "--data", tiny_folder]
    with experiment_lock(tmp_path / "copy"):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(SystemExit) as stopped:
            main([*map(str, arguments), "--out", str(tmp_path / "copy")])
    assert stopped.value.code == 1
    assert "another process runs this experiment" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_locked_run_is_waited_for(dataset, tmp_path, monkeypatch):
    """A worker whose runner was killed may hold it. The run is cleared or continued after the lock is released."""
    monkeypatch.setattr(runner.subprocess, "Popen", lambda *arguments, **options: None)
    (job,) = grid(build_config(recipe("mult-vae")), [dataset], [0], tmp_path)
    lines = []
    starting = threading.Thread(target=runner._start_job, args=(job, 1, lines.append))
    with run_lock(job.folder):
        starting.start()
        while not lines:
            time.sleep(0.01)
        assert not (job.folder / worker.JOB).exists()
    starting.join()
    assert lines == [f"waiting for the process that trains in {job.folder}"]
    assert (job.folder / worker.JOB).exists()


def test_a_run_tried_again_keeps_its_place(tmp_path):
    for model, state, started in (("a", "failed", 1.0), ("b", "finished", 2.0), ("a", "finished", 3.0)):
        append_row(tmp_path, {"dataset": "d", "model": model, "seed": 0, "state": state, "started": started})
    assert [(row["model"], row["state"]) for row in read_rows(tmp_path)] == [("a", "finished"), ("b", "finished")]


def test_a_run_that_was_stopped_is_no_row(dataset, tmp_path):
    (job,) = grid(build_config(recipe("mult-vae")), [dataset], [0], tmp_path)
    job.folder.mkdir(parents=True)
    (job.folder / runner.OUTPUT).write_text("a warning\nOSError: the disk is full\n")
    assert runner.row_of_worker(job, worker.INTERRUPTED, 7.0)["state"] == "stopped"
    assert runner.row_of_worker(job, -9, 7.0)["error"] == "killed by signal 9"
    assert runner.row_of_worker(job, 1, 7.0)["error"] == "OSError: the disk is full"


def test_a_damaged_checkpoint_is_started_over(dataset, tmp_path, monkeypatch):
    config = build_config(apply_overrides(recipe("mult-vae"), ["training.epochs=3", "model.hidden=8"]))
    (job,) = grid(config, [dataset], [0], tmp_path)
    monkeypatch.setattr(runner.subprocess, "Popen", lambda *arguments, **options: None)
    runner._start_job(job, 1, print)
    (job.folder / "state-a.json").write_text("damaged")
    lines = []
    worker.train_or_resume(job.folder, lines.append)
    assert len(lines) == 1
    assert lines[0].endswith("training starts from the beginning")
    assert Run(job.folder).state() == ("finished", "")


def test_a_digest_follows_the_options(plan, tmp_path):
    jobs = read_plan(plan, tmp_path).jobs()
    same = read_plan(plan, tmp_path / "elsewhere").jobs()
    assert [job.digest for job in jobs] == [job.digest for job in same]
    assert json.loads(json.dumps(jobs[0].digest))
    assert build_config(jobs[0].config.model_dump(mode="json")) == jobs[0].config


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("popularity", "af97b5f31fd0ed10"),
        ("ease", "ac6a289be87fc123"),
        ("mult-vae", "499236201c1e9b04"),
        ("dmrec-m", "b852174261fe3625"),
        ("cvga-m", "dc5f63775233ae07"),
        ("l-diffrec-m", "b1f1ac28f8e4fa73"),
        ("lightgcn", "80529eba997ccda2"),
        ("sasrec", "5f0442ddf7e1fbee"),
        ("tiger", "1a5ce0d0da143c43"),
    ],
)
def test_digests_are_as_before_an_option_was_added(name, digest):
    """Otherwise an experiment could not be continued with a newer version: name the new option in `LATER`."""
    assert Job("d", name, 0, build_config(recipe(name)), {}, Path("run")).digest == digest


def test_runs_on_another_version_of_a_dataset_are_refused(plan, done):
    jobs = [dataclasses.replace(job, data={**job.data, "train.npz": "another"}) for job in read_plan(plan, done).jobs()]
    new = [dataclasses.replace(job, model="new") for job in jobs]
    before = (done / ROWS).read_bytes()
    for refused in (lambda: check_folder(done, new, ""), lambda: delete_runs(new, done)):
        with pytest.raises(DmrecError, match="holds runs on another version of tiny: name another folder"):
            refused()
    assert (done / ROWS).read_bytes() == before


def test_options_that_do_not_change_results_are_not_in_the_digest(plan, tmp_path):
    jobs = read_plan(plan, tmp_path).jobs()
    for overrides, same in (({"seed": 7, "checkpoint_minutes": 1, "log_terms_every": 3}, True), ({"epochs": 7}, False)):
        others = read_plan(plan, tmp_path, {"training": overrides}).jobs()
        assert [job.digest == other.digest for job, other in zip(jobs, others, strict=True)] == [same] * len(jobs)


def test_runs_in_this_process_leave_the_rows_of_worker_processes(plan, done, dataset, tmp_path):
    jobs = [job for job in read_plan(plan, tmp_path).jobs() if job.seed == 1]
    lines = []
    run_jobs_here(jobs, tmp_path, lambda job: train(job.config, dataset, job.folder), lines.append)
    of_workers = {run_key(row): row for row in read_rows(done)}
    volatile = {"started", "seconds", "seconds_per_epoch", "phases", "threads", "workers"}
    for row in read_rows(tmp_path):
        expected = of_workers[run_key(row)]
        assert row.keys() == expected.keys()
        assert {k: v for k, v in row.items() if k not in volatile} == {
            k: v for k, v in expected.items() if k not in volatile
        }
    assert len(lines) == len(jobs) == 3
    assert lines[2].startswith("tiny wild seed 1: failed, FloatingPointError: a weight became NaN")
    assert lines[2].endswith("(3 of 3)")
    assert pending_jobs(jobs, tmp_path, retry=False) == []


def test_an_interruption_or_a_bug_ends_the_runs_in_this_process(plan, tmp_path):
    jobs = read_plan(plan, tmp_path).jobs()
    for error in (KeyboardInterrupt(), RuntimeError("a bug")):

        def fail(job, error=error):
            raise error

        with pytest.raises(type(error)):
            run_jobs_here(jobs, tmp_path, fail, print)
    assert [row["error"] for row in read_rows(tmp_path)] == ["RuntimeError: a bug"]
    assert pending_jobs(jobs, tmp_path, retry=False) == jobs[1:]
    assert pending_jobs(jobs, tmp_path, retry=True) == jobs


def test_the_device_of_a_run_is_in_its_row(plan, tmp_path):
    job = read_plan(plan, tmp_path).jobs()[0]
    result = {"test": {"recall@20": 0.5}, "environment": {"threads": 2, "torch": "2", "device": "cuda:0", "numpy": "2"}}
    Run.create(job.folder, job.config).finish(result)
    row = finished_row(job, 7.0)
    assert (row["device"], row["threads"], row["state"]) == ("cuda:0", 2, "finished")
    assert "numpy" not in row
