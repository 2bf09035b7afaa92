"""The report as a page: what it shows is what was measured, it needs nothing from elsewhere, and it can be read."""

import json
import re
import shutil

import numpy as np
import pytest
import tiny
from dmrec.cli.main import main
from dmrec.eval.groups import equal_groups
from dmrec.experiment.plan import read_plan
from dmrec.experiment.report.contents import contents
from dmrec.experiment.report.figures import figures
from dmrec.experiment.report.html import html, renderer
from dmrec.experiment.report.sentences import sentences
from dmrec.experiment.runner import run_jobs_here
from dmrec.experiment.worker import train_or_resume

vl_convert = pytest.importorskip("vl_convert", reason="vl-convert is not installed")
SMALL = "model: {hidden: 24, latent: 6}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of two seeds: a base, a variant, a sweep, models without training; one name has markup in it."""
    path = tmp_path_factory.mktemp("report")
    tiny.make(path / "data", n_users=200)
    manifest = json.loads((path / "data/manifest.json").read_text())
    (path / "data/manifest.json").write_text(json.dumps({**manifest, "name": "A<b>&B"}))
    text = (
        f"datasets: [{path / 'data'}]\nseeds: 2\nagainst: [ease]\n"
        "training: {epochs: 9, batch_size: 40, learning_rate: 0.01}\n"
        f"models:\n  popularity:\n  ease:\n  mult-vae: {{{SMALL}}}\n"
        f"  dmrec-m: {{{SMALL}, language: {{hidden: 24}}, sweep: {{matching.beta: [0, 0.5, 1]}}}}\n"
        f"  dmrec-g: {{{SMALL}, language: {{hidden: 24}}}}\n"
    )
    (path / "experiment.yaml").write_text(text)
    jobs = read_plan(path / "experiment.yaml", path).jobs()
    run_jobs_here(jobs, path, lambda job: train_or_resume(job.folder, print), lambda line: None)
    return path


@pytest.fixture(scope="module")
def page(folder):
    return html(contents(folder), renderer())


def by_name(folder):
    return {figure.name.removeprefix("A-b-B-"): figure for figure in figures(contents(folder))}


def test_figures_show_what_was_measured(folder):
    found, made = contents(folder), by_name(folder)
    assert list(made) == [
        *("models", "against-mult-vae", "against-ease", "groups", "curves-epoch", "curves-seconds"),
        *("sweep-beta", "activity"),
    ]
    lines = {line.model: line for line in found.sections[0].lines}
    layers = made["models"].spec["layer"]
    shown = {row["model"]: row["value"] for row in layers[0]["data"]["values"]}
    far = re.findall(r"([\w.@=-]+) \(([\d.]+)\)", made["models"].caption)
    assert {name: pytest.approx(line.means["recall@20"], abs=5e-5) for name, line in lines.items()} == {
        **shown,
        **{name: float(value) for name, value in far},
    }
    seeds = [row for row in layers[1]["data"]["values"] if row["model"] == "dmrec-g"]
    assert [row["value"] for row in seeds] == lines["dmrec-g"].cell.values("recall@20")
    for row in layers[0]["data"]["values"]:
        assert row["low"] <= row["value"] <= row["high"]
    differences = made["against-mult-vae"].spec["layer"][0]["data"]["values"]
    base = lines["mult-vae"].means["recall@20"]
    for row in differences:
        assert row["difference"] == pytest.approx(lines[row["model"]].means["recall@20"] - base)
        assert row["low"] < row["difference"] < row["high"]
    points = made["sweep-beta"].spec["layer"][0]["data"]["values"]
    assert [(point["at"], point["test"]) for point in points] == [
        (beta, lines[f"dmrec-m@beta={beta:g}"].means["recall@20"]) for beta in (0, 0.5, 1)
    ]
    (ring,) = made["sweep-beta"].spec["layer"][-1]["data"]["values"]
    assert ring["at"] == max(points, key=lambda point: point["validation"])["at"]
    best = made["curves-epoch"].spec["layer"][-1]["data"]["values"]
    assert {(row["model"], row["seed"], row["epoch"]) for row in best} == {
        (line.model, seed, row["best_epoch"])
        for line in lines.values()
        for seed, row in line.cell.rows.items()
        if "best_epoch" in row and line.model in {row["model"] for row in best}
    }
    assert "dmrec-g, fused: " in json.dumps(made["activity"].spec)


