"""What is made of an experiment's results: comparisons, tables, the paired tests."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from dmrec.config import build_config, read_config
from dmrec.errors import DmrecError
from dmrec.experiment.comparisons import base_of, collect, summary
from dmrec.experiment.ledger import ROWS, append_row, read_rows, run_folder
from dmrec.experiment.plan import PLAN, read_models
from dmrec.experiment.report.paper import published_figures
from dmrec.experiment.report.tables import tables
from dmrec.experiment.statistics import holm, paired_test, resampled_means, two_level_interval, welch
from dmrec.recipes import recipe
from dmrec.runs.run import Run

RESULTS = Path(__file__).parents[2] / "benchmarks/results/experiments"
REPORTS = sorted(path.parent.name for path in RESULTS.glob("*/report.md"))
TESTS = "## Variants and their bases"


@pytest.fixture
def make(tmp_path):
    """Makes a folder with rows and run folders, from test figures by model, metric and seed."""

    def make(figures, dataset="d", **more):
        for model, by_metric in figures.items():
            for seed in next(iter(by_metric.values())):
                test = {metric: by_seed[seed] for metric, by_seed in by_metric.items()}
                row = {"dataset": dataset, "model": model, "seed": seed, "state": "finished", "started": seed, **more}
                append_row(tmp_path, {**row, "test": test, "test_users": 3})
                folder = run_folder(tmp_path, row)
                Run.create(folder, build_config(recipe(model)))
                np.savez(folder / "users.npz", user=np.arange(3), **{"recall@20": np.full(3, test["recall@20"])})
        return tmp_path

    return make


BOTH = {
    "mult-vae": {"recall@20": {0: 0.20, 1: 0.22}, "ndcg@20": {0: 0.10, 1: 0.10}},
    "dmrec-m": {"recall@20": {0: 0.25, 1: 0.29}, "ndcg@20": {0: 0.12, 1: 0.10}},
}


def test_tables(make):
    folder = make({**BOTH, "popularity": {"recall@20": {0: 0.1}, "ndcg@20": {0: 0.05}}})
    error = {"state": "failed", "started": 9, "error": "FloatingPointError: a weight became NaN"}
    append_row(folder, {"dataset": "d", "model": "wild", "seed": 1, **error})
    markdown, latex = tables(folder)
    assert "# d: test, 3 users" in markdown
    assert "| dmrec-m | 2 | **0.2700** ±0.0283 | **0.1100** ±0.0141 |" in markdown
    assert "| mult-vae | 2 | <u>0.2100</u> ±0.0141 | <u>0.1000</u> ±0.0000 |" in markdown
    assert "| popularity | 1 | 0.1000 | 0.0500 |" in markdown
    assert r"dmrec-m & \textbf{0.2700}$^*$ & \textbf{0.1100} \\" in latex
    assert r"\caption{Test figures on d: means over 1 to 2 seeds, 3 users. $^*$: differs from its base" in latex
    assert "| dmrec-m over mult-vae |  | +28.57 % | +10.00 % |" in markdown
    assert "| d: dmrec-m - mult-vae | recall@20 | 2 | +0.0600 |" in markdown
    assert "- d wild 1: FloatingPointError: a weight became NaN" in markdown
    cells, failed = collect(folder)
    assert [cell.model for cell in cells] == ["mult-vae", "dmrec-m", "popularity"]
    assert len(failed) == 1
    assert latex.count(r"\\") == 1 + len(cells) + 1
    assert latex.count("\\begin{") == latex.count("\\end{") == 2


def test_an_alignment_is_compared_with_the_same_model_without(make):
    names = ("tiger", "tiger-soda", "letter", "etegrec", "etegrec-soda")
    folder = make({name: {"recall@20": {0: 0.1 + n / 100, 1: 0.1}} for n, name in enumerate(names)})
    cells, _ = collect(folder)
    assert [base and base.model for base in (base_of(cell, cells) for cell in cells)] == [
        None,
        "tiger",
        None,
        None,
        "etegrec",
    ]
    markdown, _ = tables(folder)
    assert "| d: tiger-soda - tiger | recall@20 | 2 | +0.0050 |" in markdown
    assert "| d: etegrec-soda - etegrec | recall@20 | 2 | +0.0050 |" in markdown


def test_a_model_that_reads_texts_is_compared_with_the_same_model_that_does_not(make):
    folder = make({name: {"recall@20": {0: 0.1, 1: 0.1 + n / 100}} for n, name in enumerate(("mult-vae", "dmrec-m"))})
    text = build_config({**recipe("dmrec-m"), "name": "text", "model": {**recipe("dmrec-m")["model"], "item_text": {}}})
    for seed in (0, 1):
        row = {"dataset": "d", "model": "text", "seed": seed, "state": "finished", "started": 9, "test_users": 3}
        append_row(folder, {**row, "test": {"recall@20": 0.2 + seed / 10}})
        Run.create(run_folder(folder, row), text)
        np.savez(run_folder(folder, row) / "users.npz", user=np.arange(3), **{"recall@20": np.full(3, 0.2)})
    cells, _ = collect(folder)
    assert [base and base.model for base in (base_of(cell, cells) for cell in cells)] == [None, "mult-vae", "dmrec-m"]
    assert "| d: text - dmrec-m | recall@20 | 2 | +0.1450 |" in tables(folder)[0]


def test_every_model_is_compared_with_those_named(make):
    folder = make({**BOTH, "ease": {"recall@20": {0: 0.1}, "ndcg@20": {0: 0.05}}})
    assert "ease" not in tables(folder)[0].split(TESTS)[1]
    tests = tables(folder, against=["ease", "mult-vae"])[0].split(TESTS)[1]
    lines = [line.split("|")[1:5] for line in tests.splitlines() if "| recall@20 |" in line]
    assert [[each.strip() for each in line] for line in lines] == [
        ["d: dmrec-m - mult-vae", "recall@20", "2", "+0.0600"],  # once
        ["d: mult-vae - ease", "recall@20", "2", "+0.1100"],  # the one run of a model without anything random
        ["d: dmrec-m - ease", "recall@20", "2", "+0.1700"],
    ]
    (folder / PLAN).write_text("datasets: [d]\nmodels: [ease, mult-vae, dmrec-m]\nagainst: [ease, mult-vae]\n")
    assert tables(folder)[0].split(TESTS)[1] == tests
    with pytest.raises(DmrecError, match="no run of a model 'eas' has finished; did you mean 'ease'"):
        tables(folder, against=["eas"])


@pytest.mark.parametrize("name", REPORTS)
def test_reports_of_committed_results_do_not_change(name, tmp_path):
    """Their run folders are not committed, so users' values are made up, and the tests over users are left out."""
    plan = RESULTS / name / PLAN
    for path in (RESULTS / name / ROWS, plan):
        shutil.copy(path, tmp_path)
    models = {model.name: model for model in read_models(read_config(plan), plan, {})}
    for row in read_rows(tmp_path):
        config = build_config(models[row["model"]].on_dataset(row["dataset"]))
        Run.create(run_folder(tmp_path, row), config)
        values = {metric: np.full(3, value) for metric, value in row["test"].items()}
        np.savez(run_folder(tmp_path, row) / "users.npz", user=np.arange(3), **values)
    report = tables(tmp_path)[0].split(TESTS)
    committed = (RESULTS / name / "report.md").read_text().split(TESTS)
    assert report[0] == committed[0]
    assert len(report) == len(committed)
    over_seeds = [[line.split("|")[1:7] for line in each.splitlines()] for each in (*report[1:], *committed[1:])]
    assert over_seeds[: len(over_seeds) // 2] == over_seeds[len(over_seeds) // 2 :]


def test_the_papers_figures_are_in_tables_of_its_datasets(make):
    assert published_figures("yelp", "cvga", "mddm")["ndcg@20"] == 0.0826
    assert published_figures("steam", "mult-vae", None)["recall@10"] == 0.0929
    assert published_figures("tiny", "mult-vae", None) is None
    assert published_figures("yelp", None, None) is None
    folder = make(BOTH, "yelp")
    assert "| mult-vae, the paper's |  | 0.1189 | 0.0751 |" in tables(folder)[0]
    shutil.rmtree(folder / "yelp/mult-vae/seed-0")
    message = "has a row of .*yelp/mult-vae/seed-0, which is gone: run the experiment again"
    with pytest.raises(DmrecError, match=message):
        tables(folder)


def test_a_summary_has_means_and_deviations(make):
    first, second = summary(collect(make(BOTH, device="cpu", vectors="minilm", best_epoch=3))[0])
    assert first["test"]["recall@20"] == pytest.approx(0.21)
    assert second["test_deviation"]["recall@20"] == pytest.approx(np.std([0.25, 0.29], ddof=1))
    assert (first["seed"], first["vectors"], first["device"]) == ([0, 1], "minilm", "cpu")


def test_users_of_another_test_are_not_averaged(make):
    folder = make(BOTH)
    np.savez(folder / "d/mult-vae/seed-1/users.npz", user=np.arange(1, 4), **{"recall@20": np.zeros(3)})
    with pytest.raises(DmrecError, match="d: runs of mult-vae were tested on other users than those of mult-vae"):
        tables(folder)


def test_a_gain_is_over_the_seeds_of_both(make):
    markdown, latex = tables(make({"mult-vae": {"recall@20": {0: 0.2, 1: 0.1}}, "dmrec-m": {"recall@20": {0: 0.22}}}))
    assert "| dmrec-m over mult-vae |  | +10.00 % |" in markdown
    assert r"dmrec-m over mult-vae & +10.00 \% \\" in latex
    assert "means over 1 to 2 seeds" in latex


def test_metrics_without_users_and_bases_of_zero(make):
    figures = {m: {"recall@20": {0: r}, "coverage@20": {0: 0.5}} for m, r in (("mult-vae", 0.0), ("dmrec-m", 0.2))}
    markdown, _ = tables(make(figures), ["recall@20", "coverage@20"])
    assert "| dmrec-m over mult-vae |  | - | +0.00 % |" in markdown
    nothing = " - | - | - | [-, -] | - | - | - | [-, -] | - | - |"
    assert f"| d: dmrec-m - mult-vae | coverage@20 | 1 | +0.0000 |{nothing}" in markdown


def test_columns_are_what_all_runs_measured(make):
    folder = make({"mult-vae": {"recall@20": {0: 0.2}, "map@7": {0: 0.1}}, "dmrec-m": {"recall@20": {0: 0.2}}})
    assert "| model | seeds | recall@20 |\n" in tables(folder)[0]
    with pytest.raises(DmrecError, match="not all runs measured 'map@7'"):
        tables(folder, ["map@7"])


def test_names_are_escaped(make):
    name = r"R&D_50% #1 $x|y^~{}\z"
    markdown, latex = tables(make({"mult-vae": {"recall@20": {0: 0.2}}}, name))
    assert f"# {name}: test" in markdown
    escaped = r"R\&D\_50\% \#1 \$x|y\textasciicircum{}\textasciitilde{}\{\}\textbackslash{}z"
    assert f"Test figures on {escaped}: one seed" in latex


def test_what_runs_used_is_noted(make):
    figures = {"mult-vae": {"recall@20": {0: 0.2}}}
    make(figures, device="cpu", precision="bf16", vectors=None)
    markdown, _ = tables(make({"dmrec-m": {"recall@20": {0: 0.2}}}, device="cuda", precision="bf16", vectors="minilm"))
    assert "Text vectors: minilm. Products in bf16. Device: cpu, cuda." in markdown


def test_two_versions_of_a_dataset_are_not_compared(make, tmp_path):
    tables(make({"mult-vae": {"recall@20": {0: 0.2}}}, data={"train.npz": "a"}))
    make({"dmrec-m": {"recall@20": {0: 0.2}}}, data={"train.npz": "b"})
    with pytest.raises(DmrecError, match="holds runs on two versions of d, which cannot be compared"):
        tables(tmp_path)


def test_without_a_finished_run_the_report_gives_the_reasons(tmp_path):
    with pytest.raises(DmrecError, match="holds no rows of an experiment"):
        tables(tmp_path)
    append_row(tmp_path, {"dataset": "d", "model": "m", "seed": 0, "state": "failed", "started": 0, "error": "no luck"})
    with pytest.raises(DmrecError, match="no run has finished\n- d m 0: no luck"):
        tables(tmp_path)


def test_of_several_variants_validation_chooses(make):
    folder = make({name: {"recall@20": {0: r}} for name, r in (("mult-vae", 0.2), ("dmrec-g", 0.3), ("dmrec-m", 0.25))})
    rows = [{**row, "valid": {"recall@20": 0.5 if row["model"] == "dmrec-m" else 0.1}} for row in read_rows(folder)]
    (folder / ROWS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    markdown, _ = tables(folder)
    assert "| dmrec-m over mult-vae |  | +25.00 % |" in markdown
    assert "dmrec-g over mult-vae" not in markdown


def test_welch_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.random(4), 0.3 + 2 * rng.random(9)
    assert welch(a, b) == pytest.approx(scipy.stats.ttest_ind(b, a, equal_var=False).pvalue)
    assert math.isnan(welch(a[:1], b))
    assert math.isnan(welch(np.full(3, 0.1), np.full(3, 0.2)))


def test_the_interval_over_seeds_and_users_covers_both():
    """The variance of a difference of means: of users' differences over U, and of either model's seeds over S."""
    rng = np.random.default_rng(1)
    n_users, n_seeds, of_seeds, of_users = 4000, 40, 0.02, 0.5
    user = rng.standard_normal(n_users)
    a = 1 + of_seeds * rng.standard_normal((n_seeds, 1)) + user + of_users * rng.standard_normal((1, n_users))
    b = 1.1 + of_seeds * rng.standard_normal((n_seeds, 1)) + user + of_users * rng.standard_normal((1, n_users))
    means = resampled_means(np.concatenate([a, b]), 2000)
    assert means.shape == (2000, 2 * n_seeds)
    np.testing.assert_allclose(means.mean(axis=0), np.concatenate([a, b]).mean(axis=1), atol=0.005)
    found = two_level_interval(means[:, :n_seeds], means[:, n_seeds:])
    expected = math.sqrt(2 * of_users**2 / n_users + 2 * of_seeds**2 / n_seeds)
    assert found.high - found.low == pytest.approx(2 * 1.96 * expected, rel=0.15)
    assert found.low < b.mean() - a.mean() < found.high
    assert found.p < 0.01
    one = two_level_interval(means[:, :1], means[:, n_seeds : n_seeds + 1])  # users alone
    assert one.high - one.low == pytest.approx(2 * 1.96 * math.sqrt(2 / n_users) * of_users, rel=0.15)
    same = two_level_interval(means[:, :n_seeds], means[:, :n_seeds])
    assert same.low < 0 < same.high
    assert same.p > 0.9


def test_paired_tests_are_scipys():
    rng = np.random.default_rng(0)
    a = rng.random(40)
    b = a + 0.05 + 0.1 * rng.standard_normal(40)
    found = paired_test(a, b)
    assert found.p_t == pytest.approx(scipy.stats.ttest_rel(b, a).pvalue)
    assert found.p_wilcoxon == pytest.approx(scipy.stats.wilcoxon(b, a).pvalue)
    interval = scipy.stats.ttest_rel(b, a).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.effect == pytest.approx((b - a).mean() / (b - a).std(ddof=1))
    assert math.isnan(paired_test(a[:1], b[:1]).p_t)
    assert math.isnan(paired_test(a, a).p_t)
    rounded = np.where(np.arange(40) < 20, a + 1e-16, b)  # equal but for the rounding of a mean
    assert paired_test(a, rounded).p_wilcoxon == paired_test(a, np.where(np.arange(40) < 20, a, b)).p_wilcoxon


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    corrected = holm([math.nan, 0.02, 0.03])
    assert math.isnan(corrected[0])
    assert corrected[1:] == pytest.approx([0.04, 0.04])
    assert holm([]) == []
