"""Grids of runs: what is planned, interrupted, failed and reported; the statistics."""

import dataclasses
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import scipy.stats
from dmrec.cli.main import main
from dmrec.config import build_config
from dmrec.errors import DmrecError
from dmrec.experiment import runner, worker
from dmrec.experiment.paper import published
from dmrec.experiment.plan import grid, read_plan
from dmrec.experiment.report import collect, tables
from dmrec.experiment.runner import ROWS, alone_in, append_row, forget, open_jobs, read_rows, run_jobs
from dmrec.experiment.statistics import compare, holm
from dmrec.options import apply_overrides as with_settings
from dmrec.recipes import recipe
from dmrec.runs.run import Run
from dmrec.runs.run import run_lock as in_use
from dmrec.training.trainer import train
from rich.console import Console

QUIET = Console(quiet=True)
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
    run_jobs(read_plan(plan, out), out, QUIET, workers=2)
    return out


def test_the_grid(plan, tmp_path):
    jobs = read_plan(plan, tmp_path)
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
        ("datasets: [nowhere]\nmodels: [ease]", "nowhere is no folder"),
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
        read_plan(tmp_path / "x.yaml", tmp_path)


def test_every_run_is_a_row_also_one_that_failed(done, plan):
    rows = read_rows(done)
    wanted = [(job.model, job.seed) for job in read_plan(plan, done)]
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
    assert open_jobs(read_plan(plan, done), done, retry=False) == []
    assert [job.model for job in open_jobs(read_plan(plan, done), done, retry=True)] == ["wild"]


def test_a_grid_that_was_killed_goes_on(plan, dataset, tmp_path):
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
    (job,) = read_plan(tmp_path / "long.yaml", tmp_path / "whole")
    assert train(job.config, dataset, job.folder)["test"] == rows["dmrec-m"]["test"]


def test_rows_survive_a_line_that_was_cut_short(tmp_path):
    append_row(tmp_path, {"dataset": "d", "model": "a", "seed": 0, "state": "finished"})
    with (tmp_path / ROWS).open("a") as file:
        file.write('{"dataset": "d", "mod')
    append_row(tmp_path, {"dataset": "d", "model": "b", "seed": 0, "state": "finished"})
    append_row(tmp_path, {"dataset": "d", "model": "b", "seed": 0, "state": "failed"})
    assert [(row["model"], row["state"]) for row in read_rows(tmp_path)] == [("a", "finished"), ("b", "failed")]


def test_the_report(done):
    markdown, latex = tables(done)
    cells, failed = collect(done)
    by_name = {cell.model: cell for cell in cells}
    best = f"{by_name['dmrec-m'].mean('recall@20'):.4f}"
    assert f"**{best}**" in markdown
    assert rf"\textbf{{{best}}}" in latex
    assert f"<u>{by_name['mult-vae'].mean('recall@20'):.4f}</u>" in markdown
    gain = by_name["dmrec-m"].mean("ndcg@10") / by_name["mult-vae"].mean("ndcg@10") - 1
    assert f"{100 * gain:+.2f} %" in markdown
    assert "tiny: dmrec-m - mult-vae | recall@20 | 2 |" in markdown
    assert "tiny wild 1: FloatingPointError" in markdown
    assert len(failed) == 1
    assert latex.count(r"\\") == 1 + len(cells) + 1
    with pytest.raises(DmrecError, match="holds no rows of an experiment"):
        collect(done / "tiny")


def test_the_papers_figures_stand_beside_its_datasets(done, tmp_path):
    assert published("yelp", "cvga", "mddm")["ndcg@20"] == 0.0826
    assert published("steam", "mult-vae", None)["recall@10"] == 0.0929
    assert published("tiny", "mult-vae", None) is None
    assert published("yelp", None, None) is None
    shutil.copytree(done, tmp_path / "copy")
    rows = (tmp_path / "copy" / ROWS).read_text().replace('"dataset": "tiny"', '"dataset": "yelp"')
    (tmp_path / "copy" / ROWS).write_text(rows)
    with pytest.raises(
        DmrecError, match="has a row of .*yelp/popularity/seed-0, which is gone: run the experiment again"
    ):
        tables(tmp_path / "copy")
    (tmp_path / "copy/tiny").rename(tmp_path / "copy/yelp")
    assert "| mult-vae, the paper's | 0.0732 | 0.1189 | 0.0593 | 0.0751 |" in tables(tmp_path / "copy")[0]