def test_seconds_are_compared_only_where_runs_took_turns(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    rows = [json.loads(line) for line in (copy / "rows.jsonl").read_text().splitlines()]
    assert all(row["workers"] == 1 for row in rows)
    rows[-1]["workers"] = 2
    (copy / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "curves-epoch" in by_name(copy)
    assert "curves-seconds" not in by_name(copy)


def test_groups_share_interactions():
    lengths = np.array([1] * 40 + [2] * 20 + [5] * 8 + [40])
    assert equal_groups(lengths, 4).tolist() == [0] * 40 + [1] * 20 + [2] * 8 + [3]
    assert set(equal_groups(np.full(9, 3), 4).tolist()) == {2}


def test_specifications_compile_without_a_warning(folder, capfd):
    for figure in by_name(folder).values():
        vl_convert.vegalite_to_vega(json.dumps(figure.spec), vl_version="5.21")
    assert "WARN" not in "".join(capfd.readouterr())


def test_the_page_needs_nothing_from_elsewhere(page):
    assert "<script" not in page
    assert not re.findall(r"\bsrc=|@import|url\((?!#)|href=\"(?!#)", page)
    assert """content="default-src 'none'; style-src 'unsafe-inline'\"""" in page
    assert "A<b>" not in page
    assert "A&lt;b&gt;&amp;B" in page
    assert page.count("<figure>") == 8
    assert len(page) < 1_000_000


def test_the_same_runs_make_the_same_page(folder, page):
    assert html(contents(folder), renderer()) == page


def test_without_vl_convert_the_page_has_the_tables(folder):
    page = html(contents(folder), None)
    assert "<figure>" not in page
    assert "pip install 'dmrec[report]'" in page
    assert "<td>mult-vae</td>" in page


def test_sentences_claim_what_intervals_allow(folder):
    found = contents(folder)
    first, second, *gains = sentences(found, found.sections[0])
    best = max(found.sections[0].lines, key=lambda line: line.means["recall@20"])
    assert first == f"{best.model} has the highest recall@20, {best.means['recall@20']:.4f}."
    assert re.match(r"It is above \d of 6 others; the nearest of these is|It is above the 6 other models", second)
    assert "popularity" not in second.partition("level with")[2]
    (gain,) = found.sections[0].gains
    tested = next(
        each
        for each in found.sections[0].tested
        if (each.comparison.variant, each.comparison.base) == (gain.variant, "mult-vae")
        and each.comparison.metric == "recall@20"
    )
    c = tested.comparison
    relation = "level with" if c.both.low < 0 < c.both.high or tested.over_both >= 0.05 else "above"
    chosen = f"{gain.variant}, which validation prefers of its variants, is {relation} its base mult-vae ("
    assert gains[0].startswith(chosen)
    assert gains[0].endswith("after Holm's correction).")


def test_the_command_writes_page_and_figures(folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(
            ["experiment", "report", str(folder), "--html", str(tmp_path / "r.html"), "--figures", str(tmp_path / "f")]
        )
    assert not stopped.value.code
    assert "16 files" in capsys.readouterr().err
    assert (tmp_path / "r.html").read_text().startswith("<!DOCTYPE html>")
    assert (tmp_path / "f/A-b-B-models.pdf").read_bytes().startswith(b"%PDF")
    assert json.loads((tmp_path / "f/A-b-B-models.json").read_text())["layer"]


OVERLAPS = """
const boxes = [...document.querySelectorAll('figure svg')].map(svg =>
  [...svg.querySelectorAll('text')].map(text => text.getBoundingClientRect()));
let found = 0;
for (const labels of boxes) for (let i = 0; i < labels.length; i++) for (let j = 0; j < i; j++) {
  const a = labels[i], b = labels[j];
  if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1) found++;
}
return found;
"""


@pytest.mark.browser
def test_in_a_browser(folder, page, tmp_path):
    """Nothing is requested, nothing overlaps or overflows at two widths, numbers are those of the table; it prints."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("Chromium and its driver are not installed (Debian: chromium, chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    path = tmp_path / "report.html"
    path.write_text(page)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(service=webdriver.ChromeService(driver), options=options)
    try:
        for width in (1280, 390):
            metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            chrome.get(path.as_uri())
            assert chrome.execute_script("return document.documentElement.scrollWidth") <= width
            widths = chrome.execute_script(
                "return [...document.querySelectorAll('figure svg')].map(svg => svg.getBoundingClientRect().width)"
            )
            assert len(widths) == 8
            assert min(widths) > 300
            assert chrome.execute_script(OVERLAPS) == 0
        requested = [
            message["params"]["request"]["url"]
            for message in (json.loads(entry["message"])["message"] for entry in chrome.get_log("performance"))
            if message["method"] == "Network.requestWillBeSent"
        ]
        assert set(requested) == {path.as_uri()}
        assert chrome.get_log("browser") == []
        found = contents(folder)
        best = max(found.sections[0].lines, key=lambda line: line.means["recall@20"])
        titles = chrome.execute_script("return [...document.querySelectorAll('svg title')].map(t => t.textContent)")
        shown = [title for title in titles if f"model: {best.model}" in title and "value: " in title]
        assert float(re.search(r"value: ([\d.]+)", shown[0])[1]) == pytest.approx(best.means["recall@20"], abs=5e-5)
        assert len(chrome.print_page()) > 10_000
    finally:
        chrome.quit()
