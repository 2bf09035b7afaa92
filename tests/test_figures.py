"""The figures on their page are those of the committed result files."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/figures.md").read_text()
RESULTS = ROOT / "benchmarks/results"


def _rows(first_cells):
    """Table rows of the page by their first cell."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in cells if row[0] in first_cells}  # the last table with that cell


def _measured():
    """By group and contender: times our time, as printed."""
    rows = json.loads((RESULTS / "ops.json").read_text())["rows"]
    return {(row["group"], row["contender"]): f"{row['times_ours']:.2f}" for row in rows}


def test_speed_of_the_divergences_is_what_was_measured():
    measured = _measured()
    names = {group.split(" forward+backward, ")[0] for group, _ in measured if " forward+backward, batch" in group}
    rows = {name: cells for name, cells in _rows([f"`{name}`" for name in names]).items() if len(cells) == 6}
    assert len(rows) == len(names)
    for name, cells in rows.items():
        groups = [f"{name.strip('`')} forward+backward, {size}" for size in ("batch (1024, 200)", "large (16384, 256)")]
        assert cells == [measured[group, peer] for group in groups for peer in ("eager", "compile", "floor")]


def test_speed_of_csr_aggregate_is_what_was_measured():
    measured = _measured()
    groups = {group.removeprefix("csr_aggregate ") for group, _ in measured if group.startswith("csr_aggregate ")}
    rows = _rows(groups)
    assert set(rows) == groups
    for group, cells in rows.items():
        peers = ("embedding_bag", "torch CSR", "torch CSR, out=", "scipy", "floor")
        assert cells == [measured.get((f"csr_aggregate {group}", peer), "-") for peer in peers]


def test_speed_over_all_items_is_what_was_measured():
    measured = _measured()
    for operator, peers in {
        "rank_topk": ("ours, bf16", "product", "product + topk", "faiss", "implicit", "floor"),
        "multinomial_nll forward+backward": ("ours, bf16", "dense", "dense, compiled", "linear_cross_entropy", "floor"),
    }.items():
        section = PAGE[PAGE.index(f"\n`{operator.split()[0]}`, ") + 1 :]
        for size in re.findall(r"^\| (\(\d.+?\)) \|", section.split("\n\n")[1], re.M):
            cells = re.search(rf"^\| {re.escape(size)} \|(.*)\|$", section, re.M)[1].split("|")
            expected = [measured.get((f"{operator}, {size}", peer), "-") for peer in peers]
            assert [cell.strip() for cell in cells] == expected


def test_speed_of_a_training_step_is_what_was_measured():
    measured = _measured()
    peers = ("ours, bf16", "reference", "dense", "dense, bf16")
    cells = [measured["training step of DMRec-M, 1,024 users, 11,010 items, vectors 1536 wide", peer] for peer in peers]
    assert _rows(["11,010 items, vectors 1536 wide"]) == {"11,010 items, vectors 1536 wide": cells}


def test_growth_with_the_catalogue_is_what_was_measured():
    for row in json.loads((RESULTS / "million.json").read_text()):
        figures = [row["ms_per_step"], row["step_floor_ms"], row["ranking_seconds"], row["peak_mb"]]
        cells = [f"{row['items']:,}", *map(str, figures), str(row["weights_and_adam_mb"])]
        assert f"| {' | '.join(cells)} |" in PAGE
