"""The README's figures are those of the committed result files; its Python example runs."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "benchmarks/results"
CONTENDERS = {
    "eager torch": "eager",
    "torch.compile": "compile",
    "torch.distributions": "distributions",
    "a copy of as many bytes": "floor",
}


def _rows(first_cells):
    """Table rows of the README by their first cell."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in README.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in cells if row[0] in first_cells}


def test_quality_is_what_was_measured():
    rows = _rows(["popularity", "EASE", "Mult-VAE", "DMRec-M"])
    for label, file in zip(rows, ("popularity", "ease", "mult-vae", "dmrec-m"), strict=True):
        result = json.loads((RESULTS / f"amazon-scientific/{file}.json").read_text())
        figures = [f"{result['test'][m]:.4f}" for m in ("recall@10", "recall@20", "ndcg@10", "ndcg@20")]
        epochs, seconds = result.get("best_epoch"), result.get("seconds_per_epoch")
        assert rows[label] == [*figures, str(epochs or "-"), f"{seconds:.2f}" if seconds else "-"]


def test_speed_is_what_was_measured():
    rows = json.loads((RESULTS / "ops.json").read_text())["rows"]
    groups = list(dict.fromkeys(row["group"] for row in rows if row["group"].startswith("gaussian_kl ")))
    for contender, key in CONTENDERS.items():
        by_group = {row["group"]: row["times_ours"] for row in rows if row["contender"] == key}
        assert _rows([contender])[contender] == [f"{by_group[group]:.2f}" for group in groups]


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
