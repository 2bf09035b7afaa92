"""The README's figures are those of the committed result files; its Python example runs."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "benchmarks/results"


def _rows(first_cells):
    """Table rows of the README by their first cell."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in README.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in cells if row[0] in first_cells}  # the last table with that cell


def test_quality_is_what_was_measured():
    rows = _rows(["popularity", "EASE", "Mult-VAE", "DMRec-M"])
    for label, file in zip(rows, ("popularity", "ease", "mult-vae", "dmrec-m"), strict=True):
        result = json.loads((RESULTS / f"amazon-scientific/{file}.json").read_text())
        figures = [f"{result['test'][m]:.4f}" for m in ("recall@10", "recall@20", "ndcg@10", "ndcg@20")]
        epochs, seconds = result.get("best_epoch"), result.get("seconds_per_epoch")
        assert rows[label] == [*figures, str(epochs or "-"), f"{seconds:.2f}" if seconds else "-"]


def test_speed_is_what_was_measured():
    ratios = {}
    for row in json.loads((RESULTS / "ops.json").read_text())["rows"]:
        name, workload = row["group"].split(" forward+backward, ")
        ratios.setdefault(f"`{name}`", {})[workload.split()[0], row["contender"]] = f"{row['times_ours']:.2f}"
    rows = [cells for cells in _rows(ratios).items() if len(cells[1]) == 6]
    assert len(rows) == len(ratios)
    for name, cells in rows:
        columns = [(workload, peer) for workload in ("batch", "large") for peer in ("eager", "compile", "floor")]
        assert cells == [ratios[name][column] for column in columns]


def test_the_python_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    scope = {}
    exec(code, scope)
    assert scope["kl"].shape == (1024,)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("word", ["demo", "test"])
def test_the_two_commands_are_targets(word):
    assert f"make {word}" in README
    assert re.search(rf"^{word}:", (ROOT / "Makefile").read_text(), re.M)