def test_the_command_line(plan, done, tmp_path, capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(["experiment", *map(str, arguments)])
        return stopped.value.code or 0

    assert run(plan, "--out", done) == 1
    said = capsys.readouterr().err
    assert "6 runs, 6 of them done" in said
    assert "error: 1 runs failed" in said
    assert (
        run("report", done, "--metric", "recall@5", "--markdown", tmp_path / "t.md", "--latex", tmp_path / "t.tex") == 0
    )
    assert "| recall@5 |" in (tmp_path / "t.md").read_text()
    assert r"\toprule" in (tmp_path / "t.tex").read_text()
    changed = tmp_path / "grid.yaml"
    changed.write_text(plan.read_text().replace("latent: 8", "latent: 9"))
    assert run(changed, "--out", done) == 1
    assert "holds runs of mult-vae on tiny with other options or other data: name another" in capsys.readouterr().err
    assert run("report", done, "--metric", "recall@50") == 1
    assert "not all runs measured 'recall@50'; did you mean 'recall@5'?" in capsys.readouterr().err


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
    assert open_jobs([job], tmp_path, retry=False) == []
    forget([job], tmp_path)  # what --force does: all seeds, or they would be averaged with others
    assert open_jobs([job], tmp_path, retry=False) == [job]
    assert not list(tmp_path.glob("tiny/mult-vae/*/result.json"))
    assert read_rows(tmp_path) == []


def test_what_a_changed_model_left_unfinished_is_not_gone_on_with(dataset, tmp_path, monkeypatch):
    """Nor with that of another dataset of the same name."""
    started = []
    monkeypatch.setattr(runner.subprocess, "Popen", lambda *arguments, **options: started.append(arguments))
    config = build_config(with_settings(recipe("mult-vae"), ["training.epochs=3"]))
    (job,) = grid(config, [dataset], [0], tmp_path)
    runner._start(job, 1, QUIET)
    (job.folder / "state-a.json").write_text("a checkpoint")
    runner._start(job, 1, QUIET)
    assert (job.folder / "state-a.json").exists()
    runner._start(dataclasses.replace(job, data={"train.npz": "other"}), 1, QUIET)
    assert not (job.folder / "state-a.json").exists()
    assert len(started) == 3


@pytest.mark.parametrize("command", ["experiment", "train"])
def test_one_runner_at_a_time(command, plan, done, tiny_folder, tmp_path, capsys):
    """Refused before anything is touched, also with --force."""
    shutil.copytree(done, tmp_path / "copy")
    arguments = ["experiment", plan] if command == "experiment" else ["train", "mult-vae", "--no-baselines", "--force"]
    if command == "train":
        arguments += ["--seeds", "2", "--data", tiny_folder]
    with alone_in(tmp_path / "copy"):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(SystemExit) as stopped:
            main([*map(str, arguments), "--out", str(tmp_path / "copy")])
    assert stopped.value.code == 1
    assert "another process runs this experiment" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_in_use_is_waited_for(dataset, tmp_path, monkeypatch):
    """As that of a worker whose runner was killed: cleared or gone on with only when it has let go."""
    monkeypatch.setattr(runner.subprocess, "Popen", lambda *arguments, **options: None)
    (job,) = grid(build_config(recipe("mult-vae")), [dataset], [0], tmp_path)
    console = Console(record=True, file=io.StringIO())
    starting = threading.Thread(target=runner._start, args=(job, 1, console))
    with in_use(job.folder):
        starting.start()
        while "waiting for the process that trains in" not in console.export_text(clear=False):
            time.sleep(0.01)
        assert not (job.folder / runner.JOB).exists()
    starting.join()
    assert (job.folder / runner.JOB).exists()


def test_a_run_tried_again_keeps_its_place(tmp_path):
    for model, state, started in (("a", "failed", 1.0), ("b", "finished", 2.0), ("a", "finished", 3.0)):
        append_row(tmp_path, {"dataset": "d", "model": model, "seed": 0, "state": state, "started": started})
    assert [(row["model"], row["state"]) for row in read_rows(tmp_path)] == [("a", "finished"), ("b", "finished")]


def test_a_run_that_was_stopped_is_no_row(dataset, tmp_path):
    (job,) = grid(build_config(recipe("mult-vae")), [dataset], [0], tmp_path)
    job.folder.mkdir(parents=True)
    (job.folder / runner.OUTPUT).write_text("a warning\nOSError: the disk is full\n")
    assert runner.row_of(job, runner.INTERRUPTED, 7.0, 1.0)["state"] == "stopped"
    assert runner.row_of(job, -9, 7.0, 1.0)["error"] == "killed by signal 9"
    assert runner.row_of(job, 1, 7.0, 1.0)["error"] == "OSError: the disk is full"


def test_a_damaged_checkpoint_is_started_over(dataset, tmp_path, monkeypatch):
    config = build_config(with_settings(recipe("mult-vae"), ["training.epochs=3", "model.hidden=8"]))
    (job,) = grid(config, [dataset], [0], tmp_path)
    monkeypatch.setattr(runner.subprocess, "Popen", lambda *arguments, **options: None)
    runner._start(job, 1, QUIET)
    (job.folder / "state-a.json").write_text("damaged")
    worker.run_job(job.folder)
    assert Run(job.folder).state() == ("finished", "")


def test_users_of_another_test_are_not_averaged(done, tmp_path):
    shutil.copytree(done, tmp_path / "copy")
    path = tmp_path / "copy/tiny/mult-vae/seed-1/users.npz"
    kept = dict(np.load(path))
    np.savez(path, **{**kept, "user": kept["user"] + 1})
    with pytest.raises(DmrecError, match="dmrec-m and mult-vae on tiny were tested on other users"):
        tables(tmp_path / "copy")


def _without_users(values, seeds, dataset="d", **more):
    """A folder's rows of finished runs of a base and a variant, with their configurations."""
    for model, by_seed in values.items():
        for seed in seeds[model]:
            row = {"dataset": dataset, "model": model, "seed": seed, "state": "finished", "started": seed, **more}
            yield {**row, "test": {metric: each[seed] for metric, each in by_seed.items()}}


@pytest.fixture
def made(tmp_path):
    """Makes a folder of runs that never were: figures by model, metric and seed."""

    def make(values, seeds, dataset="d", **more):
        for row in _without_users(values, seeds, dataset, **more):
            append_row(tmp_path, row)
            Run.create(runner.run_folder(tmp_path, row), build_config(recipe(row["model"])))
            users = {"recall@20": np.full(3, row["test"]["recall@20"])}
            np.savez(runner.run_folder(tmp_path, row) / "users.npz", user=np.arange(3), **users)
        return tmp_path

    return make


def test_a_gain_is_over_the_seeds_of_both(made):
    values = {"mult-vae": {"recall@20": {0: 0.2, 1: 0.1}}, "dmrec-m": {"recall@20": {0: 0.22}}}
    markdown, latex = tables(made(values, {"mult-vae": [0, 1], "dmrec-m": [0]}))
    assert "| best of mult-vae over its base | +10.00 % |" in markdown
    assert r"Improvement, mult-vae & +10.00 \% \\" in latex
    assert "mult-vae (2 seeds) & " in latex  # not alike, so both say how many
    assert "dmrec-m (1 seed) & " in latex


def test_metrics_without_users_and_bases_of_zero(made):
    values = {m: {"recall@20": {0: r}, "coverage@20": {0: 0.5}} for m, r in (("mult-vae", 0.0), ("dmrec-m", 0.2))}
    markdown, _ = tables(made(values, {"mult-vae": [0], "dmrec-m": [0]}), ["recall@20", "coverage@20"])
    assert "| best of mult-vae over its base | - | +0.00 % |" in markdown
    assert "| d: dmrec-m - mult-vae | coverage@20 | 1 | +0.0000 | - | - | - | [-, -] | - | - | - |" in markdown


def test_names_are_escaped(made):
    name = r"R&D_50% #1 $x|y^~{}\z"
    values = {"mult-vae": {"recall@20": {0: 0.2}}}
    made(values, {"mult-vae": [0]}, "other")
    markdown, latex = tables(made(values, {"mult-vae": [0]}, name))
    assert r"| R&D_50% #1 $x\|y^~{}\z recall@20 |" in markdown
    escaped = r"R\&D\_50\% \#1 \$x|y\textasciicircum{}\textasciitilde{}\{\}\textbackslash{}z recall@20 \\"
    assert f" & other recall@20 & {escaped}" in latex or f" & {escaped}".removesuffix(r" \\") in latex


def test_two_versions_of_a_dataset_are_not_compared(made, plan, done, tmp_path):
    values = {"mult-vae": {"recall@20": {0: 0.2}}}
    made(values, {"mult-vae": [0]}, data={"train.npz": "a"})
    tables(tmp_path)
    made({"dmrec-m": values["mult-vae"]}, {"dmrec-m": [0]}, data={"train.npz": "b"})
    with pytest.raises(DmrecError, match="holds runs on two versions of d, which cannot be compared"):
        tables(tmp_path)
    jobs = [dataclasses.replace(job, data={**job.data, "train.npz": "another"}) for job in read_plan(plan, done)]
    new = [dataclasses.replace(job, model="new") for job in jobs]
    before = (done / ROWS).read_bytes()
    for refused in (lambda: runner.check_folder(done, new, ""), lambda: forget(new, done)):
        with pytest.raises(DmrecError, match="holds runs on another version of tiny: name another folder"):
            refused()
    assert (done / ROWS).read_bytes() == before


def test_without_a_finished_run_the_report_says_why(tmp_path):
    append_row(tmp_path, {"dataset": "d", "model": "m", "seed": 0, "state": "failed", "started": 0, "error": "no luck"})
    with pytest.raises(DmrecError, match="no run has finished\n- d m 0: no luck"):
        tables(tmp_path)


def test_paired_tests_are_scipys():
    rng = np.random.default_rng(0)
    a = rng.random(40)
    b = a + 0.05 + 0.1 * rng.standard_normal(40)
    found = compare(a, b)
    assert found.p_t == pytest.approx(scipy.stats.ttest_rel(b, a).pvalue)
    assert found.p_wilcoxon == pytest.approx(scipy.stats.wilcoxon(b, a).pvalue)
    interval = scipy.stats.ttest_rel(b, a).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.effect == pytest.approx((b - a).mean() / (b - a).std(ddof=1))
    assert math.isnan(compare(a[:1], b[:1]).p_t)
    assert math.isnan(compare(a, a).p_t)
    rounded = np.where(np.arange(40) < 20, a + 1e-16, b)  # equal but for the rounding of a mean
    assert compare(a, rounded).p_wilcoxon == compare(a, np.where(np.arange(40) < 20, a, b)).p_wilcoxon


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    corrected = holm([math.nan, 0.02, 0.03])
    assert math.isnan(corrected[0])
    assert corrected[1:] == pytest.approx([0.04, 0.04])
    assert holm([]) == []


def test_a_digest_follows_the_options(plan, tmp_path):
    jobs = read_plan(plan, tmp_path)
    same = read_plan(plan, tmp_path / "elsewhere")
    assert [job.digest for job in jobs] == [job.digest for job in same]
    assert json.loads(json.dumps(jobs[0].digest))
    assert build_config(jobs[0].config.model_dump(mode="json")) == jobs[0].config
