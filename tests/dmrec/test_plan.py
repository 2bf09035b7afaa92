"""What an experiment file can say beyond models and seeds: options by dataset, sweeps, tuning before the runs."""

import json

import pytest
import tiny
from dmrec.cli.main import main
from dmrec.errors import DmrecError
from dmrec.experiment.ledger import read_rows
from dmrec.experiment.paper_plans import ANALYSES
from dmrec.experiment.plan import TUNED, TUNING, read_plan
from dmrec.experiment.searches import pending_searches
from dmrec.experiment.tuning import read_trials
from dmrec.language.embed import permute_vectors

SMALL = "training: {epochs: 4, batch_size: 40, learning_rate: 0.01}\n"


@pytest.fixture
def plan_of(tiny_folder, tmp_path):
    def make(text, out="out"):
        path = tmp_path / "grid.yaml"
        path.write_text(f"datasets: [{tiny_folder}]\n{SMALL}{text}")
        return read_plan(path, tmp_path / out)

    return make


def test_options_on_one_dataset(tmp_path, tiny_folder):
    other = tmp_path / "other"
    tiny.make(other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "name": "other"}))
    (tmp_path / "grid.yaml").write_text(
        f"datasets: [{tiny_folder}, {other}]\nmodels:\n"
        "  dmrec-m: {matching: {beta: 0.3}, on: {other: {matching: {beta: 0.7}, training: {epochs: 2}}}}\n"
    )
    jobs = {job.dataset: job.config for job in read_plan(tmp_path / "grid.yaml", tmp_path / "out").jobs()}
    assert (jobs["tiny"].matching.beta, jobs["other"].matching.beta) == (0.3, 0.7)
    assert (jobs["tiny"].training.epochs, jobs["other"].training.epochs) == (1000, 2)


def test_a_sweep_is_a_model_for_each_value(plan_of):
    plan = plan_of("models:\n  dmrec-m: {sweep: {matching.beta: [0, 0.5], model.latent: [4, 8]}}\n  mult-vae:\n")
    jobs = plan.jobs()
    assert [job.model for job in jobs] == [
        *(f"dmrec-m@beta={beta}@latent={latent}" for beta in ("0", "0.5") for latent in (4, 8)),
        "mult-vae",
    ]
    assert [(job.config.matching.beta, job.config.model.latent) for job in jobs[:-1]] == [
        (0, 4),
        (0, 8),
        (0.5, 4),
        (0.5, 8),
    ]
    assert jobs[0].folder.name == "seed-0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: {dmrec-m: {on: {tinny: {}}}}", "dmrec-m.on: no dataset is called 'tinny'; did you mean 'tiny'"),
        ("models: {dmrec-m: {on: 3}}", "dmrec-m.on: must be options by dataset"),
        ("models: {dmrec-m: {on: {tiny: {matching: {bet: 1}}}}}", "unknown option 'matching.bet'"),
        ("models: {dmrec-m: {sweep: {matching.beta: 1}}}", "dmrec-m.sweep: must be lists of values"),
        ("models: {dmrec-m: {sweep: {matching.beta: [[1]]}}}", "dmrec-m.sweep: values must be numbers or words"),
        ("models: {dmrec-m: {sweep: {matching.beta: [2]}}}", "at most 1, got 2"),
        ("models: {dmrec-m: {sweep: {matching.strategy: [a b]}}}", "name: String should match pattern"),
        ("models: [mult-vae]\ntune: 3", "tune must be like"),
        ("models: [mult-vae]\ntune: {trials: 0}", "tune.trials must be a whole number above 0"),
        ("models: [mult-vae]\ntune: {trials: 3, seed: 1}\nseeds: 2", "tune.seed must be none of the seeds"),
        ("models: {mult-vae: {tune: 4}}", "mult-vae.tune: false leaves this model as it is"),
        ("models: {dmrec-m: {sweep: {matching.beta: [0, 1]}}}\nagainst: [dmrec-m]", "against must be a list of names"),
    ],
)
def test_bad_keys(text, message, plan_of):
    with pytest.raises(DmrecError, match=message):
        plan_of(text).jobs()


def test_models_are_tuned_before_they_are_run(plan_of, tmp_path, tiny_folder, capsys):
    pytest.importorskip("optuna", reason="optuna is not installed")
    text = (
        "seeds: 2\ntune: {trials: 3, seed: 7}\nmodels:\n  ease:\n"
        "  mult-vae: {model: {hidden: 200, latent: 64}}\n  as-it-is: {recipe: mult-vae, tune: false}\n"
    )
    plan = plan_of(text)
    assert [(search.model, search.trials, search.seed) for search in plan.searches()] == [("mult-vae", 3, 7)]
    with pytest.raises(DmrecError, match="the search has not ended"):
        plan.jobs()

    def run():
        with pytest.raises(SystemExit) as stopped:
            main(["experiment", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "out"), "--workers", "2"])
        return stopped.value.code or 0, capsys.readouterr().err

    status, printed = run()
    assert status == 0
    assert "1 searches of 3 trials each come first" in printed
    assert "tiny mult-vae: tuned (1 of 1 searches)" in printed
    folder = tmp_path / "out" / TUNING / "tiny/mult-vae"
    trials = list(read_trials(folder, "mult-vae"))
    assert len(trials) == 3
    assert trials[0]["model.hidden"] == 200, "the options of the plan are the first trial"
    assert trials[0]["training.annealing.cap"] == 1
    best = max((trial for trial in trials if trial["score"] is not None), key=lambda trial: trial["score"])
    kept = json.loads((folder / TUNED).read_text())
    assert kept["options"]["model"]["dropout"] == best["model.dropout"]
    assert [trial["score"] for trial in kept["trials"]] == [trial["score"] for trial in trials]
    jobs = {job.model: job for job in plan_of(text).jobs()}
    assert jobs["mult-vae"].config.model.dropout == best["model.dropout"]
    assert jobs["mult-vae"].config.training.annealing.cap == best["training.annealing.cap"]
    assert jobs["as-it-is"].config.model.dropout == 0.3
    assert {(row["model"], row["seed"]) for row in read_rows(tmp_path / "out")} == {
        ("ease", 0),
        *((name, seed) for name in ("mult-vae", "as-it-is") for seed in (0, 1)),
    }
    status, printed = run()
    assert (status, "searches" in printed) == (0, False)
    assert not pending_searches(plan_of(text).searches())
    assert pending_searches(plan_of(text.replace("trials: 3", "trials: 4")).searches())
    plan_of(text.replace("latent: 64", "latent: 100"))
    status, printed = run()
    assert status == 1
    assert "1 searches failed; nothing was run" in printed
    assert "holds a search of other options, or on other data" in printed


@pytest.mark.parametrize("analysis", ANALYSES)
def test_analyses_of_the_paper_are_experiments_on_any_data(analysis, tmp_path, tiny_folder, capsys):
    """With the settings published for a dataset where it is the paper's."""
    yelp = tmp_path / "yelp"
    data = tiny.make(yelp)
    permute_vectors(data, data.vector_names[0])
    manifest = json.loads((yelp / "manifest.json").read_text())
    (yelp / "manifest.json").write_text(json.dumps({**manifest, "name": "yelp"}))

    def run(*more):
        command = ["paper", analysis, "--data", str(yelp), "--out", str(tmp_path / "out"), "--seeds", "2", *more]
        with pytest.raises(SystemExit) as stopped:
            main(command)
        return stopped.value.code or 0, capsys.readouterr().err

    assert run("--plan-only")[0] == 0
    plan = read_plan(tmp_path / "out.yaml", tmp_path / "out")
    jobs = {job.model: job.config for job in plan.jobs()}
    counts = {"table-2": 14, "table-3": 15, "ablations": 7, "beta": 34}
    assert len(jobs) == counts[analysis]
    published = {"table-2": "dmrec-m", "table-3": "dmrec-m", "ablations": "dmrec-m", "beta": "dmrec-m@beta=0.4"}
    assert jobs[published[analysis]].matching.beta == 0.4
    assert jobs["mult-vae"].model.dropout == 0.3
    if analysis == "ablations":
        assert jobs["dmrec-m.permuted"].language.vectors == "permuted"
        assert jobs["add"].matching.strategy == "none"
        assert not jobs["without-meta-network"].language.aggregate
    status, printed = run("--plan-only", "--tune", "4")
    assert (status, "is there already and says something else: it is run as it is" in printed) == (0, True)
    (tmp_path / "out.yaml").unlink()
    run("--plan-only", "--tune", "4")
    assert all(search.trials == 4 for search in read_plan(tmp_path / "out.yaml", tmp_path / "out").searches())
